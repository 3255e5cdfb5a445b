// SPDX-License-Identifier: Apache-2.0

package bed

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
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"

	hyvve "github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
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
	TLS     bool   // with a certificate of the bed's Authority, asking clients for theirs; Durable only
}

// Server is how to reach a Vault, be it one server or a cluster of them.
type Server struct {
	Addr   string      // URL; of a cluster, those of its nodes with commas between them
	Token  string      // root token
	Client *api.Client // with the root token
}

// Vault is a private Vault server.
type Vault struct {
	Server
	LogPath   string
	AuditPath string

	bed     *Bed
	spec    spec
	process *process
	unseal  string    // key, where durable
	asked   time.Time // to unseal, since the last start
	member  bool      // of a cluster
	joined  bool      // what it was to join
	leader  string    // of the cluster, to join; empty for the first member

	certificate Certificate // where it speaks TLS
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
	v, err := b.newVault(o.Addr)
	if err != nil {
		return nil, err
	}
	if o.TLS {
		if err := v.useTLS(); err != nil {
			return nil, err
		}
	}
	if o.Durable {
		err = v.prepareDurable("one")
	} else {
		err = v.prepareDev()
	}
	if err != nil {
		return nil, err
	}
	if err := v.Start(ctx); err != nil {
		return nil, err
	}
	return v, v.equip(ctx, o)
}

// newVault makes a server that has yet to be prepared and started.
func (b *Bed) newVault(listen string) (*Vault, error) {
	binary, err := VaultBinary()
	if err != nil {
		return nil, err
	}
	if !exists(Tool("plugins", PluginName)) {
		return nil, fmt.Errorf("%s is not built; run: make build", Tool("plugins", PluginName))
	}
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
	if err := addPlugin(home, Tool("plugins", PluginName)); err != nil {
		return nil, err
	}
	v := &Vault{Server: Server{Addr: "http://" + listen}, AuditPath: filepath.Join(home, "audit.log"), bed: b}
	v.spec = spec{
		name: filepath.Base(home), path: binary, dir: home, stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
		// Plugins put their sockets where temporary files go, and leave them when they are killed. Relative to home, which is
		// the directory of both, so that the path of a socket is not too long.
		env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=."},
	}
	if v.Client, err = client(v.Addr, ""); err != nil {
		return nil, err
	}
	b.say("starting Vault on %s", listen)
	return v, nil
}

// useTLS lets a server that is not prepared yet speak TLS.
func (v *Vault) useTLS() error {
	authority, err := v.bed.Authority()
	if err != nil {
		return err
	}
	if v.certificate, err = authority.server("vault", nil); err != nil {
		return err
	}
	v.Addr = "https://" + v.listen()
	v.Client, err = client(v.Addr, authority.File)
	return err
}

// listen is the host:port of the server.
func (v *Vault) listen() string {
	_, listen, _ := strings.Cut(v.Addr, "://")
	return listen
}

// client returns a client for an address, or for several with commas between them. It trusts the authority of a file if one is
// given, and uses neither token nor namespace of the environment.
func client(addr, authority string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.MaxRetries = 0
	if err := config.ConfigureTLS(&api.TLSConfig{CACert: authority}); err != nil {
		return nil, fmt.Errorf("making a Vault client: %w", err)
	}
	c, err := hyvve.NewVault(config, addr)
	if err != nil {
		return nil, fmt.Errorf("making a Vault client: %w", err)
	}
	c.ClearToken()
	c.ClearNamespace()
	return c, nil
}

// prepareDev sets up the dev server with the repository's vault-dev.hcl. The root token goes by the environment, which
// other users cannot read.
func (v *Vault) prepareDev() error {
	v.Token = "dev-" + randomHex(16)
	v.Client.SetToken(v.Token)
	v.spec.env = append(v.spec.env, "VAULT_DEV_ROOT_TOKEN_ID="+v.Token)
	v.spec.args = []string{
		"server", "-dev", "-dev-no-store-token", "-dev-listen-address=" + v.listen(),
		"-dev-plugin-dir=" + pluginDir(v.spec.dir), "-config=" + filepath.Join(Repo(), "vault-dev.hcl"),
	}
	return nil
}

