// SPDX-License-Identifier: Apache-2.0

// Command hyvve-bench runs the benchmarks.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bench"
)

const help = `Usage: hyvve-bench [--run=EXPRESSION]

Measures ours against its peers on real parts, prints a table, and writes it to build/bench.json. docs/benchmarks.md says what each
name is. "make bench" builds what it needs and runs all.
`

func main() {
	flags := flag.NewFlagSet("hyvve-bench", flag.ContinueOnError)
	pattern := flags.String("run", ".", "run only benchmarks whose name matches this regular `EXPRESSION`")
	if ok, status := usage.Parse(flags, os.Args[1:], help, os.Stdout, os.Stderr); !ok {
		os.Exit(status)
	}
	match, err := regexp.Compile(*pattern)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hyvve-bench: --run:", err)
		os.Exit(2)
	}
	ctx, stop := bed.Context()
	err = bench.Run(ctx, match, os.Stdout, bed.Tool("bench.json"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hyvve-bench:", err)
		os.Exit(1)
	}
}
