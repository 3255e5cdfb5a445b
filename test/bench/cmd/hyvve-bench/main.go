// SPDX-License-Identifier: Apache-2.0

// Command hyvve-bench runs the benchmarks.
package main

import (
	"fmt"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bench"
)

const help = `Usage: hyvve-bench [--run=EXPRESSION]

Measures ours against its peers on real parts, prints a table, and writes it to build/bench.json. docs/benchmarks.md says what each
name is. "make bench" builds what it needs and runs all.
`

func main() {
	var pattern string
	cmd := usage.New("hyvve-bench", "", help, func(cmd *cobra.Command, _ []string) error {
		match, err := regexp.Compile(pattern)
		if err != nil {
			return usage.Wrong(fmt.Errorf("--run: %w", err))
		}
		return bench.Run(cmd.Context(), match, cmd.OutOrStdout(), bed.Tool("bench.json"))
	})
	cmd.Flags().StringVar(&pattern, "run", ".", "run only benchmarks whose name matches this regular `EXPRESSION`")
	ctx, stop := bed.Context()
	status := usage.Run(ctx, usage.WithVersion(cmd, version.Version), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}
