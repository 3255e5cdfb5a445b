// SPDX-License-Identifier: Apache-2.0

// Command vault-plugin-secrets-hyvve is the HYVVE secrets engine, started by Vault.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	vaultplugin "github.com/hashicorp/vault/sdk/plugin"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/plugin"
)

func main() {
	meta := &api.PluginAPIClientMeta{}
	flags := meta.FlagSet()
	showVersion := flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() {
		fmt.Fprintln(os.Stderr, "vault-plugin-secrets-hyvve is started by Vault; register it with \"vault plugin register\" and enable it with \"vault secrets enable -path=hyvve\".")
		flags.PrintDefaults()
	}
	if err := flags.Parse(os.Args[1:]); err != nil {
		os.Exit(2)
	}
	if *showVersion {
		fmt.Println("vault-plugin-secrets-hyvve", version.Version)
		return
	}
	if err := proc.Harden(); err != nil {
		hclog.Default().Warn("another process of Vault's user may read the plugin's memory", "error", err) // some sandbox forbids it
	}
	go endWithParent(os.Getppid())
	err := vaultplugin.ServeMultiplex(&vaultplugin.ServeOpts{
		BackendFactoryFunc: plugin.Factory,
		TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
	if err != nil {
		hclog.Default().Error("plugin is shutting down", "error", err)
		os.Exit(1)
	}
}

// endWithParent ends this process when the Vault that started it is gone. Vault ends its plugins when it stops in good
// order; killed, it would leave them running forever. The kernel's own signal for this cannot be used: it is sent when
// the thread ends that forked us, which in a Go program is not the process.
func endWithParent(parent int) {
	for range time.Tick(time.Second) {
		if os.Getppid() != parent {
			hclog.Default().Warn("Vault is gone; the plugin ends with it")
			os.Exit(1)
		}
	}
}
