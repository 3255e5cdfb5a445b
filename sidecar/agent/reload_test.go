// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// A command that hangs, that floods, or that fails is reported with the end of its output, in which no value stands; and it
// is run again less and less often.
func TestReloadCommandFails(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"hangs":  {`cat "$1"; sleep 600 & wait`, "not done after 500ms: "},
		"floods": {`head -c 1000000 /dev/zero | tr '\0' x; cat "$1"; exit 3`, "exit status 3: …xxx"},
		"fails":  {`cat "$1"; exit 3`, "exit status 3: "},
	} {
		t.Run(name, func(t *testing.T) {
			runs := filepath.Join(t.TempDir(), "runs")
			r := startAgentWith(t, t.TempDir(), nil, func(r *running, c2 *Config) {
				c2.Reloader = reload.Command{Args: []string{"sh", "-c", `echo >>"$2"; ` + c.script, "sh", r.path, runs}, Timeout: 500 * time.Millisecond}
			})
			begun := time.Now()
			report := r.await("what it says", unhealthy(c.want))
			if reason := fmt.Sprint(report["reason"]); !strings.Contains(reason, "[redacted]") || strings.Contains(reason, canary) || len(reason) > 1000 {
				t.Errorf("the reason is %q", reason)
			}
			r.holds("it is run again", func() bool {
				data, _ := os.ReadFile(runs)
				return strings.Count(string(data), "\n") >= 4
			})
			if took := time.Since(begun); took < 700*time.Millisecond { // 100, 200 and 400 ms at least
				t.Errorf("four runs in %s", took)
			}
		})
	}
}

// A workload that ends while its reload fails is not forgotten: once it runs again, it is reloaded.
func TestWorkloadEndsWhileItsReloadFails(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
		c.Interval, c.Deadline = 10*time.Millisecond, 50*time.Millisecond
		r.reloads.set(errors.New("not now"))
	})
	r.await("the fault", unhealthy("not now"))
	r.reloads.set(reload.ErrNotRunning)
	r.await("the end", unhealthy("not running"))
	r.reloads.set(nil)
	r.await("it runs again", loaded("etag-1-0"))
}

// gateway is a Reloader that stands still until it is let go.
type gateway struct{ entered, leave chan struct{} }

func (g gateway) Reload(ctx context.Context) error {
	g.entered <- struct{}{}
	select {
	case <-g.leave:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// Whatever comes during a reload is one more reload, and none runs beside another.
func TestChangesDuringAReload(t *testing.T) {
	g := gateway{make(chan struct{}), make(chan struct{})}
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) { c.Reloader = g })
	enter := func() {
		t.Helper()
		select {
		case <-g.entered:
		case <-time.After(30 * time.Second):
			t.Fatalf("no reload; log:\n%s", r.log)
		}
	}
	enter()
	for n := 2; n <= 6; n++ {
		r.fake.change(func() { r.fake.version = n })
	}
	g.leave <- struct{}{}
	enter()
	if !strings.Contains(r.file(), canary+"-6") {
		t.Error("the second reload is not for the newest content")
	}
	g.leave <- struct{}{}
	r.await("the newest", loaded("etag-6-0"))
	select {
	case <-g.entered:
		t.Error("there was a third reload")
	case <-time.After(300 * time.Millisecond):
	}
}

// A workload that ignores its signal shows by the etag that it continues answering with.
func TestWorkloadIgnoresTheSignal(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(health.EtagHeader, "etag-1-0") }))
	defer server.Close()
	cmd := exec.Command("sh", "-c", `trap '' HUP; echo ready; exec sleep 600`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(pidFile, []byte(fmt.Sprint(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Reloader = reload.Signal{PIDFile: pidFile, Signal: syscall.SIGHUP}
		c.Checker = health.HTTP{URL: server.URL, Timeout: 10 * time.Second, ExpectEtag: true}
		c.Deadline, c.Interval = 300*time.Millisecond, 20*time.Millisecond
	})
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.version = 2 })
	if report := r.await("not taken up", unhealthy("has not loaded the new bundle yet")); report["etag"] != "" {
		t.Errorf("loaded is %v", report["etag"])
	}
}
