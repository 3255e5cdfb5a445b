// SPDX-License-Identifier: Apache-2.0

// Command hyvve-bench runs the benchmarks.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/bench"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

func main() {
	pattern := flag.String("run", ".", "run only benchmarks whose name matches this regular `expression`")
	flag.Parse()
	match, err := regexp.Compile(*pattern)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hyvve-bench: -run:", err)
		os.Exit(2)
	}
	ctx, stop := testbed.Context()
	err = bench.Run(ctx, match, os.Stdout, testbed.Tool("bench.json"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hyvve-bench:", err)
		os.Exit(1)
	}
}
