// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

const canary = "canary-secret-value"

// fakeVault speaks the engine's contract, for faults that a real one cannot be made to show at will. The scenarios of
// test/e2e have the real one.
type fakeVault struct {
	t      *testing.T
	server *httptest.Server

	mu       sync.Mutex
	version  int
	suffix   string // of values
	work     []workload.Work
	secret   int                      // of the newest read
	newest   map[string]int           // the same, by workload
	fail     map[string]int           // status by kind of request, or by kind/workload, until it is taken out
	says     string                   // with which they fail
	hold     map[string]chan struct{} // requests by kind/workload that wait until it is closed
	lose     map[string]int           // replies of a kind to lose after the request was served
	late     map[string]chan struct{} // replies of a kind that wait until it is closed, after the request was served
	lease    int                      // seconds
	token    int                      // seconds; 0: it does not end
	changed  chan struct{}
	requests map[string]int
	older    bool // an engine that does not extend leases
	reports  chan map[string]any
	conflict string   // what each watch says of it
	ends     int      // retry_after with which it ends the watch that is open; 0: not
	readOnly bool     // its policy or its release lets nobody write to creds
	proofs   []string // secrets that came with reads of bundles

	tripwires map[string]any // nil: an engine that has none
}

func newFakeVault(t *testing.T) *fakeVault {
	f := &fakeVault{
		t: t, version: 1, fail: map[string]int{}, says: "injected", hold: map[string]chan struct{}{}, lose: map[string]int{}, lease: 60, changed: make(chan struct{}), requests: map[string]int{}, newest: map[string]int{},
		reports: make(chan map[string]any, 1000),
	}
	f.server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeVault) etag() string { return fmt.Sprintf("etag-%d-%d", f.version, len(f.work)) }

// change lets a fault begin or end, or the bundle be another.
func (f *fakeVault) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeVault) count(kind string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[kind]
}

func (f *fakeVault) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v1/"), "hyvve/")
	kind, name, _ := strings.Cut(path, "/")
	f.mu.Lock()
	f.requests[kind]++
	f.requests[path]++
	if held := f.hold[path]; held != nil {
		f.mu.Unlock()
		<-held
		f.mu.Lock()
	}
	says, status, ttl := f.says, max(f.fail[kind], f.fail[path]), f.token
	lost, late := f.lose[kind] > 0, f.late[kind]
	f.lose[kind]--
	f.mu.Unlock()
	if status != 0 {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{says}})
		return
	}
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	answer := map[string]any{}
	switch kind {
	case "auth":
		answer["data"] = map[string]any{"ttl": ttl, "renewable": false}
		answer["auth"] = map[string]any{"client_token": "by-login", "lease_duration": ttl, "renewable": false}
	case "creds":
		if !f.proved(w, r, body) {
			return
		}
		answer = f.creds(name)
	case "watch":
		answer["data"] = f.watch(r)
	case "report":
		answer["data"] = f.report(w, name, body)
		if answer["data"] == nil {
			return
		}
	}
	if late != nil {
		<-late
	}
	if lost {
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// proved takes what a reader shows.
func (f *fakeVault) proved(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method == http.MethodGet {
		return true
	}
	if f.readOnly {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"errors":["permission denied"]}`))
		return false
	}
	proof, _ := body["instance_secret"].(string)
	f.proofs = append(f.proofs, proof)
	return true
}

func (f *fakeVault) creds(name string) map[string]any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.secret++
	f.newest[name] = f.secret
	value := fmt.Sprintf("%s-%d%s", canary, f.version, f.suffix)
	return map[string]any{
		"lease_id": "hyvve/creds/api/x", "lease_duration": f.lease, "renewable": true,
		"data": map[string]any{
			"values": map[string]any{"TOKEN": value}, "accepts": map[string]any{"TOKEN": []string{value, canary + "-old"}},
			"versions": map[string]any{"TOKEN": f.version}, "accept_versions": map[string]any{"TOKEN": []int{f.version, f.version - 1}}, "etag": f.etag(), "instance": "api-1",
			"instance_secret": fmt.Sprintf("secret-%d", f.secret), "work": f.work, "tripwires": f.tripwires,
		},
	}
}

func (f *fakeVault) watch(r *http.Request) map[string]any {
	for {
		f.mu.Lock()
		etag, changed, ends, conflict := f.etag(), f.changed, f.ends, f.conflict
		f.ends = 0
		f.mu.Unlock()
		if ends != 0 {
			return map[string]any{"etag": etag, "changed": false, "retry_after": ends}
		}
		if etag != r.URL.Query().Get("etag") {
			return map[string]any{"etag": etag, "changed": true, "name_conflict": conflict}
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return nil
		}
	}
}

func (f *fakeVault) report(w http.ResponseWriter, name string, body map[string]any) map[string]any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if body["instance_secret"] != fmt.Sprintf("secret-%d", f.newest[name]) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"errors":["instance_secret is not that of its newest read"]}`))
		return nil
	}
	answer := map[string]any{"accepted": true, "etag": f.etag()}
	if body["extend_lease"] == true && !f.older {
		answer["lease_duration"] = f.lease
	}
	if body["leaving"] == true {
		f.requests["leaving"]++
		f.requests["leaving/"+name]++
		return answer
	}
	if body["healthy"] == nil { // a sign of life alone
		f.requests["extend"]++
		f.requests["extend/"+name]++
		return answer
	}
	f.reports <- body
	return answer
}

