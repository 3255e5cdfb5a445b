// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// role lets anybody log in who has its id and a secret id, with the shipped policy of workload api. All its logins are of one
// entity, as those of a service account are.
func (w *victim) role() {
	w.t.Helper()
	if err := w.as("").Sys().EnableAuthWithOptionsWithContext(w.t.Context(), "approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		w.t.Fatal(err)
	}
	w.write("", "auth/approle/role/api", map[string]any{"token_policies": "api", "token_ttl": "1h"})
}

// credentials are the id of the role and another secret id.
func (w *victim) credentials() (roleID, secretID string) {
	w.t.Helper()
	role := w.must(w.as("").Logical().ReadWithContext(w.t.Context(), "auth/approle/role/api/role-id"))
	secret := w.write("", "auth/approle/role/api/secret-id", nil)
	return role.Data["role_id"].(string), secret.Data["secret_id"].(string)
}

// login is a token of the role.
func (w *victim) login() string {
	w.t.Helper()
	roleID, secretID := w.credentials()
	return w.write("", "auth/approle/login", map[string]any{"role_id": roleID, "secret_id": secretID}).Auth.ClientToken
}

// read reads a bundle, as sidecars do.
func (w *victim) read(token, instance, secret string) (*api.Secret, error) {
	return w.as(token).Logical().WriteWithContext(w.t.Context(), "hyvve/creds/api", map[string]any{"instance": instance, "instance_secret": secret})
}

