// SPDX-License-Identifier: Apache-2.0

// Package supervise runs the workload itself, as the first process of a container would: it is started with the values
// of the bundle in its environment, and restarted or signalled when they change; signals are passed on to it, orphans are
// reaped, and its exit status is that of the sidecar.
package supervise

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// Options say what to run, and how.
type Options struct {
	Command     []string
	Environ     []string // what the sidecar was started with, as os.Environ returns it
	Withheld    []string // names that are the sidecar's own, besides VAULT_* and HYVVE_*
	Allow       []string // reserved names that are set all the same
	Keys        []string // environment names to take from the bundle; empty: all
	Accepts     bool     // add NAME_ACCEPTS, all values to accept as a JSON array, newest first
	Previous    bool     // add NAME_PREVIOUS, the second of them, where there is one
	ByEtag      bool     // another etag is a change, whatever is in the environment: it reads files that have it too
	OnChange    config.OnChange
	Signal      syscall.Signal // of config.OnChangeSignal
	StopSignal  syscall.Signal
	StopTimeout time.Duration // from StopSignal to SIGKILL

	// Overlap starts the next process before the one that runs is stopped, and only stops it when Checker finds the next
	// one well within ReadyTimeout. Checker must tell the two apart by their etags.
	Overlap      bool
	Checker      health.Checker
	ReadyTimeout time.Duration
}

// settled is how long a workload must run to count as well, where nothing else tells.
const settled = time.Second

// Process is the workload, from its first start to its end. It is one process, or after restarts another one.
type Process struct {
	o      Options
	log    *slog.Logger
	starts chan start // to the thread that all are started by
	ended  chan struct{}

	mu      sync.Mutex
	bundle  client.Bundle // to be started with
	current *child        // nil before the first start, and between a stop and a start
	next    *child        // that is to take its place, where they overlap
	leaving bool          // a signal from outside asks it to end
	status  int           // once it has ended
	failed  string        // how, if it has failed
	over    bool
	closed  bool
}

var (
	_ reload.Reloader   = (*Process)(nil)
	_ reload.Provider   = (*Process)(nil)
	_ reload.Identifier = (*Process)(nil)
	_ health.Checker    = (*Process)(nil)
)

// New starts nothing yet: the first Reload does. Close ends what New begins.
func New(o Options, log *slog.Logger) (*Process, error) {
	if err := adoptOrphans(); err != nil {
		return nil, err
	}
	p := &Process{o: o, log: log, starts: make(chan start), ended: make(chan struct{})}
	go p.thread()
	return p, nil
}

// Close kills what still runs, and ends what New has begun.
func (p *Process) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []*child{p.current, p.next} {
		if c != nil && !c.over {
			_ = syscall.Kill(-c.pid(), syscall.SIGKILL)
		}
	}
	if !p.closed {
		p.closed = true
		close(p.starts)
	}
}

// Ended returns a channel that is closed once the workload has ended, by itself or by a signal from outside, or cannot be started.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Status is the exit status of the workload: 128 and the signal if one has ended it; 127 or 126, as a shell's, if it is
// not there or cannot be run.
func (p *Process) Status() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Failed implements reload.Provider.
func (p *Process) Failed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// finish must be called with mu held.
func (p *Process) finish(status int, failed string) {
	if !p.over {
		p.over, p.status, p.failed = true, status, failed
		close(p.ended)
	}
}

// Provide implements reload.Provider.
func (p *Process) Provide(b client.Bundle) (changed bool, err error) {
	_, sum, err := p.o.environment(b)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bundle = b
	return p.current == nil || p.o.OnChange == config.OnChangeRestart && p.current.sum != sum, nil
}

// Etag implements reload.Provider.
func (p *Process) Etag() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil || p.o.OnChange != config.OnChangeRestart {
		return p.bundle.Etag
	}
	return p.current.etag
}

