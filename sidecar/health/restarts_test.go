// SPDX-License-Identifier: Apache-2.0

package health

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// looping is a workload and its clock.
type looping struct {
	process string
	err     error
	at      time.Time
	warned  []error
}

func (l *looping) restarts(path string) *Restarts {
	return &Restarts{
		Path: path, Identify: func() (string, error) { return l.process, l.err },
		Warn: func(err error) { l.warned = append(l.warned, err) }, now: func() time.Time { return l.at },
	}
}

func TestRestarts(t *testing.T) {
	l := &looping{process: "0", at: time.Now()}
	path := filepath.Join(t.TempDir(), "restarts")
	r := l.restarts(path)
	begin := func(change string) {
		t.Helper()
		if err := r.Begin(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string) {
		t.Helper()
		err := r.Check(t.Context(), "")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) || want == "restarted" && !Proven(err) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	begin("a")
	check("")
	for _, process := range []string{"1", "2"} { // so may a workload take a change up
		l.process, l.at = process, l.at.Add(10*time.Second)
		check("")
		check("")
	}
	l.process, l.at = "3", l.at.Add(10*time.Second)
	check("restarted 3 times in 30s after the change")
	l.at = l.at.Add(time.Minute)
	check("restarted 3 times in 30s after the change") // the same words: it is reported once
	r = l.restarts(path)                               // of a sidecar that was started again
	begin("a")
	check("restarted 3 times in 30s")
	l.process, l.at = "4", l.at.Add(time.Second)
	check("restarted 3 times in 1m21s")
	l.at = l.at.Add(restartsWindow)
	check("") // that is long ago
	begin("b")
	check("")
	l.err = errors.New("it is gone")
	check("it is gone")
	if len(l.warned) > 0 {
		t.Error(l.warned)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A state file that cannot be read or written causes a warning, and does not make the workload unhealthy.
func TestRestartsForgotten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "restarts")
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &looping{process: "0", at: time.Now()}
	if err := l.restarts(path).Check(t.Context(), ""); err != nil || len(l.warned) != 1 || !strings.Contains(l.warned[0].Error(), "starts empty") {
		t.Errorf("%v, %v", err, l.warned)
	}
	l.warned = nil
	if err := l.restarts(filepath.Join(dir, "no", "such", "dir")).Check(t.Context(), ""); err != nil || len(l.warned) != 1 || !strings.Contains(l.warned[0].Error(), "forgets") {
		t.Errorf("%v, %v", err, l.warned)
	}
	if err := l.restarts("").Check(t.Context(), ""); err != nil || len(l.warned) != 1 {
		t.Errorf("%v, %v", err, l.warned)
	}
}