// reloads counts what a workload would see.
type reloads struct {
	mu   sync.Mutex
	n    int
	fail error
}

func (r *reloads) Reload(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	return r.fail
}

func (r *reloads) set(fail error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
}

func (r *reloads) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// running is an agent under test.
type running struct {
	t       *testing.T
	stop    func() // and wait for the end
	ends    error  // with which Run ends
	dir     string
	fake    *fakeVault
	reloads *reloads
	path    string
	log     *kit.Log
	agent   *Agent
	config  Config // that it was started with
}

// reencryptor stands for the database.
type reencryptor func(w workload.Work) (workload.WorkReport, error)

func (r reencryptor) Do(_ context.Context, w workload.Work, _ map[string][]key.Value) (workload.WorkReport, error) {
	return r(w)
}

func startAgent(t *testing.T, worker Reencryptor) *running {
	t.Helper()
	return startAgentIn(t, t.TempDir(), worker)
}

func startAgentIn(t *testing.T, dir string, worker Reencryptor) *running {
	t.Helper()
	return startAgentWith(t, dir, worker, func(*running, *Config) {})
}

func startAgentWith(t *testing.T, dir string, worker Reencryptor, change func(r *running, c *Config)) *running {
	t.Helper()
	r := &running{t: t, dir: dir, fake: newFakeVault(t), reloads: &reloads{}, log: &kit.Log{}}
	r.path = filepath.Join(dir, "secrets.json")
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Check(config.File{
		Workload: "api", Instance: "api-1", OnStop: config.OnStopLeave,
		Vault:  &config.VaultBlock{Address: r.fake.server.URL, Auth: config.AuthBlock{Method: "token_file", Path: token}},
		Render: []config.RenderBlock{{Format: "json", Path: r.path}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Reloader = r.reloads
	change(r, &c)
	a, err := New(c, slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	if worker != nil {
		a.jobs = newJobs(func(map[string]key.Value) (Reencryptor, error) { return worker, nil }, a.mask)
	}
	r.agent, r.config = a, c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, r.ends) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		r.stop()
		if strings.Contains(r.log.String(), canary) || strings.Contains(r.log.String(), "secret-1") {
			t.Errorf("a secret stands in the log:\n%s", r.log)
		}
	})
	return r
}

// await returns the first report that is as wanted.
func (r *running) await(what string, wanted func(report map[string]any) bool) map[string]any {
	r.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case report := <-r.fake.reports:
			if wanted(report) {
				return report
			}
		case <-deadline:
			r.t.Fatalf("no report: %s; log:\n%s", what, r.log)
		}
	}
}

func loaded(etag string) func(map[string]any) bool {
	return func(report map[string]any) bool { return report["etag"] == etag && report["healthy"] == true }
}

func (r *running) file() string {
	data, _ := os.ReadFile(r.path)
	return string(data)
}

func TestFollowsTheBundle(t *testing.T) {
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	if !strings.Contains(r.file(), canary+"-2") || r.reloads.count() != 2 {
		t.Errorf("%d reloads; file: %v", r.reloads.count(), strings.Contains(r.file(), canary+"-2"))
	}
}

// While Vault answers with errors the files stay; when it is back, the agent is too.
func TestTroubleWithVault(t *testing.T) {
	for kind, status := range map[string]int{"watch": 503, "creds": 429, "report": 412, "auth": 500} {
		t.Run(fmt.Sprintf("%s %d", kind, status), func(t *testing.T) {
			r := startAgent(t, nil)
			r.await("first", loaded("etag-1-0"))
			r.fake.change(func() { r.fake.fail[kind], r.fake.fail["watch"] = status, status })
			before := r.fake.count("watch")
			r.holds("the agent tries again", func() bool { return r.fake.count("watch") >= before+2 })
			r.fake.change(func() { r.fake.version = 2 }) // after that: a watch that had begun before would tell of it
			if !strings.Contains(r.file(), canary+"-1") || r.reloads.count() != 1 {
				t.Error("files or workload were touched while Vault was away")
			}
			r.fake.change(func() { clear(r.fake.fail) })
			r.await("second", loaded("etag-2-0"))
		})
	}
}

