// SPDX-License-Identifier: Apache-2.0

// Command vault-plugin-secrets-hyvve is the HYVVE secrets engine, started by Vault.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	vaultplugin "github.com/hashicorp/vault/sdk/plugin"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/plugin"
)

const name = "vault-plugin-secrets-hyvve"

func main() {
	meta := &api.PluginAPIClientMeta{}
	if status, ends := answers(meta.FlagSet(), os.Args[1:], os.Stdout); ends {
		os.Exit(status)
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

// answers answers a person who runs the plugin: with its help text or its version. It reports the exit status, and whether that is
// all.
func answers(flags *flag.FlagSet, args []string, out io.Writer) (status int, ends bool) {
	flags.Init(name, flag.ContinueOnError)
	flags.SetOutput(out)
	show := flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() {
		_, _ = fmt.Fprintln(out, name+" is started by Vault; register it with \"vault plugin register\" and enable it with \"vault secrets enable -path=hyvve\".")
		flags.PrintDefaults()
	}
	word := len(args) > 0 && args[0] == "version"
	if word {
		args = args[1:]
	}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0, true
	case err != nil:
		return 2, true
	case *show || word:
		_, _ = fmt.Fprintln(out, name, version.Version)
		return 0, true
	}
	return 0, false
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
