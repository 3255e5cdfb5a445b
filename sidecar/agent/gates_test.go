// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// counter is a workload's.
type counter struct {
	value  atomic.Int64
	asked  atomic.Int64
	bearer atomic.Value
	server *httptest.Server
}

func newCounter(t *testing.T) *counter {
	c := &counter{}
	c.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		c.bearer.Store(r.Header.Get("Authorization"))
		fmt.Fprintf(w, "# TYPE refused_total counter\nrefused_total %d\n", c.value.Load())
	}))
	t.Cleanup(c.server.Close)
	return c
}

// gated adds to the agent's configuration a gate on the counter, made as from a file.
func (c *counter) gated(t *testing.T, window string) func(*running, *Config) {
	most := 5.0
	return func(_ *running, gated *Config) {
		gated.Health = []config.HealthBlock{{Method: "prometheus", URL: c.server.URL, Metric: "refused_total", MaxIncrease: &most, Window: window, Key: "TOKEN", Interval: "10ms"}}
		own, err := Check(config.File{Workload: "api", Vault: anyVault(), Render: gated.Render, Health: gated.Health})
		if err != nil {
			t.Fatal(err)
		}
		gated.Interval, gated.Deadline, gated.Successes, gated.Failures = own.Interval, own.Deadline, own.Successes, own.Failures
		gated.Checker, gated.gateKeys = own.Checker, own.gateKeys
	}
}

// The counter is looked at before the reload; the verdict comes during the soak time, at once, and is reported with its
// reason; a restart of the sidecar does not make it forgotten, nor does another place in the rotation; and it ends.
func TestGateOnTheReport(t *testing.T) {
	c := newCounter(t)
	c.value.Store(100)
	dir := t.TempDir()
	r := startAgentWith(t, dir, nil, c.gated(t, "8s"))
	r.await("first", loaded("etag-1-0"))
	if got := c.bearer.Load(); got != "Bearer "+canary+"-1" {
		t.Errorf("it is asked with %v", got)
	}
	r.fake.change(func() { r.fake.version = 2 })
	r.await("second", loaded("etag-2-0")) // well, as long as nothing speaks against it
	c.value.Add(6)
	const why = "refused_total has grown by 6 in the "
	report := r.await("grown", unhealthy(why))
	if report["etag"] != "etag-2-0" {
		t.Errorf("loaded is %v", report["etag"])
	}
	r.stop()
	r = startAgentWith(t, dir, nil, func(r2 *running, gated *Config) {
		r2.fake.version = 2
		r2.fake.work = []workload.Work{{ID: "w", Phase: workload.PhaseStage}} // another etag of the same content
		c.gated(t, "8s")(r2, gated)
	})
	r.await("after a restart", unhealthy(why))
	r.await("a whole window later", loaded("etag-2-1"))
	asked := c.asked.Load()
	c.value.Add(1000)
	r.fake.change(func() { r.fake.version = 3 })
	r.await("third", loaded("etag-3-1")) // what came before the change does not count
	if c.asked.Load() == asked {
		t.Error("it is not asked before a change")
	}
}

// What happens between the rendering and the end of the reload counts.
func TestGateCountsDuringTheReload(t *testing.T) {
	c := newCounter(t)
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, gated *Config) {
		c.gated(t, "1m")(r, gated)
		gated.Reloader = reloaderFunc(func() error { c.value.Add(6); return nil })
	})
	report := r.await("grown", unhealthy("refused_total has grown by 6"))
	if report["etag"] != "" {
		t.Errorf("loaded is %v", report["etag"])
	}
}

// sleeper is a process beside us, whose number is in a file.
func sleeper(t *testing.T, pidFile string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err := os.WriteFile(pidFile+".new", []byte(fmt.Sprint(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(pidFile+".new", pidFile); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// A workload that ends of its signal, as while it is being reloaded, is unhealthy, without any health block. One that is
// started again has read the files. One that is started again and again is unhealthy.
func TestWorkloadIsKilledAgainAndAgain(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := sleeper(t, pidFile)
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Reloader = reload.Signal{PIDFile: pidFile, Signal: syscall.SIGUSR1} // sleep ends of it
		c.Interval = 10 * time.Millisecond
		c.Deadline = 500 * time.Millisecond
	})
	r.await("it ended", unhealthy("the workload is not running"))
	_ = cmd.Wait()
	<-time.After(20 * time.Millisecond) // starts are known to a hundredth of a second
	loops := unhealthy("the workload was restarted 3 times in ")
	var report map[string]any
	starts := 0
	for ; report == nil || !loops(report); starts++ {
		cmd = sleeper(t, pidFile)
		report = r.await("started anew", func(report map[string]any) bool { return loops(report) || loaded("etag-1-0")(report) })
		if !loops(report) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			r.await("it is gone", unhealthy("the workload is not running"))
		}
	}
	if starts < 3 || starts > 4 { // the first process, which ended of its signal, may have been seen or not
		t.Errorf("it loops after %d starts", starts)
	}
	if report["etag"] != "etag-1-0" {
		t.Errorf("loaded is %v", report["etag"])
	}
	r.fake.change(func() { r.fake.version = 2 }) // sleep ends of the signal
	r.await("the next change", unhealthy("the workload is not running"))
	sleeper(t, pidFile)
	r.await("it begins anew with a change", loaded("etag-2-0"))
}

// A sidecar that runs the workload ends and starts with it: it knows of the earlier starts by what it keeps beside the files.
func TestExecCrashLoop(t *testing.T) {
	fake, dir := newFakeVault(t), t.TempDir()
	for n := range 5 {
		want := loaded("etag-1-0")
		switch n {
		case 3:
			want = unhealthy("the workload was restarted 3 times in ")
		case 4:
			fake.change(func() { fake.version = 2 })
			want = loaded("etag-2-0")
		}
		e := startExec(t, fake, dir, `while [ ! -e "$DIR/end" ]; do sleep 0.05; done; rm "$DIR/end"; exit 1`, "--dotenv="+filepath.Join(dir, ".env"))
		e.await(fmt.Sprintf("start %d", n+1), want)
		if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		e.ends(1)
	}
}

func TestTokensOfAKey(t *testing.T) {
	if got := strings.Join(tokens(bundleOf("A", "new", "new", "old"), "A"), ","); got != "new,old" {
		t.Error(got)
	}
	if got := strings.Join(tokens(bundleOf("A", "held", "new"), "A"), ","); got != "new,held" {
		t.Error(got)
	}
	if got := tokens(bundleOf("A", "held"), "B"); len(got) != 0 {
		t.Error(got)
	}
}

func bundleOf(env, value string, accepts ...string) client.Bundle {
	b := client.Bundle{Values: map[string]key.Value{env: key.NewValue(value)}, Accepts: map[string][]key.Value{}}
	for _, v := range accepts {
		b.Accepts[env] = append(b.Accepts[env], key.NewValue(v))
	}
	return b
}

// anyVault is a block that passes the checks, for configurations of which something else is wanted.
func anyVault() *config.VaultBlock {
	return &config.VaultBlock{Address: "http://127.0.0.1:8200", Auth: config.AuthBlock{Method: "token_file", Path: "/run/token"}}
}
