// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// checker answers what the test sets.
type checker struct {
	answer atomic.Pointer[error]
	asked  chan string // etags
}

func newChecker() *checker { return &checker{asked: make(chan string, 10_000)} }

func (c *checker) say(err error) { c.answer.Store(&err) }

func (c *checker) Check(_ context.Context, etag string) error {
	c.asked <- etag
	if err := c.answer.Load(); err != nil {
		return *err
	}
	return nil
}

func unhealthy(reason string) func(map[string]any) bool {
	return func(report map[string]any) bool {
		return report["healthy"] == false && strings.Contains(fmt.Sprint(report["reason"]), reason)
	}
}

// A healthy workload has not loaded what could not be rendered.
func TestNothingIsLoadedBeforeItIsRendered(t *testing.T) {
	check := newChecker()
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) { c.Checker, c.Interval = check, 10*time.Millisecond })
	r.await("first", loaded("etag-1-0"))
	if err := os.Chmod(r.dir, 0o777); err != nil { // a directory of everybody is refused
		t.Fatal(err)
	}
	r.fake.change(func() { r.fake.version = 2 })
	r.await("what is wrong", unhealthy("writable by everybody"))
	for tries := r.fake.count("report"); r.fake.count("report") < tries+3; {
		select {
		case report := <-r.fake.reports:
			if report["etag"] == "etag-2-0" {
				t.Fatalf("what was never written is reported as loaded: %v", report)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it does not try again")
		}
	}
	if err := os.Chmod(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.await("second", loaded("etag-2-0"))
	if !strings.Contains(r.file(), canary+"-2") || r.reloads.count() != 2 {
		t.Errorf("%d reloads", r.reloads.count())
	}
}

// A process that is not there has loaded nothing. Once it was started, it has, and a signal, which would end it as it
// ends sleep, is not needed.
func TestWorkloadStartsLater(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Reloader = reload.Signal{PIDFile: pidFile, Signal: syscall.SIGHUP}
		c.Deadline, c.Interval = 50*time.Millisecond, 10*time.Millisecond
	})
	report := r.await("not running", unhealthy("pid file "+pidFile+" does not exist"))
	if report["etag"] != "" {
		t.Errorf("a workload that is not there has loaded %v", report["etag"])
	}
	<-time.After(20 * time.Millisecond) // starts are known to a hundredth of a second
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pidFile, []byte(fmt.Sprint(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.await("started", loaded("etag-1-0"))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("the workload was ended by %s", status.Signal())
	}
}

// A workload that takes long is not unhealthy before the deadline, and meanwhile newer bundles are taken up.
func TestSlowWorkload(t *testing.T) {
	check := newChecker()
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Checker, c.Interval, c.Deadline = check, 10*time.Millisecond, time.Minute
	})
	r.await("first", loaded("etag-1-0"))
	check.say(errors.New("not loaded yet"))
	r.fake.change(func() { r.fake.version = 2 })
	report := r.await("still at it", func(report map[string]any) bool { return report["etag"] == "" })
	if report["healthy"] != true {
		t.Errorf("a workload with time left is reported as unhealthy: %v", report)
	}
	check.say(nil)
	r.fake.change(func() { r.fake.version = 3 })
	r.await("third", loaded("etag-3-0"))
}

func TestDeadlineAndRecovery(t *testing.T) {
	check := newChecker()
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Checker, c.Interval, c.Deadline = check, 10*time.Millisecond, 50*time.Millisecond
	})
	r.await("first", loaded("etag-1-0"))
	check.say(errors.New("not yet"))
	r.fake.change(func() { r.fake.version = 2 })
	r.holds("the second is rendered", func() bool { return strings.Contains(r.file(), canary+"-2") }) // a value is known then
	check.say(errors.New("cannot open " + canary + "-2"))
	if report := r.await("unhealthy", unhealthy("cannot open [redacted]")); report["etag"] != "" {
		t.Errorf("loaded is %v", report["etag"])
	}
	check.say(nil)
	r.await("recovered", loaded("etag-2-0"))
	check.say(errors.New("fell ill"))
	if report := r.await("ill", unhealthy("fell ill")); report["etag"] != "etag-2-0" {
		t.Errorf("an illness unloads the bundle: %v", report)
	}
	check.say(nil)
	r.await("well", loaded("etag-2-0"))
	if r.reloads.count() != 2 {
		t.Errorf("%d reloads; illness alone is no reason for one", r.reloads.count())
	}
}

func TestSeveralSuccessesInARow(t *testing.T) {
	check := newChecker()
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Checker, c.Interval, c.Successes = check, time.Millisecond, 3
	})
	r.await("first", loaded("etag-1-0"))
	if n := len(check.asked); n < 3 {
		t.Errorf("loaded after %d checks", n)
	}
}

// script is a checker that answers well or not as it is written, and not at all well from then on.
type script struct{ left atomic.Pointer[[]bool] }

func (s *script) Check(context.Context, string) error {
	left := *s.left.Load()
	if len(left) == 0 {
		return errors.New("down")
	}
	rest := left[1:]
	s.left.Store(&rest)
	if !left[0] {
		return errors.New("down")
	}
	return nil
}

// Bad answers of a workload that was well are no verdict before there are so many in a row.
func TestSeveralFailuresInARow(t *testing.T) {
	check := &script{}
	check.left.Store(&[]bool{true, false, false, true, false, false, true, false})
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Checker, c.Interval, c.Failures = check, time.Millisecond, 3
	})
	r.await("first", loaded("etag-1-0"))
	r.await("illness", unhealthy("down"))
	if left := len(*check.left.Load()); left > 0 {
		t.Errorf("ill although %d answers were still to come", left)
	}
}

