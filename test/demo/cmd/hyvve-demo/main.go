// SPDX-License-Identifier: Apache-2.0

// Command hyvve-demo runs the demo. It is the demo's workloads too, which it starts as processes of their own.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/demo"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform/app"
)

const help = `Usage: hyvve-demo

Rotates every key of a small HYVVE under load, on real parts, and writes what happened to build/demo/summary.json.
"make demo" builds what it needs and runs it. It takes api and agents as arguments too, which are for its own use.
`

func main() {
	root := usage.New("hyvve-demo", "", help, func(cmd *cobra.Command, _ []string) error {
		err := demo.Run(cmd.Context(), cmd.OutOrStdout(), bed.Tool("demo", "summary.json"))
		if err != nil && cmd.Context().Err() != nil {
			err = errors.New("interrupted; all that it had started is stopped")
		}
		return err
	})
	root = usage.WithVersion(root, version.Version)
	root.AddCommand(newWorkload("api", app.API), newWorkload("agents", app.Agents))
	ctx, stop := bed.Context()
	status := usage.Run(ctx, root, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// newWorkload returns the command of one of the demo's workloads, which it starts as a process of its own.
func newWorkload(name string, run func(context.Context, app.Options) error) *cobra.Command {
	var o app.Options
	cmd := usage.New("hyvve-demo "+name, "run a workload of the demo; for its own use", "Usage: hyvve-demo "+name+" [flags]\n", func(cmd *cobra.Command, _ []string) error {
		return run(cmd.Context(), o)
	})
	flags := cmd.Flags()
	flags.StringVar(&o.Instance, "instance", "", "how it calls itself at servers")
	flags.StringVar(&o.Address, "address", "", "host:port to serve on")
	flags.StringVar(&o.Bundle, "bundle", "", "file that the sidecar renders")
	flags.StringVar(&o.PIDFile, "pid-file", "", "file for the process number")
	flags.StringSliceVar(&o.API, "api", nil, "URLs of the api's instances")
	return cmd
}
