// SPDX-License-Identifier: Apache-2.0

// Package kit has what tests of several packages need. Of this module it imports no more than internal/proc, so that tests of nearly
// every package can use it.
package kit

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
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

const told = "HYVVE_TEST_INSIDE"

// Told is what Again has told this process; nothing in the one that the tests run in.
func Told() string { return os.Getenv(told) }

// Again returns a command that runs this test in a process of its own, in new namespaces; in a new user namespace it is root.
// In that process, Told returns tell.
func Again(t *testing.T, tell string, namespaces uintptr) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), told+"="+tell)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if namespaces&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// Apart runs a test again in a process with mounts and limits of its own, in which it is root, and reports whether this is
// that process. If the caller is not root, a user namespace makes it root.
func Apart(t *testing.T) bool {
	t.Helper()
	if Told() == t.Name() {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	namespaces := uintptr(syscall.CLONE_NEWNS)
	if os.Geteuid() != 0 {
		namespaces |= syscall.CLONE_NEWUSER
	}
	if output, err := Again(t, t.Name(), namespaces).CombinedOutput(); err != nil {
		t.Fatalf("%v (where user namespaces are forbidden, run this test as root)\n%s", err, output)
	}
	return false
}

// StartsNothing builds the command in the test's own directory, which takes no arguments, and checks that it starts nothing if
// it is asked for help or gets an argument.
func StartsNothing(t *testing.T, name string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	if output, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, c := range []struct {
		arg            string
		status         int
		stdout, stderr string
	}{
		{"--help", 0, "Usage: " + name + "\n", ""},
		{"-h", 0, "Usage: " + name + "\n", ""},
		{"now", 2, "", name + `: "now" is not wanted`},
		{"--listen=:1", 2, "", name + ": flag --listen is not known"},
	} {
		t.Run(c.arg, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // one that serves would not end
			defer cancel()
			var stdout, stderr bytes.Buffer
			cmd := exec.CommandContext(ctx, binary, c.arg)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run() // its status says how it went
			if status := cmd.ProcessState.ExitCode(); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if !strings.HasPrefix(stdout.String(), c.stdout) || !strings.HasPrefix(stderr.String(), c.stderr) || (stdout.Len() == 0) != (c.stdout == "") {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}

// Serve calls talk for each connection, in a goroutine of its own, and returns the address. It closes a connection when talk
// returns.
func Serve(t testing.TB, talk func(conn net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close() //nolint:errcheck // nothing is pending
				talk(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// NoSkip is the environment variable under which [Skip] fails a test. The targets of the Makefile that set up what
// tests need set it, such as "make test".
const NoSkip = "HYVVE_NO_SKIP"

// Skip skips a test for a reason of one line, which names what is missing and the command that brings it. Under [NoSkip] it
// fails the test. Every test calls it instead of the methods of [testing.TB].
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(NoSkip) != "" {
		t.Fatalf("%s (no test may be skipped: %s is set)", reason, NoSkip)
	}
	t.Skip(reason) //nolint:forbidigo // the one place
}