func TestDeniedLogsInAgain(t *testing.T) {
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	logins := r.fake.count("auth")
	r.fake.change(func() { r.fake.fail["watch"] = 403; r.fake.version = 2 })
	r.holds("the agent logs in again", func() bool { return r.fake.count("auth") > logins })
	r.fake.change(func() { clear(r.fake.fail) })
	r.await("second", loaded("etag-2-0"))
}

// Somebody else read the bundle as this instance: the report is refused, and the bundle is read again.
func TestSupersededInstanceReadsAgain(t *testing.T) {
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() {
		r.fake.newest["api"] += 10
		r.fake.work = []workload.Work{{ID: "w1", Phase: workload.PhaseStage}}
	})
	r.await("after being superseded", loaded("etag-1-1"))
	if r.reloads.count() != 1 {
		t.Errorf("%d reloads for the same content", r.reloads.count())
	}
}

func TestFailingReloadIsReportedAndTriedAgain(t *testing.T) {
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	r.reloads.mu.Lock()
	r.reloads.fail = errors.New("it says " + canary + "-2 is wrong")
	r.reloads.mu.Unlock()
	r.fake.change(func() { r.fake.version = 2 })
	report := r.await("unhealthy", func(report map[string]any) bool { return report["healthy"] == false })
	if reason := fmt.Sprint(report["reason"]); !strings.Contains(reason, "[redacted] is wrong") {
		t.Errorf("the reason is %q", reason)
	}
	if report["etag"] == "etag-2-0" {
		t.Error("a bundle that was not taken up is reported as loaded")
	}
	r.reloads.mu.Lock()
	r.reloads.fail = nil
	r.reloads.mu.Unlock()
	r.await("healthy", loaded("etag-2-0"))
}

// Killed between rendering and reloading, a reload is pending; started again in good order, it makes none.
func TestOwedReloadIsMade(t *testing.T) {
	dir := t.TempDir()
	for n, want := range []int{1, 0, 1} {
		if n == 2 { // as a crash would leave it
			target := render.Target{Format: render.JSON, Path: filepath.Join(dir, "secrets.json")}
			if err := target.Begin(); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(fmt.Sprintf("start %d", n+1), func(t *testing.T) {
			r := startAgentIn(t, dir, nil)
			r.await("first", loaded("etag-1-0"))
			if r.reloads.count() != want {
				t.Errorf("%d reloads, want %d", r.reloads.count(), want)
			}
		})
	}
}

// Files that something else renders: one reload a change.
func TestFollowReloads(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(path, []byte("A=1"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Check(config.File{
		Watch:  &config.WatchBlock{Paths: []string{path}, Stable: "10ms", Poll: "20ms"},
		Reload: &config.ReloadBlock{Method: "command", Command: []string{"true"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan struct{}, 10)
	c.Reloader = reloaderFunc(func() error { called <- struct{}{}; return nil })
	log := &kit.Log{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Follow(ctx, c, nil, slog.New(slog.NewTextHandler(log, nil))) }()
	kit.Until(t, "it follows", func() bool { return strings.Contains(log.String(), "following files") }, log.String)
	if err := os.WriteFile(path, []byte("A=2"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-called:
	case <-time.After(kit.Patience):
		t.Fatal("no reload")
	}
	cancel()
	if err := <-done; err != nil || len(called) != 0 {
		t.Errorf("%v, %d further reloads", err, len(called))
	}
}

type reloaderFunc func() error

func (f reloaderFunc) Reload(context.Context) error { return f() }

var _ reload.Reloader = reloaderFunc(nil)

// A workload that starts after its sidecar, as in a pod, is not reported as unhealthy until it had its time: that would fail a rotation
// which the instance has come into.
func TestNothingIsSaidOfAWorkloadThatStarts(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
		c.Deadline = time.Hour
		r.reloads.set(reload.ErrNotRunning)
	})
	r.holds("a lease is extended", func() bool { return r.fake.count("extend") > 0 || r.fake.count("watch") > 0 })
	r.fake.change(func() { r.fake.version = 2 })
	r.holds("another bundle is there", func() bool { return strings.Contains(r.file(), "-2") })
	select {
	case report := <-r.fake.reports:
		t.Errorf("it says %v", report)
	default:
	}
	r.reloads.set(nil)
	if first := r.await("first", func(map[string]any) bool { return true }); !loaded("etag-2-0")(first) {
		t.Errorf("its first word is %v", first)
	}
}
