// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func TestOneThatDoesNotStopIsKilled(t *testing.T) {
	s := supervise(t, `trap "" TERM; says "pid $$"; while :; do sleep 0.05; done`, func(o *Options) { o.StopTimeout = 100 * time.Millisecond })
	s.load(bundle(1))
	first := number(t, strings.TrimPrefix(s.hears(1, "pid "), "pid "))
	begun := time.Now()
	s.load(bundle(2))
	if took := time.Since(begun); took < 100*time.Millisecond {
		t.Errorf("killed after %s", took)
	}
	s.until("the second one runs", func() bool { return len(s.said()) == 2 })
	if kit.Alive(first) || !strings.Contains(s.log.String(), "does not stop in time") {
		t.Errorf("alive: %v; log:\n%s", kit.Alive(first), s.log)
	}
}

// What the workload has started goes with it: asked first, then killed, before the next one starts.
func TestTheWholeTreeEnds(t *testing.T) {
	s := supervise(t, `
		(trap 'echo asked >>"$DIR/polite"; exit' TERM; says ready; sleep 60 & wait) &
		(trap '' TERM; says ready; exec sleep 60) &
		says "child $! $TOKEN"; wait`, func(o *Options) { o.StopTimeout = 300 * time.Millisecond })
	s.load(bundle(1))
	s.until("both have set their traps", func() bool { return len(s.said()) == 3 })
	said := s.said()
	child := strings.Fields(said[slices.IndexFunc(said, func(line string) bool { return strings.HasPrefix(line, "child ") })])
	s.load(bundle(2))
	if kit.Alive(number(t, child[1])) {
		t.Error("a child that ignores the signal survives a restart")
	}
	if data, err := os.ReadFile(filepath.Join(s.dir, "polite")); err != nil || string(data) != "asked\n" {
		t.Errorf("a child was not asked: %q, %v", data, err)
	}
	s.until("the next one runs", func() bool {
		return slices.ContainsFunc(s.said(), func(line string) bool { return strings.HasSuffix(line, canary+"-2") })
	})
}

// Orphans are reaped. A command that this process has started itself keeps its status, however late it is asked for.
func TestOrphansAreReaped(t *testing.T) {
	s := supervise(t, `for i in 1 2 3; do (setsid sh -c 'echo $$ >>"$DIR/said"; exit 1' &); done; rests`, nil)
	s.load(bundle(1))
	s.until("all orphans have run", func() bool { return len(s.said()) == 3 })
	var orphans []int
	for _, line := range s.said() {
		orphans = append(orphans, number(t, line))
	}
	for range 20 {
		if err := exec.CommandContext(t.Context(), "/bin/sh", "-c", "exit 3").Run(); err == nil || err.Error() != "exit status 3" {
			t.Errorf("the status of an own child: %v", err)
		}
	}
	s.until("no orphan is left", func() bool {
		left := reload.Unreaped()
		return !slices.ContainsFunc(orphans, func(pid int) bool { return slices.Contains(left, pid) || kit.Alive(pid) })
	})
}

func TestCannotBeStarted(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		command string
		status  int
		want    string
	}{
		"no such file":   {filepath.Join(dir, "nothing"), 127, "no such file"},
		"not in PATH":    {"hyvve-no-such-program", 127, "PATH finds"},
		"not executable": {write("text", "#!/bin/sh\n", 0o600), 126, "permission denied"},
		"no program":     {write("binary", "\x01\x02", 0o700), 126, "exec format error"},
		"directory":      {dir, 126, "is a directory"},
		"no interpreter": {write("script", "#!/no/such/sh\n", 0o700), 127, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			s := supervise(t, "", func(o *Options) { o.Command = []string{c.command, "argument-with-a-password"} })
			if _, err := s.Provide(bundle(1)); err != nil {
				t.Fatal(err)
			}
			err := s.Reload(t.Context())
			var unstartable *StartError
			if !errors.As(err, &unstartable) || unstartable.Status != c.status || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.command) {
				t.Errorf("%v", err)
			}
			if strings.Contains(err.Error(), "password") {
				t.Errorf("arguments are in the error: %v", err)
			}
			s.ends(c.status)
		})
	}
}

// A program that is away for a moment, as while it is being replaced, costs the process that runs nothing.
func TestProgramIsAwayAtAChange(t *testing.T) {
	for _, overlap := range []bool{false, true} {
		s := supervise(t, `says "$HYVVE_ETAG"; rests`, func(o *Options) {
			o.Overlap, o.ByEtag, o.Checker, o.ReadyTimeout = overlap, true, good{}, time.Second
		})
		away := s.o.Command
		s.load(bundle(1))
		s.hears(1, "etag-1")
		s.o.Command = []string{filepath.Join(s.dir, "nothing")}
		if err := s.change(t.Context(), 2); err == nil || !strings.Contains(err.Error(), "continues") || !kit.Alive(s.current.pid()) {
			t.Errorf("%v", err)
		}
		s.o.Command = away
		if err := s.change(t.Context(), 2); err != nil {
			t.Error(err)
		}
		s.hears(2, "etag-2")
	}
}

// good is a workload that is always well.
type good struct{}

func (good) Check(context.Context, string) error { return nil }

func TestCheckWaitsAMoment(t *testing.T) {
	s := supervise(t, `trap 'exit 1' HUP; rests`, nil)
	if err := s.Check(t.Context(), ""); !errors.Is(err, reload.ErrNotRunning) {
		t.Errorf("before the start: %v", err)
	}
	s.load(bundle(1))
	if err := s.Check(t.Context(), ""); err == nil {
		t.Error("a workload that was started just now is well")
	}
	s.until("it is well", func() bool { return s.Check(t.Context(), "") == nil })
	s.Pass(syscall.SIGHUP)
	s.ends(1)
	if err := s.Check(t.Context(), ""); !errors.Is(err, reload.ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
}

func TestCloseKills(t *testing.T) {
	s := supervise(t, `trap "" TERM HUP; says "$$ "; while :; do sleep 0.05; done`, nil)
	s.load(bundle(1))
	pid := number(t, strings.TrimSpace(s.hears(1, " ")))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s.Close()
	select {
	case <-s.Ended():
	case <-ctx.Done():
		t.Fatal("it lives on")
	}
	if kit.Alive(pid) || s.Status() != 128+9 {
		t.Errorf("alive: %v; status %d", kit.Alive(pid), s.Status())
	}
}
