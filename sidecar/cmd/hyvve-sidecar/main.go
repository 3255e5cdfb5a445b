// SPDX-License-Identifier: Apache-2.0

// Command hyvve-sidecar runs beside a workload instance.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/proxy"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

const help = `Usage: hyvve-sidecar COMMAND [flags]

  agent       render files, make the workload reload, check its health, report
  exec        run the workload itself, with its keys in its environment; restart it when they change
  proxy       accept every accepted token before an application that holds one
  reencrypt   re-encrypt the platform's envelopes in PostgreSQL, by hand
  status      ask a sidecar that runs how it is
  install     copy this program to another place, such as a volume that another container runs it from
  validate    check a configuration of agent or exec
  version     print the version

"hyvve-sidecar COMMAND --help" has the flags of each.
`

func main() {
	proc.SpareMemory()
	if err := proc.Private(); err != nil {
		fmt.Fprintln(os.Stderr, "hyvve-sidecar:", err) // and goes on: some sandbox forbids it
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, help)
		return 2
	}
	switch args[0] {
	case "agent":
		return agent.Command(ctx, args[1:], os.Stdout, os.Stderr)
	case "exec":
		return agent.Exec(ctx, args[1:], os.Stdout, os.Stderr)
	case "proxy":
		return proxy.Command(ctx, args[1:], os.Stdout, os.Stderr)
	case "reencrypt":
		return reencrypt.Command(ctx, args[1:], os.Getenv, os.Stdout, os.Stderr)
	case "status":
		return agent.Status(ctx, args[1:], os.Stdout, os.Stderr)
	case "install":
		return install(args[1:], os.Stdout, os.Stderr)
	case "validate":
		return agent.Validate(args[1:], os.Stdout, os.Stderr)
	case "version", "--version", "-version":
		if len(args) > 1 {
			fmt.Fprintf(os.Stderr, "hyvve-sidecar version: %q is not wanted; it takes nothing\n", args[1])
			return 2
		}
		fmt.Println("hyvve-sidecar", version.Version)
		return 0
	case "help", "--help", "-help", "-h":
		fmt.Print(help)
		return 0
	}
	commands := []string{"agent", "exec", "proxy", "reencrypt", "status", "install", "validate", "version", "help"}
	fmt.Fprintf(os.Stderr, "hyvve-sidecar: command %q is not known%s\n\n%s", args[0], usage.DidYouMean(args[0], commands), help)
	return 2
}
