// SPDX-License-Identifier: Apache-2.0

// Package bed starts the real parts that tests, benchmarks, the demo and "make dev" run on: Vault, PostgreSQL,
// PgBouncer, Redis and Prometheus, private to the caller, on free loopback ports, with their data in a scratch directory.
// Nothing that it starts outlives the process that started it, however that ends: each part dies with its parent
// (Pdeathsig).
package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Bed is a scratch directory and the parts that run in it.
type Bed struct {
	Dir string // readable by the servers' user; removed by Close
	Log io.Writer

	authority authorities

	mu     sync.Mutex
	parts  []*process // in order of their start
	relays []*Relay
}

// Repo is the root of this repository: of the checkout that the working directory is in, or else this program.
func Repo() string {
	var starts []string
	if here, err := os.Getwd(); err == nil {
		starts = append(starts, here)
	}
	if self, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(self))
	}
	for _, dir := range starts {
		for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			if exists(filepath.Join(dir, "go.mod")) && exists(filepath.Join(dir, "vault-dev.hcl")) {
				return dir
			}
		}
	}
	return "."
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Tool is the path of a binary that the build put below build/.
func Tool(parts ...string) string {
	return filepath.Join(append([]string{Repo(), "build"}, parts...)...)
}

// Context returns a context that ends on Ctrl-C and on SIGTERM, so that a Bed that is run by hand can be closed.
func Context() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// New makes an empty bed under build/run, or under the system's directory for temporary files where the servers' user
// could not reach that. What earlier processes left there when they were killed is removed.
func New(name string, log io.Writer) (*Bed, error) {
	if log == nil {
		log = io.Discard
	}
	root := Tool("run")
	if !reachable(filepath.Dir(Repo())) || !reachable(Repo()) {
		root = filepath.Join(os.TempDir(), "hyvve-run")
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("making the scratch directory: %w", err)
	}
	sweep(root)
	dir, err := os.MkdirTemp(root, fmt.Sprintf("%s-%d-", name, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("making the scratch directory: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	return &Bed{Dir: dir, Log: log}, nil
}

// reachable reports whether every user may pass through a directory and those above it.
func reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == "/" || dir == "." {
			return true
		}
	}
}

// sweep removes the directories of processes that are gone.
func sweep(root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, entry := range entries {
		var pid int
		name := entry.Name()
		for at := 0; at < len(name); at++ {
			if n, _ := fmt.Sscanf(name[at:], "-%d-", &pid); n == 1 {
				break
			}
		}
		if pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(filepath.Join(root, name))
		}
	}
}

// closePatience is short: a Vault that is asked to end takes ten seconds over it, and what it has stored goes anyway.
const closePatience = time.Second

// Close stops all parts, the newest first, and removes the scratch directory. It may be called again.
func (b *Bed) Close() error {
	b.mu.Lock()
	parts, relays := b.parts, b.relays
	b.parts, b.relays = nil, nil
	b.mu.Unlock()
	var errs []error
	for _, r := range relays {
		errs = append(errs, r.Close())
	}
	for i := len(parts) - 1; i >= 0; i-- {
		errs = append(errs, parts[i].stop(closePatience))
	}
	return errors.Join(append(errs, os.RemoveAll(b.Dir))...)
}

func (b *Bed) keep(p *process) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parts = append(b.parts, p)
}

func (b *Bed) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.Log, format+"\n", args...)
}

// FreePort returns a loopback port that nobody listens on.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	defer l.Close() //nolint:errcheck // nothing was sent
	return l.Addr().(*net.TCPAddr).Port, nil
}
