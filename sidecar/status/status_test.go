// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var now = time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)

// full is a state with all that there is.
func full() State {
	return State{
		Version: "v1", Mode: "agent", Workload: "api", Instance: "api-1", Started: now.Add(-50 * time.Hour),
		Ready: true, Loaded: true, Healthy: true, Rendered: 2,
		Vault: &Vault{Address: "https://vault:8200", Method: "approle", Up: true, Since: now.Add(-90 * time.Second)},
		Etag:  "e", Keys: []Key{{Name: "TOKEN", Version: 3, Created: now.Add(-25 * time.Hour), Accepts: []int{3, 2}}, {Name: "URL", Version: 1}},
		Changed: now.Add(-time.Hour), Reported: now.Add(-3 * time.Second),
		Destinations: []Destination{{Name: "monitoring/a", Up: true, Written: now.Add(-time.Hour)}, {Name: "monitoring/b", Up: true}, {Name: "monitoring/c", Error: "403"}},
		Rollout:      &Rollout{Name: "deployment/monitoring/prometheus", Pods: 5, Old: 2},

		Reload:    &Reload{At: now.Add(-time.Hour), Took: 120 * time.Millisecond},
		Sightings: []workload.Sighting{{Env: "TOKEN", Version: 2, Count: 4, Last: now.Add(-5 * time.Second), From: "10.0.0.7"}, {Env: "TOKEN", Version: 1, Count: 3, Last: now.Add(-time.Minute)}},
		Work: []workload.WorkReport{
			{ID: "r/stage", Rate: 500, Columns: []workload.ColumnReport{{Column: "a.b", Total: 100, Staged: 40}}},
			{ID: "r/count", Done: true, Columns: []workload.ColumnReport{{Column: "a.c", Total: 7, Rotated: 5, Left: 1, Bad: 1}}},
			{ID: "r/flip", Error: "no server", Columns: []workload.ColumnReport{{Column: "a.d", Total: 7}}},
		},
	}
}

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	full().Print(&out, now)
	want := `workload   api, instance api-1
sidecar    agent v1, started 2 d 2 h ago
state      well, but for what FAILS below
vault      https://vault:8200, by approle, well for 1 min 30 s
changed    1 h ago
reported   3 s ago
secret     monitoring/a, written 1 h ago
secret     monitoring/b, as it was
secret     monitoring/c, FAILS: 403
rollout    deployment/monitoring/prometheus: 5 pods, 2 of them with an old value
reload     1 h ago, took 120ms
key        TOKEN version 3, 1 d 1 h old; accepts 3, 2
key        URL version 1
old value  TOKEN version 2: 4 requests, the last 5 s ago, from 10.0.0.7
old value  TOKEN version 1: 3 requests, the last 1 min ago, from ?
rows       r/stage: 60 of 100 to go, 500 a second
rows       r/count: done, 7 rows, 1 still open under the old value, 1 under none
rows       r/flip: 7 of 7 to go; FAILS: no server
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

// What is wrong is said, and shows in the exit status.
func TestVerdict(t *testing.T) {
	for want, change := range map[string]func(*State){
		"UNHEALTHY: ill": func(s *State) { s.Healthy, s.Reason = false, "ill" },
		"NOT READY: there is no bundle yet": func(s *State) {
			s.Ready, s.Vault = false, &Vault{}
		},
		"the line vault says":   func(s *State) { s.Ready, s.Vault = false, &Vault{Error: "denied"} },
		"has not proved":        func(s *State) { s.Healthy = false },
		"on the way":            func(s *State) { s.Loaded = false },
		"reload is under way":   func(s *State) { s.Reloading, s.Loaded = &Reloading{Since: now}, false },
		"without keys":          func(s *State) { s.Absent = []string{"TOKN"} },
		"configuration before":  func(s *State) { s.NotTaken = &NotTaken{At: now, Error: "rendr"} },
		"what FAILS below":      func(s *State) { s.Formers = []*Former{{Workload: "api", Since: now}} },
		"with the last good":    func(s *State) { s.Vault = &Vault{Error: "sealed", Since: now} },
		"NOT READY: files have": func(s *State) { s.Ready, s.Vault = false, nil },
	} {
		s := full()
		change(&s)
		if got := s.verdict(); !strings.Contains(got, want) || s.Well() {
			t.Errorf("%q, well: %v; want %q", got, s.Well(), want)
		}
	}
	s := State{Mode: "watch", Ready: true, Healthy: true}
	if got := s.verdict(); !strings.Contains(got, "none has changed") || !s.Well() {
		t.Errorf("%q, well: %v", got, s.Well())
	}
}

// What Vault refuses a sidecar with is said once.
func TestRefusalIsPrintedOnce(t *testing.T) {
	s := full()
	s.Ready, s.Vault = false, &Vault{Address: "https://vault:8200", Method: "kubernetes", Error: "permission denied", Since: now}
	var out strings.Builder
	s.Print(&out, now)
	if strings.Count(out.String(), "permission denied") != 1 {
		t.Errorf("printed\n%s", &out)
	}
}

// Until a reload has ended, nothing else shows that it hangs.
func TestReloadUnderWayIsPrinted(t *testing.T) {
	s := full()
	s.Reloading = &Reloading{Since: now.Add(-12 * time.Second), Limit: 45 * time.Second}
	var out strings.Builder
	s.Print(&out, now)
	if !strings.Contains(out.String(), "\nreload     under way for 12 s (limit 45s)\n") {
		t.Errorf("printed\n%s", &out)
	}
}

// The lease of a former instance that is not extended is a line of its own.
func TestFormerInstanceIsPrinted(t *testing.T) {
	s := full()
	s.Formers = []*Former{{Workload: "api", Instance: "api-1", Since: now.Add(-3 * time.Minute), Error: "cannot log in: permission denied"}}
	var out strings.Builder
	s.Print(&out, now)
	if want := "\nformer     api, instance api-1, whose values may be in use, FAILS: lease not extended for 3 min: cannot log in: permission denied\n"; !strings.Contains(out.String(), want) {
		t.Errorf("printed\n%s", &out)
	}
}

// A configuration that was refused may have several mistakes; each line of the status has a name.
func TestRefusedConfigurationIsPrinted(t *testing.T) {
	s := full()
	s.NotTaken = &NotTaken{At: now.Add(-3 * time.Second), Error: "a.hcl:3: no\na.hcl:7: nor this"}
	var out strings.Builder
	s.Print(&out, now)
	if !strings.Contains(out.String(), "\nconfig     not taken 3 s ago: a.hcl:3: no; a.hcl:7: nor this\n") {
		t.Errorf("printed\n%s", &out)
	}
}

func TestMetrics(t *testing.T) {
	b := NewBoard(full(), nil)
	b.Reloaded(Succeeded, Reload{Took: time.Second})
	b.Reloaded(Failed, Reload{Took: time.Second})
	b.Reloaded(NotRunning, Reload{})
	b.VaultIs(false, "down", now)
	if problems, err := testutil.GatherAndLint(b.Registry()); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	want := `
