// SPDX-License-Identifier: Apache-2.0

// Command hyvve-dev runs a Vault dev server with the engine at hyvve/ in the foreground, until Ctrl-C.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const help = `Usage: hyvve-dev

Runs a Vault dev server with the engine at hyvve/ in the foreground, says what to try, and removes all on Ctrl-C.
"make dev" builds what it needs and runs it.

Environment:
  HYVVE_DEV_LISTEN   HOST:PORT for Vault to listen on; a free port of 127.0.0.1 otherwise
`

func main() {
	ctx, stop := bed.Context()
	status := usage.Run(ctx, usage.WithVersion(usage.New("hyvve-dev", "", help, func(cmd *cobra.Command, _ []string) error { return run(cmd.Context()) }), version.Version), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// listenOn is the environment variable that says where Vault listens.
const listenOn = "HYVVE_DEV_LISTEN"

// free refuses an address that Vault could not listen at: at one in use, whatever listens there would be taken for it.
func free(address string) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w; write HOST:PORT with a port that is free, such as 127.0.0.1:8200, or end what listens there", listenOn, err)
	}
	return l.Close()
}

func run(ctx context.Context) (err error) {
	if err := free(os.Getenv(listenOn)); err != nil {
		return err
	}
	b, err := bed.New("dev", os.Stdout)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	v, err := b.Vault(ctx, bed.VaultOptions{Addr: os.Getenv(listenOn)})
	if err != nil {
		return err
	}
	// A demonstration should not wait: these are shorter than the defaults.
	if _, err := v.Client.Logical().WriteWithContext(ctx, "hyvve/config", map[string]any{"soak": "5s", "observe": "5s"}); err != nil {
		return err
	}
	binary, err := bed.VaultBinary()
	if err != nil {
		return err
	}
	fmt.Printf(`
Vault runs with the engine at hyvve/. Its log: %s

In another terminal:

  export VAULT_ADDR=%s VAULT_TOKEN=%s
  alias vault=%s

  vault write hyvve/presets/hyvve generate=true min_instances=0
  vault read hyvve/status
  vault write hyvve/rotate key=agent-service-token wait=30s
  vault path-help hyvve/rotate

Ctrl-C stops it and removes all it has stored.
`, v.LogPath, v.Addr, v.Token, binary)
	select {
	case <-ctx.Done():
		fmt.Println("stopping")
		return nil
	case <-v.Done():
		return errors.New("the server has ended by itself")
	}
}
