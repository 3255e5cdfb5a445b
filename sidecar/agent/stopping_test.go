// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// stopsAs stops the sidecar and wants its instance to be held or left.
func (r *running) stopsAs(want string) {
	r.t.Helper()
	leaves, holds := r.fake.count("leave"), r.fake.count("leaving")
	r.stop()
	leaves, holds = r.fake.count("leave")-leaves, r.fake.count("leaving")-holds
	if got := map[[2]int]string{{1, 0}: "left", {0, 1}: "held"}[[2]int{leaves, holds}]; got != want {
		r.t.Errorf("the instance is %q (%d left, %d held), want %s; log:\n%s", got, leaves, holds, want, r.log)
	}
}

// A sidecar that stops beside its workload keeps the instance, and the next one has it at once.
func TestStopBesideTheWorkload(t *testing.T) {
	dir := t.TempDir()
	start := func() *running {
		return startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.OnStop = config.OnStopHold })
	}
	r := start()
	r.await("first", loaded("etag-1-0"))
	r.stopsAs("held")
	if !strings.Contains(r.file(), canary+"-1") {
		t.Error("the files are gone")
	}
	r = start()
	r.await("first", loaded("etag-1-0"))
	if shown := r.fake.shown(); len(shown) == 0 || shown[0] != "secret-1" {
		t.Errorf("the next process shows %q", shown)
	}
}

// Vault may have served a read whose answer is still to come when the sidecar stops: then it believes the secret of that read alone.
func TestStopDuringARead(t *testing.T) {
	dir := t.TempDir()
	start := func() *running {
		return startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.OnStop = config.OnStopHold })
	}
	r := start()
	r.await("first", loaded("etag-1-0"))
	answer := make(chan struct{})
	r.fake.change(func() { r.fake.version, r.fake.late = 2, map[string]chan struct{}{"creds": answer} })
	r.until("it is read again", func() bool {
		r.fake.mu.Lock()
		defer r.fake.mu.Unlock()
		return r.fake.secret == 2
	})
	time.AfterFunc(readTime/4, func() { close(answer) })
	r.stopsAs("held")
	if kept, err := r.agent.config.keptSecret(); err != nil || kept.Reveal() != "secret-2" {
		t.Errorf("the secret of the read before is kept (%v)", err)
	}
}

// Where the answer to a read does not come, the end does not wait for it long.
func TestStopDuringAReadWithoutAnswer(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) { c.OnStop = config.OnStopHold })
	r.await("first", loaded("etag-1-0"))
	answer := make(chan struct{})
	t.Cleanup(func() { close(answer) })
	before := r.fake.count("creds")
	r.fake.change(func() { r.fake.version, r.fake.hold["creds/api"] = 2, answer })
	r.until("it is read again", func() bool { return r.fake.count("creds") > before })
	begun := time.Now()
	r.stopsAs("held") // the read was not served: the secret before is good
	if took := time.Since(begun); took < readTime || took > readTime+2*time.Second {
		t.Errorf("the end took %s", took)
	}
}

// The instance of an earlier configuration is kept, too, as long as the workload may use what it presents.
func TestStopHoldsTheFormerInstance(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) { c.OnStop = config.OnStopHold })
	r.await("loaded", loaded("etag-1-0"))
	r.reloads.set(fmt.Errorf("it hangs"))
	r.fake.change(func() { r.fake.suffix = "-web" })
	r.rename("web")
	r.says("workload not reloaded")
	r.stop()
	if api, web, left := r.fake.count("leaving/api"), r.fake.count("leaving/web"), r.fake.count("leave"); api != 1 || web != 1 || left != 0 {
		t.Errorf("held: api %d times, web %d times; left: %d", api, web, left)
	}
}

// A Vault that is silent, sealed, or refuses the report holds the end up for a moment only.
func TestStopWhileVaultIsInTrouble(t *testing.T) {
	for name, trouble := range map[string]func(*fakeVault){
		"silent":  func(f *fakeVault) { f.hold = map[string]chan struct{}{"report/api": make(chan struct{})} },
		"sealed":  func(f *fakeVault) { f.fail["report"] = 503 },
		"refuses": func(f *fakeVault) { f.fail["report"] = 400 },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.OnStop = config.OnStopHold })
			r.await("first", loaded("etag-1-0"))
			r.fake.change(func() { trouble(r.fake) })
			begun := time.Now()
			r.stop()
			if took := time.Since(begun); took > leaveTime+2*time.Second {
				t.Errorf("the end took %s", took)
			}
			if kept, _ := filepath.Glob(filepath.Join(dir, ".instance-*")); len(kept) != 1 || r.fake.count("leave") != 0 {
				t.Errorf("kept: %q; left %d times", kept, r.fake.count("leave"))
			}
			r.fake.change(func() {
				for _, held := range r.fake.hold {
					close(held)
				}
			})
			r.says("the instance counts until its lease ends")
		})
	}
}

