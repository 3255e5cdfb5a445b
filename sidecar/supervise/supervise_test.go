// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

const canary = "canary-secret-value"

func bundle(version int) client.Bundle {
	value := func(n int) key.Value { return key.NewValue(fmt.Sprintf("%s-%d", canary, n)) }
	return client.Bundle{
		Values:  map[string]key.Value{"TOKEN": value(version), "OTHER": key.NewValue("<&>")},
		Accepts: map[string][]key.Value{"TOKEN": {value(version), value(version - 1)}, "VERIFIED": {value(version)}},
		Etag:    fmt.Sprintf("etag-%d", version),
	}
}

// supervised is a workload under test, a shell.
type supervised struct {
	*Process
	t   *testing.T
	dir string
	log *kit.Log
}

// supervise prepares one; in its script, "says" adds a line to what said gives, and "rests" waits and may be signalled.
func supervise(t *testing.T, script string, change func(o *Options)) *supervised {
	t.Helper()
	s := &supervised{t: t, dir: t.TempDir(), log: &kit.Log{}}
	const prelude = `says() { echo "$@" >>"$DIR/said"; }; rests() { while :; do sleep 60 & wait $!; done; }; `
	o := Options{
		Command: []string{"/bin/sh", "-c", prelude + script}, OnChange: config.OnChangeRestart, Signal: syscall.SIGHUP, StopSignal: syscall.SIGTERM, StopTimeout: 20 * time.Second,
		Environ: []string{"PATH=" + os.Getenv("PATH"), "DIR=" + s.dir},
	}
	if change != nil {
		change(&o)
	}
	p, err := New(o, slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	s.Process = p
	ctx, cancel := context.WithCancel(context.Background())
	go Reap(ctx)
	t.Cleanup(func() {
		p.Close()
		p.mu.Lock()
		c := p.current
		p.mu.Unlock()
		if c != nil {
			<-c.done
			_ = syscall.Kill(-c.pid(), syscall.SIGKILL)
		}
		cancel()
		if strings.Contains(s.log.String(), canary) {
			t.Errorf("a secret stands in the log:\n%s", s.log)
		}
	})
	return s
}

// load returns a bundle as the agent does, and reports whether that was a change.
func (s *supervised) load(b client.Bundle) bool {
	s.t.Helper()
	changed, err := s.Provide(b)
	if err == nil && changed {
		err = s.Reload(s.t.Context())
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return changed
}

func (s *supervised) said() []string {
	data, _ := os.ReadFile(filepath.Join(s.dir, "said"))
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// hears waits until the workload has said something as its n-th line, and returns that line.
func (s *supervised) hears(n int, want string) string {
	s.t.Helper()
	s.until(fmt.Sprintf("line %d of the workload is %q", n, want), func() bool {
		said := s.said()
		return len(said) >= n && strings.Contains(said[n-1], want)
	})
	return s.said()[n-1]
}

func (s *supervised) until(what string, holds func() bool) {
	s.t.Helper()
	kit.Until(s.t, what, holds, func() string { return fmt.Sprintf("it says %q; log:\n%s", s.said(), s.log) })
}

func (s *supervised) ends(status int) {
	s.t.Helper()
	select {
	case <-s.Ended():
	case <-time.After(30 * time.Second):
		s.t.Fatalf("the workload does not end; log:\n%s", s.log)
	}
	if s.Status() != status {
		s.t.Errorf("status %d, want %d", s.Status(), status)
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEnvironment(t *testing.T) {
	base := []string{"PATH=/bin", "VAULT_TOKEN=x", "VAULT_ADDR=x", "HYVVE_SIDECAR_WORKLOAD=x", "ADMIN_URL=x", "TOKEN=stale", "TOKEN_PREVIOUS=stale", "VERIFIED_ACCEPTS=stale", "EMPTY="}
	one := func(n int) string { return fmt.Sprintf("%s-%d", canary, n) }
	for name, c := range map[string]struct {
		o    Options
		want []string
	}{
		"all": {Options{}, []string{"OTHER=<&>", "TOKEN=" + one(7), "VERIFIED=" + one(7)}},
		"all forms": {Options{Accepts: true, Previous: true}, []string{
			"OTHER=<&>", "TOKEN=" + one(7), `TOKEN_ACCEPTS=["` + one(7) + `","` + one(6) + `"]`, "TOKEN_PREVIOUS=" + one(6),
			"VERIFIED=" + one(7), `VERIFIED_ACCEPTS=["` + one(7) + `"]`,
		}},
		"some": {Options{Keys: []string{"TOKEN", "VERIFIED"}}, []string{"TOKEN=" + one(7), "VERIFIED=" + one(7)}},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Environ, c.o.Withheld = base, []string{"ADMIN_URL"}
			env, _, err := c.o.environment(bundle(7))
			want := slices.Concat([]string{"PATH=/bin", "EMPTY="}, c.want, []string{"HYVVE_ETAG=etag-7"})
			if err != nil || !slices.Equal(env, want) {
				t.Errorf("%v\n got %q\nwant %q", err, env, want)
			}
		})
	}
}

// What no environment can hold is refused by name, before anything is stopped for it.
func TestEnvironmentRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		value string
		env   string
		want  string
	}{
		"NUL":      {canary + "\x00", "TOKEN", "TOKEN holds a NUL"},
		"too long": {strings.Repeat(canary, 10_000), "TOKEN", "longer than 131071 bytes"},
		"name":     {canary, "TOKEN_ACCEPTS", "TOKEN_ACCEPTS is a key's own name"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bundle(1)
			b.Values[c.env] = key.NewValue(c.value)
			_, _, err := Options{Accepts: true}.environment(b)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
				t.Errorf("%v", err)
			}
		})
	}
	longestValue := strings.Repeat("x", longest-len("LONG="))
	out, err := (&exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "echo ${#LONG}"}, Env: []string{"LONG=" + longestValue}}).Output()
	if err != nil || strings.TrimSpace(string(out)) != strconv.Itoa(len(longestValue)) {
		t.Errorf("the longest value is not taken by the kernel: %v", err)
	}
}