// Another pod of a workload cannot take over the name of one that lives: it is refused, and the real one's reports go on. Once
// nothing is heard of the real one, the name is free.
func TestAdversaryTakesANameOver(t *testing.T) {
	w := newVictim(t)
	w.role()
	w.write("", "hyvve/config", map[string]any{"takeover_after": "10s"})
	genuine, impostor := w.login(), w.login()
	read := w.must(w.read(genuine, "pod-0", ""))
	alive := map[string]any{"instance": "pod-0", "instance_secret": read.Data["instance_secret"], "etag": read.Data["etag"], "healthy": true, "extend_lease": true}
	w.write(genuine, "hyvve/report/api", alive)

	if _, err := w.as(impostor).Logical().ReadWithDataWithContext(t.Context(), "hyvve/creds/api", url.Values{"instance": {"pod-0"}}); err == nil || !strings.Contains(err.Error(), "belongs to another login") {
		t.Errorf("the impostor reads: %v", err)
	}
	for _, guess := range []string{"", "1-1.00", w.secret} {
		if _, err := w.read(impostor, "pod-0", guess); err == nil {
			t.Errorf("the impostor reads with the secret %q", guess)
		}
	}
	w.write(genuine, "hyvve/report/api", alive)
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end); { // it watches alone, and reports nothing
		secret := w.must(w.as(genuine).Logical().ReadWithDataWithContext(t.Context(), "hyvve/watch/api", url.Values{"instance": {"pod-0"}, "etag": {fmt.Sprint(read.Data["etag"])}, "wait": {"3s"}}))
		if secret.Data["changed"] == true {
			t.Fatal("the real one's bundle has changed")
		}
		if _, err := w.read(impostor, "pod-0", ""); err == nil {
			t.Fatal("the impostor has the name of an instance that watches")
		}
	}
	begun := time.Now() // from here on nothing is heard of it but the impostor
	kit.Until(t, "the name of the silent one is free", func() bool {
		_, err := w.as(impostor).Logical().ReadWithDataWithContext(t.Context(), "hyvve/watch/api", url.Values{"instance": {"pod-0"}, "wait": {"0s"}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.read(impostor, "pod-0", "")
		return err == nil
	})
	if took := time.Since(begun); took < 5*time.Second { // its last watch began up to 3 s before
		t.Errorf("it was free after %s", took)
	}
	w.refused(genuine, "hyvve/report/api", alive, 400)
	seen := w.must(w.as("").Logical().ReadWithDataWithContext(t.Context(), "hyvve/workloads/api/instances/pod-0", url.Values{"detailed": {"true"}})).Data
	if login := seen["login"].(map[string]any); login["display_name"] != "approle" || login["entity"] == "" || login["entity_name"] == "" {
		t.Errorf("its login is shown as %v", login)
	}
}

// A token that reads under ten thousand names leaves a hundred, and holds nobody up.
func TestAdversaryGhosts(t *testing.T) {
	const attempts, most = 10_000, 100
	w := newVictim(t)
	w.write("", "hyvve/config", map[string]any{"soak": "2s", "observe": "0s"})
	w.write("", "hyvve/keys/b-key", map[string]any{"generate": true})
	w.write("", "hyvve/workloads/agents", map[string]any{"min_instances": 1})
	stop := w.follow(shippedToken(t, w.vault.Client, "agents"))
	defer stop()
	usual := w.rotation()
	before := w.memory()

	ghosts := w.as(w.token)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var next, stored, refused atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for n := next.Add(1); n <= attempts && ctx.Err() == nil; n = next.Add(1) {
				names := url.Values{"instance": {fmt.Sprintf("ghost-%d", n)}}
				if n%3 == 0 {
					names = nil // readers without a name count, too
				}
				_, err := ghosts.Logical().ReadWithDataWithContext(ctx, "hyvve/creds/api", names)
				answer := (*api.ResponseError)(nil)
				switch {
				case err == nil:
					stored.Add(1)
				case errors.As(err, &answer) && answer.StatusCode == 400 && strings.Contains(err.Error(), "max_instances_per_login is 100"):
					refused.Add(1)
				case ctx.Err() == nil:
					t.Errorf("ghost %d: %v", n, err)
					return
				}
			}
		})
	}
	during := w.rotation()
	group.Wait()
	t.Logf("a rotation of another workload takes %s, and %s meanwhile; %d ghosts are stored, %d refused", usual, during, stored.Load(), refused.Load())
	if during > 2*usual {
		t.Errorf("a rotation takes %s while ghosts come, and %s without", during, usual)
	}
	if n := len(w.instances()); n > most || stored.Load() != most-1 { // api-1 is of this login
		t.Errorf("%d instances are there, %d reads were let", n, stored.Load())
	}
	if grown := w.memory() - before; grown > 30 {
		t.Errorf("the plugin's memory has grown by %.0f MB", grown)
	}
	status := w.must(w.as("").Logical().ReadWithContext(t.Context(), "hyvve/status"))
	if line := fmt.Sprint(status.Data["workload api"]); !strings.Contains(line, "max_instances_per_login was 100") {
		t.Errorf("status says %q", line)
	}
	definer := shippedToken(t, w.vault.Client, "definer")
	w.must(w.as(definer).Logical().DeleteWithContext(t.Context(), "hyvve/workloads/api/instances/ghost-1"))
	if _, err := w.read(w.token, "new", ""); err != nil {
		t.Errorf("after a removal: %v", err)
	}
}

// follow is an instance of workload agents that loads what it should hold, until it is stopped.
func (w *victim) follow(token string) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	engine := client.New(w.as(token), bed.Mount)
	var group sync.WaitGroup
	group.Go(func() {
		for ctx.Err() == nil {
			b, err := engine.Read(ctx, client.Reader{Workload: "agents", Instance: "agents-1"})
			if err == nil {
				_, err = engine.Report(ctx, client.Report{Workload: "agents", Instance: "agents-1", Secret: b.Secret, Etag: b.Etag, Proof: "etag", Healthy: true})
			}
			for watched := (engineapi.Watched{}); err == nil && !watched.Changed; {
				watched, err = engine.Watch(ctx, "agents", "agents-1", b.Etag, 5*time.Second)
			}
			if err != nil && ctx.Err() == nil {
				w.t.Errorf("the other workload is refused: %v", err)
				return
			}
		}
	})
	return func() { cancel(); group.Wait() }
}

