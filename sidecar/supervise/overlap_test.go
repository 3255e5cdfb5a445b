// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// answers stands for a workload's health: the process that has written its etag last answers.
type answers string

func (dir answers) Check(_ context.Context, etag string) error {
	data, _ := os.ReadFile(filepath.Join(string(dir), "etag"))
	if got := strings.TrimSpace(string(data)); got != etag {
		return fmt.Errorf("%q answers", got)
	}
	return nil
}

// overlapping is a workload of which an etag in bad does not become healthy.
func overlapping(t *testing.T, script string) *supervised {
	return supervise(t, `trap 'says "stop $HYVVE_ETAG"; exit 5' TERM; says "start $HYVVE_ETAG"; `+script+`; echo $HYVVE_ETAG >"$DIR/etag"; rests`, func(o *Options) {
		dir, _ := strings.CutPrefix(o.Environ[1], "DIR=")
		o.Overlap, o.ByEtag, o.Checker, o.ReadyTimeout = true, true, answers(dir), 20*time.Second
	})
}

func (s *supervised) change(ctx context.Context, n int) error {
	if _, err := s.Provide(bundle(n)); err != nil {
		return err
	}
	return s.Reload(ctx)
}

func TestTheNextOneIsUpBeforeTheStop(t *testing.T) {
	s := overlapping(t, ":")
	for n := 1; n <= 3; n++ {
		s.load(bundle(n))
		s.until("it is up", func() bool { return s.o.Checker.Check(t.Context(), bundle(n).Etag) == nil })
	}
	want := []string{"start etag-1", "start etag-2", "stop etag-1", "start etag-3", "stop etag-2"}
	if said := s.said(); !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
	s.Pass(syscall.SIGTERM)
	s.ends(5)
}

// Whatever becomes of the next process, the one before continues, and a later change is taken up.
func TestTheOneBeforeGoesOn(t *testing.T) {
	for script, want := range map[string]string{
		`if [ $HYVVE_ETAG = etag-2 ]; then exit 9; fi`: "it ended with status 9",
		`if [ $HYVVE_ETAG = etag-2 ]; then rests; fi`:  "it is unhealthy after 300ms",
	} {
		t.Run(want, func(t *testing.T) {
			s := overlapping(t, script)
			s.load(bundle(1))
			s.until("it is up", func() bool { return s.o.Checker.Check(t.Context(), "etag-1") == nil })
			first := s.current.pid()
			if strings.Contains(script, "rests") {
				s.o.ReadyTimeout = 300 * time.Millisecond
			}
			err := s.change(t.Context(), 2)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "continues") {
				t.Errorf("%v", err)
			}
			if !kit.Alive(first) || slices.Contains(s.said(), "stop etag-1") {
				t.Errorf("the one before was touched: %q", s.said())
			}
			s.o.ReadyTimeout = 20 * time.Second
			if err := s.change(t.Context(), 3); err != nil || kit.Alive(first) {
				t.Errorf("%v; alive: %v", err, kit.Alive(first))
			}
		})
	}
}

// Asked to end while two run, both do, and the status is that of the one which was the workload.
func TestAskedToEndWhileTwoRun(t *testing.T) {
	s := overlapping(t, `if [ $HYVVE_ETAG = etag-2 ]; then says waits; rests; fi`)
	s.load(bundle(1))
	s.until("it is up", func() bool { return s.o.Checker.Check(t.Context(), "etag-1") == nil })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.change(ctx, 2) }()
	s.until("the next one runs", func() bool { return slices.Contains(s.said(), "waits") })
	s.Pass(syscall.SIGTERM)
	s.ends(5)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if said := s.said(); !slices.Contains(said, "stop etag-1") || !slices.Contains(said, "stop etag-2") || s.Failed() != "" {
		t.Errorf("%q; %s", said, s.Failed())
	}
}

// The workload that ends by itself takes the next one along.
func TestEndsByItselfWhileTwoRun(t *testing.T) {
	s := overlapping(t, `if [ $HYVVE_ETAG = etag-2 ]; then says waits; rests; fi; trap 'exit 4' HUP`)
	s.load(bundle(1))
	s.until("it is up", func() bool { return s.o.Checker.Check(t.Context(), "etag-1") == nil })
	first := s.current.pid()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.change(ctx, 2) }()
	s.until("the next one runs", func() bool { return slices.Contains(s.said(), "waits") })
	if err := syscall.Kill(first, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.ends(4)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || !slices.Contains(s.said(), "stop etag-2") {
		t.Errorf("%v; %q", err, s.said())
	}
}
