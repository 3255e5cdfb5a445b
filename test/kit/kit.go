// SPDX-License-Identifier: Apache-2.0

// Package kit has what tests of several packages need. Of this module it imports no more than internal/proc, so that tests of nearly
// every package can use it.
package kit

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
)

// Log is a log that may be read while it is written.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns all that was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Patience is a generous limit for what takes moments, and seconds on a slow machine.
const Patience = 2 * time.Minute

// Until waits until something is so. If it does not come to that, the test ends with what it was and how things are instead.
func Until(t testing.TB, what string, so func() bool, instead ...func() string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(Patience); !so(); <-tick.C {
		if time.Now().After(end) {
			for _, say := range instead {
				what += "; " + say()
			}
			t.Fatalf("not so: %s", what)
		}
	}
}

// Stays looks again and again, for so long, and fails the test when something is not so any more.
func Stays(t testing.TB, what string, lasts time.Duration, so func() bool) {
	t.Helper()
	end := time.After(lasts)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		if !so() {
			t.Fatalf("no longer so: %s", what)
		}
		select {
		case <-end:
			return
		case <-ticker.C:
		}
	}
}

// Alive reports whether a process runs. One that has ended and was not waited for does not.
func Alive(pid int) bool {
	p, err := proc.Read(pid)
	return err == nil && !p.Ended()
}