// prepareDurable sets up a server with integrated storage.
func (v *Vault) prepareDurable(id string) error {
	home := v.spec.dir
	data := filepath.Join(home, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	peers := fmt.Sprintf("127.0.0.1:%d", port)
	listener := map[string]any{"address": v.listen(), "cluster_address": peers, "tls_disable": true}
	if c := v.certificate; c.CertFile != "" {
		listener["tls_disable"], listener["tls_cert_file"], listener["tls_key_file"] = false, c.CertFile, c.KeyFile
	}
	config := map[string]any{
		"storage": map[string]any{"raft": map[string]any{
			"path": data, "node_id": id,
			"performance_multiplier":    "1",                                           // a leader that is gone is noticed soon
			"autopilot_update_interval": "500ms", "autopilot_reconcile_interval": "1s", // a node that joins votes soon
		}},
		"listener":         map[string]any{"tcp": listener},
		"plugin_directory": pluginDir(home),
		"api_addr":         v.Addr,
		"cluster_addr":     "http://" + peers,
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

// Start starts the server, again after Stop or Kill with what a durable one has stored, and unseals it.
func (v *Vault) Start(ctx context.Context) error {
	var err error
	if v.process, err = v.bed.start(v.spec); err != nil {
		return err
	}
	v.LogPath, v.asked = v.process.log, time.Time{}
	return v.process.await(ctx, v.ready)
}

// ready takes the server one step towards serving, and says what is missing.
func (v *Vault) ready(ctx context.Context) error {
	health, err := v.Client.Sys().HealthWithContext(ctx)
	switch {
	case err != nil:
		return err
	case !health.Initialized && v.Token == "":
		return v.initialize(ctx)
	case !health.Initialized && !v.joined && v.leader != "":
		return v.join(ctx)
	case health.Sealed && v.unseal != "":
		return v.unsealOnce(ctx)
	case health.Sealed || health.Standby && !v.member:
		return errors.New("sealed or standby")
	}
	return nil
}

// join makes the server one of the leader's cluster, once it is unsealed.
func (v *Vault) join(ctx context.Context) error {
	if _, err := v.Client.Sys().RaftJoinWithContext(ctx, &api.RaftJoinRequest{LeaderAPIAddr: v.leader}); err != nil {
		return err
	}
	v.joined = true
	return errors.New("joined, to be unsealed")
}

// unsealOnce returns the key, and time to use it: a node that joins needs some.
func (v *Vault) unsealOnce(ctx context.Context) error {
	if time.Since(v.asked) > 2*time.Second {
		if _, err := v.Client.Sys().UnsealWithContext(ctx, v.unseal); err != nil {
			return err
		}
		v.asked = time.Now()
	}
	return errors.New("unsealing")
}

func (v *Vault) initialize(ctx context.Context) error {
	init, err := v.Client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	v.unseal, v.Token = init.Keys[0], init.RootToken
	v.Client.SetToken(v.Token)
	return errors.New("initialized, to be unsealed")
}

// pluginDir is where a server looks for plugins. Each has its own, since it runs none from elsewhere.
func pluginDir(home string) string { return filepath.Join(home, "plugins") }

// addPlugin puts a binary where a server looks for plugins: the same file, so that it takes no room. A symbolic link would
// not do: Vault follows it, and finds itself elsewhere.
func addPlugin(home, path string) error {
	dir := pluginDir(home)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, filepath.Base(path))
	if err := os.Link(path, to); err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	if err := copyFile(path, to); err != nil { // another file system
		return err
	}
	return os.Chmod(to, 0o755)
}

// register makes a plugin known to the server.
func (v *Vault) register(ctx context.Context, name string, kind api.PluginType) error {
	sum, err := fileSum(filepath.Join(pluginDir(v.spec.dir), name))
	if err != nil {
		return err
	}
	if err := v.Client.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{Name: name, Type: kind, Command: name, SHA256: sum}); err != nil {
		return fmt.Errorf("registering the plugin %s: %w", name, err)
	}
	return nil
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
	if err := v.register(ctx, PluginName, api.PluginTypeSecrets); err != nil {
		return err
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

// Plugins returns the numbers of the plugin's processes that live. A standby has none.
func (v *Vault) Plugins() ([]int, error) { return children(v.process.cmd.Process.Pid) }

// KillPlugin ends the processes of the plugin, and leaves it to Vault to notice. It returns how many there were that lived.
func (v *Vault) KillPlugin() (int, error) {
	pids, err := v.Plugins()
	if err != nil {
		return 0, err
	}
	killed := 0
	for _, pid := range pids {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed, nil
}

// children returns the living processes whose parent is pid. One that has ended and is not waited for yet is none.
func children(pid int) ([]int, error) {
	all, err := proc.All()
	var found []int
	for _, p := range all {
		if p.Parent == pid && !p.Ended() {
			found = append(found, p.PID)
		}
	}
	return found, err
}

// WaitTimeout is a generous limit for things that take seconds.
const WaitTimeout = 2 * time.Minute

// authPlugin is Vault's own plugin for auth/kubernetes.
const authPlugin = "vault-plugin-auth-kubernetes"

// reviewer is the namespace, and the account in it, by which Vault asks the API server whose tokens are.
const reviewer = "hyvve-vault"

// KubernetesAuth enables Vault's kubernetes method at auth/MOUNT for the service accounts of k. Roles are up to the caller.
func (v *Vault) KubernetesAuth(ctx context.Context, k *Kubernetes, mount string) error {
	binary := Tool("tools", authPlugin)
	if !exists(binary) {
		return errors.New("no " + authPlugin + ": run scripts/setup (make test and make test-k8s do)")
	}
	if err := addPlugin(v.spec.dir, binary); err != nil {
		return err
	}
	if err := v.register(ctx, authPlugin, api.PluginTypeCredential); err != nil {
		return err
	}
	if err := v.Client.Sys().EnableAuthWithOptionsWithContext(ctx, mount, &api.EnableAuthOptions{Type: authPlugin}); err != nil {
		return fmt.Errorf("enabling auth/%s: %w", mount, err)
	}
	namespace := reviewer + "-" + randomHex(4) // several Vaults may ask one API server
	if err := k.Namespace(ctx, namespace, nil); err != nil {
		return err
	}
	if err := k.AllowReviews(ctx, namespace, "default"); err != nil {
		return err
	}
	token, err := k.Token(ctx, namespace, "default")
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(k.CAFile)
	if err != nil {
		return err
	}
	_, err = v.Client.Logical().WriteWithContext(ctx, "auth/"+mount+"/config", map[string]any{
		"kubernetes_host": k.URL, "kubernetes_ca_cert": string(authority), "token_reviewer_jwt": token, "disable_local_ca_jwt": true,
	})
	return err
}
