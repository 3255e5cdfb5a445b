// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// file reads the file or text, if any, and sets the options that flags name. The other options of a block keep what the file says.
func (c *commandFlags) file() (config.File, error) {
	f, err := load(c.config, c.text)
	if err != nil {
		return f, err
	}
	auth, err := c.auth()
	if err != nil {
		return f, err
	}
	if auth.Method != "" || c.address != "" || c.mount != "" {
		c.overVault(&f, auth)
	}
	override(&f.Workload, c.workload)
	override(&f.Instance, c.instance)
	if c.dotenv != "" {
		f.Render = append(f.Render, config.RenderBlock{Format: "dotenv", Path: c.dotenv})
	}
	if c.bundle != "" {
		f.Render = append(f.Render, config.RenderBlock{Format: "bundle", Path: c.bundle})
	}
	if c.watch != "" {
		if f.Watch == nil {
			f.Watch = &config.WatchBlock{}
		}
		f.Watch.Paths = []string{c.watch}
	}
	if c.exec != nil {
		c.exec.over(&f)
	}
	if c.statusSocket != "" || c.statusListen != "" {
		if f.Status == nil {
			f.Status = &config.StatusBlock{}
		}
		override(&f.Status.Socket, c.statusSocket)
		override(&f.Status.Listen, c.statusListen)
	}
	return f, errors.Join(c.overReload(&f), c.overHealth(&f), c.overReencrypt(&f))
}

// override sets an option to the value of a flag, if that was set.
func override(option *string, value string) {
	if value != "" {
		*option = value
	}
}

func (c *commandFlags) overVault(f *config.File, auth config.AuthBlock) {
	if f.Vault == nil {
		f.Vault = &config.VaultBlock{}
	}
	override(&f.Vault.Address, c.address)
	override(&f.Vault.Mount, c.mount)
	b := &f.Vault.Auth
	switch auth.Method {
	case "":
	case b.Method:
		override(&b.Path, auth.Path)
		override(&b.RoleIDFile, auth.RoleIDFile)
		override(&b.SecretIDFile, auth.SecretIDFile)
		override(&b.Role, auth.Role)
		override(&b.CertFile, auth.CertFile)
		override(&b.KeyFile, auth.KeyFile)
	default:
		*b = auth
	}
}

// overReload sets the options of --pid-file and --signal.
func (c *commandFlags) overReload(f *config.File) error {
	if c.pidFile != "" {
		if f.Reload == nil {
			f.Reload = &config.ReloadBlock{Method: "signal"}
		}
		b := f.Reload
		switch {
		case b.Method != "signal":
			return conflict("--pid-file", `pid_file of reload "signal"`, fmt.Sprintf("reload %q", b.Method))
		case b.Process != "" || b.Cmdline != "":
			return conflict("--pid-file", `pid_file of reload "signal"`, "process or cmdline there")
		}
		b.PIDFile = c.pidFile
	}
	switch {
	case c.signal == "":
	case f.Exec != nil:
		f.Exec.Signal = c.signal
	case f.Reload == nil:
		return errors.New("--signal needs --pid-file")
	case f.Reload.Method != "signal":
		return conflict("--signal", `signal of reload "signal"`, fmt.Sprintf("reload %q", f.Reload.Method))
	default:
		f.Reload.Signal = c.signal
	}
	return nil
}

// overHealth sets the URL of the one check by HTTP.
func (c *commandFlags) overHealth(f *config.File) error {
	if c.health == "" {
		return nil
	}
	if len(f.Health) == 0 {
		f.Health = []config.HealthBlock{{Method: "http"}}
	}
	var found *config.HealthBlock
	for n := range f.Health {
		if b := &f.Health[n]; b.Method == "http" {
			if found != nil {
				return conflict("--health-url", `the url of a health "http" block`, "several of them")
			}
			found = b
		}
	}
	if found == nil {
		return conflict("--health-url", `the url of a health "http" block`, fmt.Sprintf("health %q", f.Health[0].Method))
	}
	found.URL = c.health
	return nil
}

// overReencrypt sets the file that holds the URL of the database.
func (c *commandFlags) overReencrypt(f *config.File) error {
	if c.databaseURL == "" {
		return nil
	}
	if f.Reencrypt == nil {
		f.Reencrypt = &config.ReencryptBlock{}
	}
	if b := f.Reencrypt; b.DatabaseURLKey != "" || b.DatabaseURLEnv != "" {
		return conflict("--database-url-file", "database_url_file of reencrypt", "database_url_key or database_url_env there")
	}
	f.Reencrypt.DatabaseURLFile = c.databaseURL
	return nil
}

// conflict is the error of a flag whose option has no place beside what the file has.
func conflict(flag, sets, has string) error {
	return fmt.Errorf("%s sets %s, and the configuration has %s; leave out the flag, or change the configuration", flag, sets, has)
}
