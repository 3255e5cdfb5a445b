// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

var update = flag.Bool("update", false, "write testdata/screens")

// TestScripts runs the scenarios of testdata/scripts, each on a mount of its own of one real Vault. They see the built command.
func TestScripts(t *testing.T) {
	runScripts(t, bed.VaultOptions{}, "testdata/scripts/*.txt")
}

// TestSealedVault runs a scenario in which Vault is sealed and comes back.
func TestSealedVault(t *testing.T) {
	runScripts(t, bed.VaultOptions{Durable: true}, "testdata/away/sealed.txt")
}

// TestFollowWhileVaultIsAway runs a scenario in which Vault is sealed, and one in which a token ends, while a rotation is followed.
func TestFollowWhileVaultIsAway(t *testing.T) {
	runScripts(t, bed.VaultOptions{Durable: true}, "testdata/away/follow.txt")
}

func runScripts(t *testing.T, o bed.VaultOptions, pattern string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	b := bed.ForTest(t)
	binary := bed.Tool("bin", "hyvve")
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v; run: make build", err)
	}
	vaultBinary, err := bed.VaultBinary()
	if err != nil {
		t.Fatal(err)
	}
	o.NoMount = true
	v, err := b.Vault(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	w := &scripts{vault: v, path: strings.Join([]string{filepath.Dir(binary), filepath.Dir(vaultBinary), os.Getenv("PATH")}, ":")}
	testscript.Run(t, testscript.Params{
		Files: files, Setup: w.setup, RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"token": w.token, "stored-token": w.storedToken, "instance": w.instance, "until": until, "status": status, "seal": w.seal, "restart": w.restart,
		},
	})
}

// scripts are scenarios on one Vault.
type scripts struct {
	vault *bed.Vault
	path  string

	mu     sync.Mutex
	mounts int
}

// setup enables the engine for a scenario.
func (w *scripts) setup(env *testscript.Env) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mounts++
	mount := fmt.Sprintf("hyvve-%d", w.mounts)
	ctx := context.Background()
	if err := w.vault.Client.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: bed.PluginName}); err != nil {
		return err
	}
	if _, err := w.vault.Client.Logical().WriteWithContext(ctx, mount+"/config", map[string]any{"soak": "0s", "observe": "0s", "lease_ttl": "1m"}); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"PATH": w.path, "VAULT_ADDR": w.vault.Addr, "VAULT_TOKEN": w.vault.Token, "HYVVE_MOUNT": mount, "HOME": env.WorkDir,
	} {
		env.Setenv(name, value)
	}
	return nil
}

// token sets VAULT_TOKEN to one with the policy of a file, in which MOUNT is the mount, or to another text.
func (w *scripts) token(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 2 && args[0] == "is" {
		ts.Setenv("VAULT_TOKEN", args[1])
		return
	}
	if len(args) == 1 && args[0] == "root" {
		ts.Setenv("VAULT_TOKEN", w.vault.Token)
		return
	}
	if len(args) != 2 || args[0] != "of" {
		ts.Fatalf("usage: token root | token is TOKEN | token of POLICY-FILE")
	}
	ts.Setenv("VAULT_TOKEN", w.newToken(ts, args[1]))
}

// storedToken stores a token as "vault login" does.
func (w *scripts) storedToken(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 || args[0] != "of" {
		ts.Fatalf("usage: stored-token of POLICY-FILE")
	}
	token := w.newToken(ts, args[1])
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("HOME"), ".vault-token"), []byte(token), 0o600))
}

// newToken makes a token with the policy of a file, in which MOUNT is the mount.
func (w *scripts) newToken(ts *testscript.TestScript, file string) string {
	mount := ts.Getenv("HYVVE_MOUNT")
	policy := strings.ReplaceAll(ts.ReadFile(file), "MOUNT", mount)
	ts.Check(w.vault.Client.Sys().PutPolicyWithContext(context.Background(), mount, policy))
	secret, err := w.vault.Client.Auth().Token().CreateWithContext(context.Background(), &api.TokenCreateRequest{Policies: []string{mount}, DisplayName: "ann"})
	ts.Check(err)
	return secret.Auth.ClientToken
}

// instance plays a sidecar: it loads each bundle, and reports so until the scenario ends. One that is stuck loads the first bundle alone.
func (w *scripts) instance(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: instance WORKLOAD NAME [stuck]")
	}
	name, stuck := args[0], len(args) > 2
	engine := client.New(w.vault.Client, ts.Getenv("HYVVE_MOUNT"))
	ctx, cancel := context.WithCancel(context.Background())
	ended, loaded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		play(ctx, engine, name, args[1], stuck, loaded)
	}()
	ts.Defer(func() { cancel(); <-ended })
	select {
	case <-loaded:
	case <-time.After(time.Minute):
		ts.Fatalf("instance %s has not reported", args[1])
	}
}

func play(ctx context.Context, engine *client.Client, name, instance string, stuck bool, loaded chan struct{}) {
	etag, reported := "", false
	for ctx.Err() == nil {
		b, err := engine.Read(ctx, client.Reader{Workload: name, Instance: instance})
		if err == nil {
			if etag == "" || !stuck {
				etag = b.Etag
			}
			_, err = engine.Report(ctx, client.Report{Workload: name, Instance: instance, Secret: b.Secret, Etag: etag, Proof: workload.ProofHealth, Healthy: true})
		}
		if err != nil {
			_ = pause(ctx, 50*time.Millisecond)
			continue
		}
		if !reported {
			close(loaded)
			reported = true
		}
		for err == nil && ctx.Err() == nil {
			w, fault := engine.Watch(ctx, name, instance, b.Etag, 2*time.Second)
			if err = fault; err == nil && w.Changed {
				break
			}
		}
	}
}

// until runs a command until its output has a text.
func until(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until TEXT COMMAND…")
	}
	for end := time.Now().Add(time.Minute); ; {
		err := ts.Exec(args[1], args[2:]...)
		if said := ts.ReadFile("stdout") + ts.ReadFile("stderr"); strings.Contains(said, args[0]) {
			return
		} else if time.Now().After(end) {
			ts.Fatalf("%v: %s", err, said)
		}
		_ = pause(context.Background(), 50*time.Millisecond)
	}
}

// status runs a command, which must have an exit status.
func status(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: status STATUS COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		got = fmt.Sprint(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("status %s, not %s: %v", got, args[0], err)
	}
}

func (w *scripts) seal(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(w.vault.Client.Sys().SealWithContext(context.Background()))
}

// restart starts the server again, unsealed; "restart later" does so in the background.
func (w *scripts) restart(ts *testscript.TestScript, _ bool, args []string) {
	again := func() error {
		if err := w.vault.Stop(); err != nil {
			return err
		}
		return w.vault.Start(context.Background())
	}
	if len(args) == 0 {
		ts.Check(again())
		return
	}
	ended := make(chan error, 1)
	go func() {
		_ = pause(context.Background(), 2*time.Second)
		ended <- again()
	}()
	ts.Defer(func() { ts.Check(<-ended) })
}