// rotation rotates the other workload's key, and returns how long it took.
func (w *victim) rotation() time.Duration {
	w.t.Helper()
	begun := time.Now()
	engine := client.New(w.as(""), bed.Mount)
	r, err := engine.Rotate(w.t.Context(), "scenario", "b-key")
	if err != nil {
		w.t.Fatal(err)
	}
	kit.Until(w.t, "the rotation has ended", func() bool {
		r, err = engine.Rotation(w.t.Context(), r.ID)
		if err != nil {
			w.t.Fatal(err)
		}
		return r.Ended()
	}, func() string { return fmt.Sprintf("%+v", r.Gates) })
	return time.Since(begun)
}

// memory is what the plugin's processes hold, in MB.
func (w *victim) memory() (mb float64) {
	w.t.Helper()
	all, err := w.vault.Plugins()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, pid := range all {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var kb float64
			if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
				mb += kb / 1024
			}
		}
	}
	return mb
}

// A sidecar that is killed and started again, with another login, has its name back at once by the secret that it has kept.
// Without that it waits until nothing was heard of the one before, and says so.
func TestAdversaryKilledSidecarHasItsNameBack(t *testing.T) {
	w := newVictim(t)
	w.role()
	w.write("", "hyvve/config", map[string]any{"takeover_after": "20s"})
	dir := t.TempDir()
	roleID, secretID := w.credentials()
	config := filepath.Join(dir, "sidecar.hcl")
	run := filepath.Join(dir, "run")
	for path, text := range map[string]string{filepath.Join(dir, "role-id"): roleID, filepath.Join(dir, "secret-id"): secretID, config: fmt.Sprintf(`
workload = "api"
instance = "pod-0"
on_stop  = "leave"
vault {
  address = %q
  auth "approle" {
    role_id_file   = "%[2]s/role-id"
    secret_id_file = "%[2]s/secret-id"
  }
}
render "json" { path = "%[2]s/run/keys.json" }
`, w.vault.Addr, dir)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(run, ".instance-keys.json.hyvve")
	// start starts the sidecar, and returns how long it took until the engine had its report.
	start := func() (*bed.Program, time.Duration) {
		t.Helper()
		before := w.loginOf("pod-0")
		begun := time.Now()
		p, err := bed.ForTest(t).Program("sidecar", bed.Tool("bin", "hyvve-sidecar"), []string{"agent", "--config=" + config}, nil)
		if err != nil {
			t.Fatal(err)
		}
		kit.Until(t, "the sidecar's login has the name", func() bool { now := w.loginOf("pod-0"); return now != "" && now != before }, p.Tail)
		took := time.Since(begun)
		kit.Until(t, "the secret is kept", func() bool { _, err := os.Stat(kept); return err == nil }, p.Tail)
		return p, took
	}
	first, _ := start()
	if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret is kept as %v, %v", info, err)
	}
	first.Kill()
	second, took := start()
	if took > 10*time.Second {
		t.Errorf("with its secret it has the name back after %s", took)
	}
	second.Kill()
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	third, took := start()
	if took < 10*time.Second {
		t.Errorf("without its secret it has the name back after %s", took)
	}
	if !strings.Contains(third.Tail(), "belongs to another login") {
		t.Errorf("the log does not say why it waits: %s", third.Tail())
	}
	if err := third.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("the secret of an instance that has ended is there: %v", err)
	}
	if w.loginOf("pod-0") != "" {
		t.Error("the instance that has ended is there")
	}
}

// loginOf is the fingerprint of the login of one of api's instances; empty: there is none.
func (w *victim) loginOf(instance string) string {
	w.t.Helper()
	read, err := w.as("").Logical().ReadWithDataWithContext(w.t.Context(), "hyvve/workloads/api/instances/"+instance, url.Values{"detailed": {"true"}})
	if err != nil {
		w.t.Fatal(err)
	}
	if read == nil {
		return ""
	}
	return fmt.Sprint(read.Data["login"].(map[string]any)["accessor_fingerprint"])
}