// workloadIn starts a process and writes its number to a file.
func workloadIn(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err := os.WriteFile(path, fmt.Appendln(nil, cmd.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// comesBack is when a workload that has ended is there again, and half of the time in which the sidecar expects that.
const comesBack = 500 * time.Millisecond

// later does something after comesBack. The test does not end before.
func later(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	time.AfterFunc(comesBack, func() {
		defer close(done)
		do()
	})
	t.Cleanup(func() { <-done })
}

// Where the workload is signalled, the sidecar knows whether its process has ended.
func TestStopKnowsTheProcess(t *testing.T) {
	end := func(t *testing.T, cmd *exec.Cmd) {
		t.Helper()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, cmd *exec.Cmd, path string)
		want      string
	}{
		"it runs":                        {func(*testing.T, *exec.Cmd, string) {}, "held"},
		"it has ended":                   {func(t *testing.T, cmd *exec.Cmd, _ string) { end(t, cmd) }, "left"},
		"it has ended, without its file": {func(t *testing.T, cmd *exec.Cmd, path string) { end(t, cmd); _ = os.Remove(path) }, "left"},
		"it runs, without its file":      {func(_ *testing.T, _ *exec.Cmd, path string) { _ = os.Remove(path) }, "held"},
		"it was not waited for": {func(t *testing.T, cmd *exec.Cmd, _ string) {
			_ = cmd.Process.Signal(syscall.SIGKILL)
			kit.Until(t, "it has ended", func() bool { p, err := proc.Read(cmd.Process.Pid); return err != nil || p.Ended() })
		}, "left"},
		"another one runs": {func(t *testing.T, cmd *exec.Cmd, path string) { workloadIn(t, path); end(t, cmd) }, "held"},
		"it is started again": {func(t *testing.T, cmd *exec.Cmd, path string) {
			end(t, cmd)
			later(t, func() { workloadIn(t, path) })
		}, "held"},
		"its file cannot be read": {func(t *testing.T, cmd *exec.Cmd, path string) {
			end(t, cmd)
			_ = os.WriteFile(path, []byte("?"), 0o600)
		}, "held"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "pid")
			cmd := workloadIn(t, path)
			r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
				c.OnStop, c.RestartsWithin = config.OnStopHold, 2*comesBack
				c.Reloader = reload.Signal{PIDFile: path, Signal: syscall.SIGCONT}
			})
			r.await("first", loaded("etag-1-0"))
			meanwhileSeen(r)
			c.meanwhile(t, cmd, path)
			r.stopsAs(c.want)
		})
	}
	t.Run("it was never seen", func(t *testing.T) {
		r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
			c.OnStop = config.OnStopHold
			c.Reloader = reload.Signal{PIDFile: filepath.Join(r.dir, "none"), Signal: syscall.SIGHUP}
		})
		r.until("its files are there", func() bool { _, err := os.Stat(r.path); return err == nil })
		r.stopsAs("held")
	})
}

// meanwhileSeen waits until a check has seen the process, which the report of it follows.
func meanwhileSeen(r *running) {
	r.t.Helper()
	r.until("it is well", func() bool { return r.agent.board.State().Healthy })
}

// In a pod, Kubernetes ends the workload before its native sidecar: where nobody listens any more, it has ended.
func TestStopInAPod(t *testing.T) {
	t.Setenv("HYVVE_POD", "api-0")
	t.Setenv("HYVVE_NAMESPACE", "apps")
	for name, c := range map[string]struct {
		listens, pod, again bool
		want                string
	}{
		"it listens":          {true, true, false, "held"},
		"nobody listens":      {false, true, false, "left"},
		"it listens again":    {false, true, true, "held"},
		"it listens, no pod":  {true, false, false, "held"},
		"nobody listens here": {false, false, false, "held"},
	} {
		t.Run(name, func(t *testing.T) {
			if !c.pod {
				t.Setenv("HYVVE_POD", "")
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			r := startAgentWith(t, t.TempDir(), nil, func(_ *running, o *Config) {
				o.OnStop, o.RestartsWithin = config.OnStopHold, 2*comesBack
				o.Health = []config.HealthBlock{{Method: "http", URL: "http://" + l.Addr().String() + "/health"}, {Method: "command", Command: []string{"true"}}}
			})
			r.await("first", loaded("etag-1-0"))
			if !c.listens {
				_ = l.Close()
			}
			if c.again {
				later(t, func() {
					if l, err := net.Listen("tcp", l.Addr().String()); err == nil {
						t.Cleanup(func() { _ = l.Close() })
					}
				})
			}
			r.stopsAs(c.want)
		})
	}
}

// That nobody listens says nothing of a workload that still starts, nor of one whose health is checked through the sidecar's own proxy. The
// end of a pod whose sidecar writes Secrets says nothing of the pods that read them.
func TestNobodyListensInAPod(t *testing.T) {
	t.Setenv("HYVVE_POD", "writer-0")
	t.Setenv("HYVVE_NAMESPACE", "apps")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	a := &Agent{}
	a.config.RestartsWithin = time.Millisecond
	a.config.Health = []config.HealthBlock{{Method: "tcp", Address: l.Addr().String()}}
	if a.workloadEnded() {
		t.Error("it has ended, and may not listen yet")
	}
	a.proved = true
	if !a.workloadEnded() {
		t.Error("nobody listens, and it has not ended")
	}
	a.config.Listeners = []config.Listener{{Address: l.Addr().String()}}
	if a.workloadEnded() {
		t.Error("it has ended, since the sidecar's own proxy has")
	}
	a.config.Listeners = nil
	a.config.Destinations = []Destination{{}}
	if a.workloadEnded() {
		t.Error("its pods have ended with the sidecar")
	}
}