// Reload implements reload.Reloader: it starts the workload, or makes it load the change.
func (p *Process) Reload(ctx context.Context) error {
	err := p.takeUp(ctx)
	if errors.Is(err, errLeaving) {
		// That is no fault, which would hold a rotation up: once the workload has ended, so will ctx.
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// errLeaving: there is nothing to start any more.
var errLeaving = errors.New("the workload has ended, or was asked to")

func (p *Process) takeUp(ctx context.Context) error {
	p.mu.Lock()
	c := p.current
	gone := p.over || p.leaving || c != nil && c.over
	p.mu.Unlock()
	switch {
	case gone:
		return errLeaving
	case c == nil:
		return p.start()
	case p.o.OnChange == config.OnChangeSignal:
		return p.nudge(c)
	case p.o.OnChange == config.OnChangeNone:
		return nil
	}
	if _, err := Find(p.o.Command); err != nil { // nothing is stopped that could not be followed
		return fmt.Errorf("the process before continues: %w", err)
	}
	if p.o.Overlap {
		return p.replace(ctx, c)
	}
	if !p.stop(c) {
		return errLeaving
	}
	return p.start()
}

// nudge signals the workload that runs.
func (p *Process) nudge(c *child) error {
	p.mu.Lock()
	c.since = time.Now()
	p.mu.Unlock()
	if err := c.signal(p.o.Signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling the workload: %w", err)
	}
	return nil
}

// Check implements health.Checker, where no other check is configured: a workload that has run for a moment is well.
func (p *Process) Check(context.Context, string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch c := p.current; {
	case c == nil || c.over:
		return reload.ErrNotRunning
	case time.Since(c.since) < settled:
		return fmt.Errorf("the workload runs for less than %s; this is its only check", duration.Text(settled))
	}
	return nil
}

// Identify implements reload.Identifier.
func (p *Process) Identify(proc.Identity) (proc.Identity, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.current
	if c == nil || c.over {
		return proc.Identity{}, reload.ErrNotRunning
	}
	return proc.Identity{PID: c.pid(), Started: c.born}, nil
}

// start starts the workload with what was provided.
func (p *Process) start() error {
	p.mu.Lock()
	b := p.bundle
	p.mu.Unlock()
	env, sum, err := p.o.environment(b)
	if err != nil {
		return err
	}
	path, err := Find(p.o.Command)
	if err == nil {
		_, err = p.begin(path, env, sum, false)
	}
	var unstartable *StartError
	if errors.As(err, &unstartable) {
		p.mu.Lock()
		p.finish(unstartable.Status, err.Error())
		p.mu.Unlock()
	}
	return err
}

// begin starts the program, in place of one that was stopped or beside the one that runs. Told to end meanwhile, it does
// not.
func (p *Process) begin(path string, env []string, sum [sha256.Size]byte, beside bool) (*child, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || p.leaving {
		return nil, errLeaving
	}
	c, err := p.spawn(path, env)
	if err != nil {
		return nil, err
	}
	c.sum, c.etag = sum, p.bundle.Etag
	if beside {
		p.next = c
	} else {
		p.current = c
	}
	p.log.Info("workload started", "command", p.o.Command[0], "pid", c.pid(), "etag", p.bundle.Etag)
	go p.await(c)
	return c, nil
}

// await takes the end of a process. If nobody here wanted it, it is the end of the workload.
func (p *Process) await(c *child) {
	c.wait()
	p.mu.Lock()
	c.over = true
	wanted, next := c.stopping || c != p.current, p.next
	p.mu.Unlock()
	close(c.done)
	if wanted {
		return
	}
	p.log.Info("workload ended", "pid", c.pid(), "status", c.status())
	if next != nil {
		p.abandon(next)
	}
	p.endGroup(c.pid(), time.Now().Add(p.o.StopTimeout))
	p.mu.Lock()
	defer p.mu.Unlock()
	failed := ""
	if c.status() != 0 && !p.leaving {
		failed = fmt.Sprintf("the workload ended by itself with status %d", c.status())
	}
	p.finish(c.status(), failed)
}

// adoptOrphans makes this process the parent of what the workload's processes leave behind, as process 1 of a container
// is anyway.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the parent of orphans (PR_SET_CHILD_SUBREAPER): %w", err)
	}
	return nil
}

// reapPause is how long a process that has ended is left to the goroutine that has started it and waits for it.
const reapPause = 500 * time.Millisecond

// Reap reaps orphans until ctx ends. A process which somebody here waits for is reaped by them at once; what is still
// there when it is looked for again is nobody's.
func Reap(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	seen := map[int]bool{}
	look := time.NewTimer(0) // for what has ended before Notify
	defer look.Stop()
	waiting := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
			if !waiting {
				look.Reset(reapPause)
				waiting = true
			}
		case <-look.C:
			left := map[int]bool{}
			for _, pid := range reload.Unreaped() {
				if seen[pid] {
					_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
				} else {
					left[pid] = true
				}
			}
			seen, waiting = left, len(left) > 0
			if waiting {
				look.Reset(reapPause)
			}
		}
	}
}

// reapGroup reaps what has ended of a group whose first process was waited for.
func reapGroup(group int) {
	for {
		if pid, err := syscall.Wait4(-group, nil, syscall.WNOHANG, nil); err != nil || pid <= 0 {
			return
		}
	}
}

const (
	// EtagName is the variable that names the bundle which a workload was started with. It reveals no value.
	EtagName = "HYVVE_ETAG"

	// The kernel takes no longer string of an environment (MAX_ARG_STRLEN of execve(2)), its end included.
	longest = 128<<10 - 1
)

// own are the beginnings of names that are settings of the sidecar, or of Vault's client in it. The token among them
// can read every key of the workload, and report for it.
var own = []string{"VAULT_", "HYVVE_SIDECAR_"}

// environment is what the workload is started with: what the sidecar was started with, without what is the sidecar's
// own, and then what the bundle holds. The sum is over all of the bundle that is in it.
func (o Options) environment(b client.Bundle) (env []string, sum [sha256.Size]byte, err error) {
	values, err := o.values(b)
	if err != nil {
		return nil, sum, err
	}
	replaced := func(name string) bool {
		_, ok := values[name]
		for _, after := range []string{variables.AcceptsAfter, variables.PreviousAfter} {
			// An old value that the sidecar was started with must not pass for one of this bundle.
			_, stale := values[strings.TrimSuffix(name, after)]
			ok = ok || stale
		}
		return ok
	}
	for _, entry := range o.Environ {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.ContainsFunc(own, func(s string) bool { return strings.HasPrefix(name, s) }) && !slices.Contains(o.Withheld, name) && !replaced(name) {
			env = append(env, entry)
		}
	}
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		entry := name + "=" + values[name]
		if strings.ContainsRune(entry, 0) || len(entry) > longest {
			return nil, sum, fmt.Errorf("%s holds a NUL, or is longer than %d bytes: no environment can hold it; render it to a file, and leave it out of keys of exec", name, longest)
		}
		env = append(env, entry)
		_, _ = fmt.Fprintf(hash, "%q", entry)
	}
	env = append(env, EtagName+"="+b.Etag)
	if o.ByEtag {
		_, _ = hash.Write([]byte(b.Etag))
	}
	return env, [sha256.Size]byte(hash.Sum(nil)), nil
}

// values are the variables that come from the bundle.
func (o Options) values(b client.Bundle) (map[string]string, error) {
	set, err := variables.Choice{Keys: o.Keys, Accepts: o.Accepts, Previous: o.Previous, Allow: o.Allow}.Of(b)
	if err != nil {
		return nil, err
	}
	return set.Text()
}
