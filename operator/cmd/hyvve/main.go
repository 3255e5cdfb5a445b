// SPDX-License-Identifier: Apache-2.0

// Command hyvve shows keys and rotations to a person, and does what that person decides.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := usage.Run(ctx, command.New(), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}