// The workload proves itself by the etag that its file has; when only work changed, that is the older one.
func TestCheckedAgainstTheEtagOfTheFile(t *testing.T) {
	check := newChecker()
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) { c.Checker, c.Interval = check, time.Millisecond })
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.work = []workload.Work{{ID: "w", Phase: workload.PhaseStage}} })
	r.await("work", loaded("etag-1-1"))
	for range len(check.asked) + 20 {
		if etag := <-check.asked; etag != "etag-1-0" {
			t.Fatalf("asked for %s", etag)
		}
	}
}

// An engine of an earlier release does not extend leases.
func TestLeaseThatIsNotExtendedReadsAgain(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.fake.lease, r.fake.older = 1, true })
	r.await("first", loaded("etag-1-0"))
	reads := r.fake.count("creds")
	r.await("again", func(map[string]any) bool { return r.fake.count("creds") > reads })
	if r.reloads.count() != 1 {
		t.Errorf("%d reloads for the same content", r.reloads.count())
	}
}

// The engine took the read, and its answer was lost: the secret of that read is gone, and the next read has another.
func TestLostReplies(t *testing.T) {
	for _, kind := range []string{"creds", "report", "watch", "auth"} {
		t.Run(kind, func(t *testing.T) {
			r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.fake.lose[kind] = 2 })
			r.await("first", loaded("etag-1-0"))
			r.fake.change(func() { r.fake.version, r.fake.lose[kind] = 2, 1 })
			r.await("second", loaded("etag-2-0"))
		})
	}
}

// The end of a token would take the lease with it.
func TestLogsInBeforeTheTokenEnds(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.fake.token = 1 })
	r.await("first", loaded("etag-1-0"))
	logins := r.fake.count("auth")
	r.await("with another token", func(map[string]any) bool { return r.fake.count("auth") > logins })
	if r.reloads.count() != 1 {
		t.Errorf("%d reloads for another token", r.reloads.count())
	}
}

func TestAppRole(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
		role, secret := filepath.Join(r.dir, "role"), filepath.Join(r.dir, "secret")
		if err := errors.Join(os.WriteFile(role, []byte("r\n"), 0o600), os.WriteFile(secret, []byte(canary), 0o600)); err != nil {
			t.Fatal(err)
		}
		c.Vault.Auth = config.AuthBlock{Method: "approle", Mount: "approle", RoleIDFile: role, SecretIDFile: secret}
	})
	r.await("first", loaded("etag-1-0"))
}

// Reports extend the lease, so that the bundle is not read again.
func TestReportsExtendTheLease(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.fake.lease = 1 })
	r.await("first", loaded("etag-1-0"))
	reads := r.fake.count("creds")
	for range 3 {
		r.await("again", loaded("etag-1-0"))
	}
	if n := r.fake.count("creds"); n != reads {
		t.Errorf("%d further reads", n-reads)
	}
}

func TestEndTakesLeaveAndKeepsTheFiles(t *testing.T) {
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	before := r.fake.count("leave")
	r.stop()
	if r.fake.count("leave") != before+1 || !strings.Contains(r.file(), canary+"-1") {
		t.Errorf("%d requests to leave", r.fake.count("leave")-before)
	}
}

func TestMask(t *testing.T) {
	a := &Agent{}
	a.hold(client.Bundle{Values: map[string]key.Value{"A": key.NewValue("older")}})
	a.hold(client.Bundle{
		Values:  map[string]key.Value{"A": key.NewValue("abc"), "EMPTY": key.NewValue("")},
		Accepts: map[string][]key.Value{"B": {key.NewValue("abcdef"), key.NewValue("xyz")}},
	})
	if got := a.mask("abcdef abc xyz older rest"); got != "[redacted] [redacted] [redacted] [redacted] rest" {
		t.Error(got)
	}
}

// A reload that fails for longer than the deadline is made in the end: the change is not lost.
func TestFollowReloadsUntilItWorks(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(path, []byte("A=1"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Check(config.File{
		Watch:  &config.WatchBlock{Paths: []string{path}, Stable: "10ms", Poll: "20ms"},
		Reload: &config.ReloadBlock{Method: "command", Command: []string{"true"}},
		Health: []config.HealthBlock{{Method: "none", Deadline: "1ms"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := make(chan int, 10)
	n := 0
	c.Reloader = reloaderFunc(func() error {
		if n++; n < 3 {
			return errors.New("not now")
		}
		calls <- n
		return nil
	})
	log := slog.New(slog.NewTextHandler(&kit.Log{}, nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		follow(ctx, c, &fileMask{paths: c.Watch.Paths}, newBoard(c, nil), log)
	}()
	select {
	case <-calls:
	case <-time.After(30 * time.Second):
		t.Error("it was given up")
	}
	cancel()
	<-done
}

// A check that is cut short by the end is no verdict.
func TestFollowEndsWithoutAVerdict(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := Config{Checked: config.Checked{Interval: time.Hour, Deadline: time.Hour, Successes: 2}, Reloader: reloaderFunc(func() error { return nil })}
	c.Checker = checkerFunc(func() error { cancel(); return nil })
	log := &kit.Log{}
	board := newBoard(Config{Checked: config.Checked{File: config.File{Watch: &config.WatchBlock{}}}}, nil)
	follow(ctx, c, &fileMask{}, board, slog.New(slog.NewTextHandler(log, nil)))
	if s := board.State(); !s.Healthy || s.Reason != "" || strings.Contains(log.String(), "not healthy") {
		t.Errorf("%v %q; log:\n%s", s.Healthy, s.Reason, log)
	}
}

type checkerFunc func() error

func (f checkerFunc) Check(context.Context, string) error { return f() }