# HELP hyvve_sidecar_destination_up Whether the last look at a Secret, or write of it, has succeeded.
# TYPE hyvve_sidecar_destination_up gauge
hyvve_sidecar_destination_up{destination="monitoring/a"} 1
hyvve_sidecar_destination_up{destination="monitoring/b"} 1
hyvve_sidecar_destination_up{destination="monitoring/c"} 0
# HELP hyvve_sidecar_rollout_pods Pods of the workload that is restarted, by whether they hold what the Secrets hold now, at the last look.
# TYPE hyvve_sidecar_rollout_pods gauge
hyvve_sidecar_rollout_pods{rollout="deployment/monitoring/prometheus",state="new"} 3
hyvve_sidecar_rollout_pods{rollout="deployment/monitoring/prometheus",state="old"} 2
# HELP hyvve_sidecar_key_accepted_versions Number of versions of a key that are accepted.
# TYPE hyvve_sidecar_key_accepted_versions gauge
hyvve_sidecar_key_accepted_versions{key="TOKEN"} 2
# HELP hyvve_sidecar_key_created_timestamp_seconds When that version was made.
# TYPE hyvve_sidecar_key_created_timestamp_seconds gauge
hyvve_sidecar_key_created_timestamp_seconds{key="TOKEN"} 1.7954856e+09
# HELP hyvve_sidecar_proxy_old_requests Requests that presented an accepted value other than the newest, of versions that are still accepted.
# TYPE hyvve_sidecar_proxy_old_requests gauge
hyvve_sidecar_proxy_old_requests{key="TOKEN"} 7
# HELP hyvve_sidecar_reloads_total Reloads of the workload, by how they ended.
# TYPE hyvve_sidecar_reloads_total counter
hyvve_sidecar_reloads_total{result="failure"} 1
hyvve_sidecar_reloads_total{result="not_running"} 1
hyvve_sidecar_reloads_total{result="success"} 1
# HELP hyvve_sidecar_vault_errors_total Requests that Vault did not take, logins included.
# TYPE hyvve_sidecar_vault_errors_total counter
hyvve_sidecar_vault_errors_total 1
# HELP hyvve_sidecar_vault_up Whether Vault took the last request.
# TYPE hyvve_sidecar_vault_up gauge
hyvve_sidecar_vault_up 0
`
	if err := testutil.GatherAndCompare(b.Registry(), strings.NewReader(want),
		"hyvve_sidecar_destination_up", "hyvve_sidecar_rollout_pods", "hyvve_sidecar_key_accepted_versions", "hyvve_sidecar_key_created_timestamp_seconds", "hyvve_sidecar_proxy_old_requests",
		"hyvve_sidecar_reloads_total", "hyvve_sidecar_vault_errors_total", "hyvve_sidecar_vault_up"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(b.Registry(), "hyvve_sidecar_reencrypt_rows"); err != nil || n != 18 {
		t.Errorf("%d rows of re-encryption, %v", n, err)
	}
}

// Since is when Vault came or went, not when it was asked last.
func TestVaultSince(t *testing.T) {
	b := NewBoard(State{Vault: &Vault{}}, nil)
	for at, up := range []bool{true, true, false, false, true} {
		b.VaultIs(up, "", now.Add(time.Duration(at)*time.Minute))
		want := now.Add([]time.Duration{0, 0, 2, 2, 4}[at] * time.Minute)
		if got := b.State().Vault; got.Up != up || !got.Since.Equal(want) {
			t.Errorf("after %d: %+v", at, got)
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "end one of the two") {
		t.Errorf("a socket in use: %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as if it was killed
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatalf("a socket that was left: %v", err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	_ = second.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file is there: %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "kept" {
		t.Errorf("%q, %v", data, err)
	}
}

// An address answers any client with metrics and probes alone, and a socket with all. Serving ends with its context though a
// client keeps its connection.
func TestAdversaryStatusListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	b := NewBoard(State{Reason: "Get https://vault.internal:8200: refused", Vault: &Vault{Address: "https://vault.internal:8200"}}, func(s *State) { s.Sightings = []workload.Sighting{{Env: "LIVE"}} })
	socket := filepath.Join(t.TempDir(), "s")
	own, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() { defer close(done); b.Serve(ctx, slog.New(slog.DiscardHandler), l, own) }()
	for path, want := range map[string]string{"/status": "LIVE", "/readyz": "vault.internal", "/await?for=1ms": "LIVE"} {
		resp, err := Get(t.Context(), socket, path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if !strings.Contains(string(body), want) {
			t.Errorf("%s of the socket: %s", path, body)
		}
	}
	client := &http.Client{Transport: &http.Transport{}}
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/readyz": 503, "/status": 404, "/await": 404, "/": 404, "/debug/pprof/": 404} {
		resp, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want || path != "/metrics" && strings.Contains(body.String(), "LIVE") || strings.Contains(body.String(), "vault.internal") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body.String())
		}
	}
	resp, err := client.Post("http://"+l.Addr().String()+"/metrics", "", http.NoBody)
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	cancel()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("it does not end")
	}
}

// A neighbor who opens connections and says nothing takes no more memory than a few of them need, and keeps no probe out.
func TestAdversaryStatusConnections(t *testing.T) {
	b := NewBoard(full(), nil)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Serve(ctx, slog.New(slog.DiscardHandler), l) }()
	defer func() { end(); <-done }()
	const neighbors = 4 * maxConns
	closed := make(chan struct{}, neighbors)
	for range neighbors {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // of a test
		go func() {
			_, _ = conn.Read(make([]byte, 1))
			closed <- struct{}{}
		}()
	}
	late := time.After(headTime / 2) // later the server ends all that say nothing
	for n := range neighbors - maxConns {
		select {
		case <-closed:
		case <-late:
			t.Fatalf("%d of %d connections were closed", n, neighbors)
		}
	}
	response, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
}