func TestRestartsOnceAChange(t *testing.T) {
	s := supervise(t, `says "$TOKEN $TOKEN_PREVIOUS $HYVVE_ETAG $$"; rests`, func(o *Options) { o.Previous = true })
	for n := 1; n <= 3; n++ {
		if !s.load(bundle(n)) {
			t.Errorf("bundle %d is no change", n)
		}
		s.hears(n, fmt.Sprintf("%s-%d %s-%d etag-%d", canary, n, canary, n-1, n))
		again := bundle(n)
		again.Etag = "another"
		if s.load(again) {
			t.Errorf("another etag of the same content %d is a change", n)
		}
	}
	if said := s.said(); len(said) != 3 {
		t.Errorf("%d starts", len(said))
	}
	s.Pass(syscall.SIGTERM)
	s.ends(128 + 15)
}

// A workload that answers with the etag must be given each.
func TestEtagIsAChangeWhereItIsAsked(t *testing.T) {
	s := supervise(t, `says "$HYVVE_ETAG"; rests`, func(o *Options) { o.ByEtag, o.Keys = true, []string{"OTHER"} })
	for n := 1; n <= 2; n++ {
		if s.load(bundle(n)); s.load(bundle(n)) {
			t.Error("the same bundle is a change")
		}
		s.hears(n, fmt.Sprintf("etag-%d", n))
	}
}

func TestSignalsOnAChange(t *testing.T) {
	s := supervise(t, `trap 'says "again $TOKEN $$"' USR1; says "first $TOKEN $$"; rests`, func(o *Options) { o.OnChange, o.Signal = config.OnChangeSignal, syscall.SIGUSR1 })
	s.load(bundle(1))
	first := s.hears(1, "first "+canary+"-1")
	if s.load(bundle(2)) {
		t.Error("a change of the environment is a change, though it cannot be given")
	}
	if err := s.Reload(t.Context()); err != nil { // as after files have changed
		t.Fatal(err)
	}
	if again := s.hears(2, "again"); strings.TrimPrefix(again, "again") != strings.TrimPrefix(first, "first") {
		t.Errorf("%q, then %q", first, again)
	}
}

func TestExitStatusIsPassedOn(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -KILL $$": 128 + 9, "kill -SEGV $$": 128 + 11} {
		t.Run(script, func(t *testing.T) {
			s := supervise(t, script, nil)
			s.load(bundle(1))
			s.ends(want)
			// No rotation starts it again; the call ends with the agent.
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := s.Reload(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	s := supervise(t, `for s in HUP INT QUIT USR1 USR2 WINCH ALRM CONT IO PWR; do trap "says $s" $s; done; trap 'says TERM; exit 3' TERM; says ready; rests`, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := make(chan struct{})
	go s.Forward(ctx, func() { close(ready) })
	<-ready
	s.load(bundle(1))
	s.hears(1, "ready")
	names := []string{"HUP", "QUIT", "USR1", "USR2", "WINCH", "ALRM", "CONT", "IO", "PWR", "INT", "TERM"}
	if len(names) != len(passedOn) {
		t.Errorf("%d signals are passed on, and %d tried", len(passedOn), len(names))
	}
	for n, name := range names {
		signal, err := config.ParseSignal(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(os.Getpid(), signal); err != nil {
			t.Fatal(err)
		}
		s.hears(n+2, name)
	}
	s.ends(3)
}

// Nothing is started for somebody who has asked to end.
func TestAskedToEndBeforeTheStart(t *testing.T) {
	s := supervise(t, "says started", nil)
	s.Pass(syscall.SIGHUP)
	select {
	case <-s.Ended():
		t.Error("SIGHUP ends what was not started")
	default:
	}
	s.Pass(syscall.SIGINT)
	s.ends(128 + 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if changed, err := s.Provide(bundle(1)); err != nil || !changed {
		t.Error(changed, err)
	}
	if err := s.Reload(ctx); err == nil || s.said()[0] != "" {
		t.Errorf("%v; %q", err, s.said())
	}
}

// Asked to end in the middle of a restart, the workload ends with what it was, and is not started again.
func TestAskedToEndWhileRestarting(t *testing.T) {
	s := supervise(t, `trap 'says stopping' USR1; trap 'says asked; exit 5' TERM; says "started"; rests`, func(o *Options) { o.StopSignal = syscall.SIGUSR1 })
	s.load(bundle(1))
	s.hears(1, "started")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.Provide(bundle(2))
		done <- errors.Join(err, s.Reload(ctx))
	}()
	s.hears(2, "stopping")
	s.Pass(syscall.SIGTERM)
	s.ends(5)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || len(s.said()) != 3 {
		t.Errorf("%v; %q", err, s.said())
	}
}
