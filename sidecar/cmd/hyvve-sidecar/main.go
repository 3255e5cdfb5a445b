// SPDX-License-Identifier: Apache-2.0

// Command hyvve-sidecar runs beside a workload instance.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/proxy"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
)

const help = `Usage: hyvve-sidecar COMMAND [flags]

"hyvve-sidecar COMMAND --help" has the flags of each.
`

func main() {
	proc.SpareMemory()
	if err := proc.Private(); err != nil {
		fmt.Fprintln(os.Stderr, "hyvve-sidecar:", err) // and continues: some sandbox forbids it
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := usage.Run(ctx, newRoot(), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func newRoot() *cobra.Command {
	return usage.NewRoot("hyvve-sidecar", version.Version, help,
		agent.NewCommand(),
		agent.NewExec(),
		proxy.NewCommand(),
		reencrypt.NewCommand(os.Getenv),
		agent.NewStatus(),
		newInstall(),
		agent.NewValidate(),
	)
}
