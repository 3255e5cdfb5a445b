// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
)

const lookup, renewal = "auth/token/lookup-self", "auth/token/renew-self"

// A token that ends, that is renewed for a short time only, or that Vault denies is followed by another one.
func TestKeeperKeepsItsToken(t *testing.T) {
	past := time.Now().Add(-time.Second)
	for name, c := range map[string]struct {
		ttl       time.Duration // of the token
		renewable bool
		due       time.Time
		renewed   int // seconds that a token has then; 0: it does not end
		fail      map[string]int
		want      map[string]int // requests
		fails     string
	}{
		"without an end":     {want: map[string]int{lookup: 0, renewal: 0}},
		"not due":            {ttl: time.Hour, renewable: true, due: time.Now().Add(time.Minute), want: map[string]int{lookup: 0, renewal: 0}},
		"renewed":            {ttl: time.Hour, renewable: true, due: past, renewed: 3600, want: map[string]int{lookup: 0, renewal: 1}},
		"renewed for a part": {ttl: time.Hour, renewable: true, due: past, renewed: 1700, want: map[string]int{lookup: 1, renewal: 1}},
		"renewal denied":     {ttl: time.Hour, renewable: true, due: past, fail: map[string]int{renewal: 403}, want: map[string]int{lookup: 1, renewal: 1}},
		"renewal later":      {ttl: time.Hour, renewable: true, due: past, fail: map[string]int{renewal: 503}, want: map[string]int{lookup: 0, renewal: 1}},
		"fixed":              {ttl: time.Hour, due: past, renewed: 3600, want: map[string]int{lookup: 1, renewal: 0}},
		"denied":             {fail: map[string]int{"report": 403}, want: map[string]int{lookup: 1, "report": 2}, fails: "Vault denies: "},
		"login denied":       {fail: map[string]int{"report": 403, "auth": 403}, want: map[string]int{lookup: 1, "report": 1}, fails: "cannot log in: "},
		"refused":            {fail: map[string]int{"report": 400}, want: map[string]int{lookup: 0, "report": 1}, fails: "Vault refuses: "},
	} {
		t.Run(name, func(t *testing.T) {
			k, f := newKeeper(t)
			k.ttl, k.renewable, k.due = c.ttl, c.renewable, c.due
			f.change(func() { maps.Copy(f.fail, c.fail); f.token = c.renewed })
			err := k.extend(t.Context())
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.HasPrefix(err.Error(), c.fails)) {
				t.Errorf("%v, want %q", err, c.fails)
			}
			for path, want := range c.want {
				if n := f.count(path); n != want {
					t.Errorf("%d requests of %s, want %d", n, path, want)
				}
			}
			if again := k.due.IsZero() || k.due.After(time.Now()); again == (name == "renewal later") {
				t.Errorf("the token is due at %v", k.due)
			}
		})
	}
}

// The lease is given back after another login where the token has ended.
func TestKeeperLeavesAfterAnotherLogin(t *testing.T) {
	k, f := newKeeper(t)
	f.change(func() { f.fail["leave"] = 403 })
	if err := k.leave(t.Context()); err == nil || f.count("leave") != 2 || f.count(lookup) != 1 {
		t.Errorf("%v after %d requests and %d logins", err, f.count("leave"), f.count(lookup))
	}
}

func newKeeper(t *testing.T) (*keeper, *fakeVault) {
	t.Helper()
	f, dir := newFakeVault(t), t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Check(config.File{
		Workload: "api", Instance: "api-1",
		Vault:  &config.VaultBlock{Address: f.server.URL, Auth: config.AuthBlock{Method: "token_file", Path: token}},
		Render: []config.RenderBlock{{Format: "json", Path: filepath.Join(dir, "secrets.json")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := connect(*c.Vault)
	if err != nil {
		t.Fatal(err)
	}
	v.Vault.SetToken("root")
	return &keeper{
		config: c, engine: client.New(v.Vault, c.Vault.Mount), vault: v, method: login.New(c.Vault.Auth), name: "api-1", secret: key.NewValue("secret-0"),
	}, f
}

// A former instance whose token has ended gets another one; until then the status shows that its lease is not extended.
func TestTokenOfAFormerInstanceEnds(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.fake.lease = 1 })
	r.await("loaded", loaded("etag-1-0"))
	r.reloads.set(os.ErrDeadlineExceeded)
	r.fake.change(func() { r.fake.suffix = "-web" })
	r.rename("web")
	r.says("workload not reloaded")
	logins := r.fake.count(lookup)
	r.fake.change(func() { r.fake.fail["report/api"], r.fake.says = 403, "it has "+canary+"-old" })
	r.says("lease of the former instance not extended")
	r.until("status shows it", func() bool {
		all := r.agent.board.State().Formers
		return len(all) == 1 && all[0].Workload == "api" && strings.Contains(all[0].Error, "it has [redacted]")
	})
	since := r.agent.board.State().Formers[0].Since
	r.until("it has logged in again", func() bool { return r.fake.count(lookup) > logins+2 })
	if s := r.agent.board.State(); len(s.Formers) != 1 || s.Formers[0].Since != since {
		t.Errorf("the status shows %+v, and before since %s", s.Formers, since)
	}
	r.fake.change(func() { clear(r.fake.fail) })
	r.until("status shows it no more", func() bool { return len(r.agent.board.State().Formers) == 0 })
	if n := strings.Count(r.log.String(), "lease of the former instance not extended"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	r.fake.change(func() { r.fake.fail["report/api"] = 403 })
	r.until("status shows it", func() bool { return len(r.agent.board.State().Formers) == 1 })
	r.reloads.set(nil)
	r.until("the former instance is left", func() bool { return r.fake.count("leave/api") == 1 })
	r.until("status shows it no more", func() bool { return len(r.agent.board.State().Formers) == 0 })
}

// So it is with the present instance while the workload hangs.
func TestTokenEndsWhileTheWorkloadHangs(t *testing.T) {
	h := &hanging{in: "check", entered: make(chan struct{}, 1), release: make(chan struct{})}
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
		r.fake.lease = 1
		h.from = func() bool { return r.fake.count("report") > 0 }
		c.Checker, c.Interval = h, 10*time.Millisecond
	})
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.version = 2 })
	<-h.entered
	logins := r.fake.count(lookup)
	r.fake.change(func() { r.fake.fail["report"] = 403 })
	r.until("it has logged in again", func() bool { return r.fake.count(lookup) > logins })
	r.fake.change(func() { clear(r.fake.fail) })
	before := r.fake.count("extend")
	r.until("the lease is extended", func() bool { return r.fake.count("extend") > before+2 })
	close(h.release)
}
