// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

// Mount is where the engine is enabled.
const Mount = "hyvve"

// PluginName is the engine's name in Vault's catalog, and of its binary.
const PluginName = "vault-plugin-secrets-hyvve"

// VaultOptions say how Vault is started.
type VaultOptions struct {
	Durable bool   // file storage, initialized and unsealed by us, so that it can be killed and started again
	Audit   bool   // to AuditPath
	NoMount bool   // leave enabling the engine to the caller
	Addr    string // host:port to listen on; a free one if empty
}

// Vault is a private Vault server.
type Vault struct {
	Addr      string // URL
	Token     string // root token
	LogPath   string
	AuditPath string
	Client    *api.Client // with the root token

	bed     *Bed
	spec    spec
	process *process
	unseal  string // key, where durable
}

// VaultBinary finds the server: the one that scripts/setup built, or that of PATH.
func VaultBinary() (string, error) {
	if path := Tool("tools", "vault"); exists(path) {
		return path, nil
	}
	if path, err := exec.LookPath("vault"); err == nil {
		return path, nil
	}
	return "", errors.New("no vault binary: run scripts/setup (make test, make demo and make dev do)")
}

// Vault starts a server, unsealed, with the engine enabled at hyvve/.
func (b *Bed) Vault(ctx context.Context, o VaultOptions) (*Vault, error) {
	binary, err := VaultBinary()
	if err != nil {
		return nil, err
	}
	if !exists(Tool("plugins", PluginName)) {
		return nil, fmt.Errorf("%s is not built; run: make build", Tool("plugins", PluginName))
	}
	listen := o.Addr
	if listen == "" {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		listen = fmt.Sprintf("127.0.0.1:%d", port)
	}
	home, err := os.MkdirTemp(b.Dir, "vault-")
	if err != nil {
		return nil, err
	}
	v := &Vault{Addr: "http://" + listen, AuditPath: filepath.Join(home, "audit.log"), bed: b}
	v.spec = spec{
		name: filepath.Base(home), path: binary, dir: home, stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
		env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home},
	}
	if v.Client, err = client(v.Addr); err != nil {
		return nil, err
	}
	b.say("starting Vault on %s", listen)
	if o.Durable {
		err = v.prepareDurable(home, listen)
	} else {
		err = v.prepareDev(listen)
	}
	if err != nil {
		return nil, err
	}
	if err := v.Start(ctx); err != nil {
		return nil, err
	}
	return v, v.equip(ctx, o)
}

// client takes nothing from the environment but what it is told.
func client(addr string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address, config.MaxRetries = addr, 0
	c, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a Vault client: %w", err)
	}
	c.ClearToken()
	c.ClearNamespace()
	return c, nil
}

// prepareDev sets up the dev server with the repository's vault-dev.hcl. The root token goes by the environment, which
// other users cannot read.
func (v *Vault) prepareDev(listen string) error {
	v.Token = "dev-" + randomHex(16)
	v.Client.SetToken(v.Token)
	v.spec.env = append(v.spec.env, "VAULT_DEV_ROOT_TOKEN_ID="+v.Token)
	v.spec.args = []string{
		"server", "-dev", "-dev-no-store-token", "-dev-listen-address=" + listen,
		"-dev-plugin-dir=" + Tool("plugins"), "-config=" + filepath.Join(Repo(), "vault-dev.hcl"),
	}
	return nil
}

func (v *Vault) prepareDurable(home, listen string) error {
	data := filepath.Join(home, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	cluster, err := FreePort()
	if err != nil {
		return err
	}
	config := map[string]any{
		"storage":          map[string]any{"raft": map[string]any{"path": data, "node_id": "one"}},
		"listener":         map[string]any{"tcp": map[string]any{"address": listen, "tls_disable": true}},
		"plugin_directory": Tool("plugins"),
		"api_addr":         v.Addr,
		"cluster_addr":     fmt.Sprintf("http://127.0.0.1:%d", cluster),
		"disable_mlock":    true,
		"ui":               false,
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	path := filepath.Join(home, "vault.json")
	v.spec.args = []string{"server", "-config=" + path}
	return os.WriteFile(path, text, 0o600)
}

// Start starts the server, anew after Stop or Kill with what a durable one has stored, and unseals it.
func (v *Vault) Start(ctx context.Context) error {
	var err error
	if v.process, err = v.bed.start(v.spec); err != nil {
		return err
	}
	v.LogPath = v.process.log
	return v.process.await(ctx, func(ctx context.Context) error {
		health, err := v.Client.Sys().HealthWithContext(ctx)
		switch {
		case err != nil:
			return err
		case !health.Initialized:
			return v.initialize(ctx)
		case health.Sealed && v.unseal != "":
			if _, err := v.Client.Sys().UnsealWithContext(ctx, v.unseal); err != nil {
				return err
			}
			return errors.New("unsealing")
		case health.Sealed || health.Standby:
			return errors.New("sealed or standby")
		}
		return nil
	})
}

func (v *Vault) initialize(ctx context.Context) error {
	if v.unseal != "" || v.Token != "" {
		return errors.New("not initialized")
	}
	init, err := v.Client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	v.unseal, v.Token = init.Keys[0], init.RootToken
	v.Client.SetToken(v.Token)
	return errors.New("initialized, to be unsealed")
}

// equip registers the plugin and enables what was asked for.
func (v *Vault) equip(ctx context.Context, o VaultOptions) error {
	if o.Audit {
		if err := v.Client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
			Type: "file", Options: map[string]string{"file_path": v.AuditPath},
		}); err != nil {
			return fmt.Errorf("enabling the audit log: %w", err)
		}
	}
	sum, err := fileSum(Tool("plugins", PluginName))
	if err != nil {
		return err
	}
	if err := v.Client.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name: PluginName, Type: api.PluginTypeSecrets, Command: PluginName, SHA256: sum,
	}); err != nil {
		return fmt.Errorf("registering the plugin: %w", err)
	}
	if o.NoMount {
		return nil
	}
	if err := v.Client.Sys().MountWithContext(ctx, Mount, &api.MountInput{Type: PluginName}); err != nil {
		return fmt.Errorf("enabling the engine: %w", err)
	}
	return nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Stop ends the server in good order.
func (v *Vault) Stop() error { return v.process.stop(stopPatience) }

// Kill ends the server and its plugins as a crash would.
func (v *Vault) Kill() { v.process.kill() }

// Done is closed when the server has ended.
func (v *Vault) Done() <-chan struct{} { return v.process.done }

// KillPlugin ends the processes of the plugin, and leaves it to Vault to notice. It gives how many there were.
func (v *Vault) KillPlugin() (int, error) {
	pids, err := children(v.process.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return len(pids), nil
}

// children gives the processes whose parent is pid.
func children(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended meanwhile
		}
		if child, parent, ok := parseStat(string(data)); ok && parent == pid {
			found = append(found, child)
		}
	}
	return found, nil
}

// WaitTimeout is a generous limit for things that take seconds.
const WaitTimeout = 2 * time.Minute
