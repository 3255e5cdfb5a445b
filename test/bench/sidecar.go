// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	costRotations = 100
	costRest      = 60 * time.Second // for which both are left alone, and their processor time is counted
	barRSS        = 20               // MB
	barAnonymous  = 7                // MB
	barIdle       = 0.1              // % of a core
	barSignal     = 250              // ms
	signalWait    = 30 * time.Second
)

// sidecarCost measures the sidecar beside Vault Agent with one template: how long a hundred rotations take until the
// workload, which is this process, has its signal and the new value is in its file; and then what both take at rest.
func sidecarCost(ctx context.Context, p *place) ([]Result, error) {
	s, err := startBeside(ctx, p.Bed, p.vault)
	if err != nil {
		return nil, err
	}
	latency, err := s.rotateAll(ctx, client.New(p.vault.Client, bed.Mount))
	if err != nil {
		return nil, fmt.Errorf("%w; the sidecar says:\n%s", err, s.sidecar.Tail())
	}
	return s.atRest(ctx, latency)
}

// beside is a sidecar and a Vault Agent that serve the same.
type beside struct {
	file           string
	signals        chan os.Signal
	sidecar, agent *bed.Program
}

func startBeside(ctx context.Context, b *bed.Bed, v *bed.Vault) (*beside, error) {
	s := &beside{file: filepath.Join(b.Dir, "bench.env"), signals: make(chan os.Signal, 16)}
	signal.Notify(s.signals, syscall.SIGUSR1)
	health, err := serveHTTP(ctx, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err != nil {
		return nil, err
	}
	port, err := bed.FreePort()
	if err != nil {
		return nil, err
	}
	path := func(name string) string { return filepath.Join(b.Dir, name) }
	for name, text := range map[string]string{
		"token": v.Token,
		"pid":   strconv.Itoa(os.Getpid()),
		"sidecar.hcl": fmt.Sprintf(`
workload = %q
vault {
  address = %q
  auth "token_file" { path = %q }
}
render "dotenv" { path = %q }
reload "signal" {
  pid_file = %q
  signal   = "SIGUSR1"
}
health "http" { url = "http://%s/" }
status { listen = "127.0.0.1:%d" }
`, benchLoad, v.Addr, path("token"), s.file, path("pid"), health, port),
		"agent.hcl": fmt.Sprintf(`
vault { address = %q }
auto_auth {
  method "token_file" {
    config = { token_file_path = %q }
  }
}
template {
  contents    = "{{ with secret \"%s/data/bench\" }}TOKEN={{ .Data.data.token }}{{ end }}"
  destination = %q
}
`, v.Addr, path("token"), kvMount, path("agent.env")),
	} {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	vault, err := bed.VaultBinary()
	if err != nil {
		return nil, err
	}
	if s.sidecar, err = b.Program("sidecar", bed.Tool("bin", "hyvve-sidecar"), []string{"agent", "--config=" + path("sidecar.hcl")}, nil); err != nil {
		return nil, err
	}
	if s.agent, err = b.Program("vault-agent", vault, []string{"agent", "-config=" + path("agent.hcl")}, []string{"HOME=" + b.Dir}); err != nil {
		return nil, err
	}
	for file, p := range map[string]*bed.Program{s.file: s.sidecar, path("agent.env"): s.agent} {
		if err := awaitFile(ctx, file, func(text string) bool { return text != "" }); err != nil {
			return nil, fmt.Errorf("%w; it says:\n%s", err, p.Tail())
		}
	}
	return s, nil
}

func awaitFile(ctx context.Context, path string, is func(text string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, signalWait)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if data, err := os.ReadFile(path); err == nil && is(string(data)) {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not rendered: %w", filepath.Base(path), ctx.Err())
		}
	}
}

// rotateAll returns the median time from asking for a rotation to the signal after which the file presents the new version.
func (s *beside) rotateAll(ctx context.Context, e *client.Client) (time.Duration, error) {
	held, err := os.ReadFile(s.file)
	if err != nil {
		return 0, err
	}
	var all []time.Duration
	for range costRotations {
		begun := time.Now()
		r, err := e.Rotate(ctx, "bench", benchKey)
		if err != nil {
			return 0, err
		}
		for now := held; string(now) == string(held); {
			select {
			case <-s.signals:
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(signalWait):
				return 0, errors.New("no signal after a rotation")
			}
			if now, err = os.ReadFile(s.file); err != nil {
				return 0, err
			}
			if string(now) != string(held) {
				all, held = append(all, time.Since(begun)), now
				break
			}
		}
		poll := time.NewTicker(endPoll)
		for !r.Ended() && err == nil {
			select {
			case <-poll.C:
				r, err = e.Rotation(ctx, r.ID)
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if poll.Stop(); err != nil {
			return 0, err
		}
	}
	return median(all), nil
}

// atRest leaves both alone for a while, and returns what they took.
func (s *beside) atRest(ctx context.Context, latency time.Duration) ([]Result, error) {
	pids := [2]int{s.sidecar.PID(), s.agent.PID()}
	var before, after, idle, rss, anonymous [2]float64
	for n, pid := range pids {
		var err error
		if before[n], err = processorTime(pid); err != nil {
			return nil, err
		}
	}
	select {
	case <-time.After(costRest):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for n, pid := range pids {
		var err error
		if after[n], err = processorTime(pid); err != nil {
			return nil, err
		}
		idle[n] = (after[n] - before[n]) / costRest.Seconds() * 100
		process := fmt.Sprintf("/proc/%d", pid)
		var errs [2]error
		rss[n], errs[0] = memoryOf(process, "VmRSS")
		anonymous[n], errs[1] = memoryOf(process, "RssAnon")
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		if rss[n] == 0 {
			return nil, fmt.Errorf("a process has ended; the sidecar says:\n%s\nand the agent:\n%s", s.sidecar.Tail(), s.agent.Tail())
		}
	}
	return []Result{
		costs("sidecar-rss", "MB", rss[0], rss[1]).within(barRSS),
		costs("sidecar-anonymous", "MB", anonymous[0], anonymous[1]).within(barAnonymous),
		costs("sidecar-cpu", "% of a core", idle[0], idle[1]).within(barIdle),
		alone("sidecar-signal-latency", latency).within(barSignal),
	}, nil
}

// costs makes a result of two costs: less is better.
func costs(name, unit string, ours, peer float64) Result {
	ratio := peer / ours
	return Result{Name: name, Unit: unit, Ours: ours, Peer: &peer, Ratio: &ratio}
}

// processorTime is what a process's threads of now have run so far, in seconds (proc_pid_schedstat, first field, in ns).
// Threads that have ended count no more; those of a Go program seldom do.
func processorTime(pid int) (seconds float64, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("process %d has no schedstat: it has ended, or the kernel keeps none", pid)
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // that thread has ended
		}
		ran, _, _ := strings.Cut(string(data), " ")
		ns, err := strconv.ParseFloat(ran, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", task, err)
		}
		seconds += ns / 1e9
	}
	return seconds, nil
}
