// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/mask"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

// Follow reloads the workload whenever files that something else renders have changed, until ctx ends. A configuration that
// comes from next takes the place of the one before, and the workload is reloaded once then: what changed meanwhile was
// looked at by neither.
func Follow(ctx context.Context, c Config, next <-chan Config, log *slog.Logger) error {
	return followOn(ctx, c, next, newBoard(c, nil), log)
}

func followOn(ctx context.Context, c Config, next <-chan Config, board *status.Board, log *slog.Logger) error {
	keeper := proc.KeepMemorySmall(func(err error) { log.Debug("memory is not given back to the system", "error", err) })
	defer keeper.Stop()
	end, err := serveStatus(ctx, c, board, log)
	if err != nil {
		return err
	}
	defer end()
	hidden := &fileMask{}
	for before, tried, again := c, false, false; ; again = true {
		to, err := followUntil(ctx, c, again, next, hidden, board, log)
		switch {
		case to != nil:
			if err == nil {
				before = c
			}
			c, tried = *to, true
			log.Info("configuration taken")
		case err != nil && tried:
			log.Error("configuration given up; the one before stands again", "error", err)
			notTaken(board, err)
			c, tried = before, false
		default:
			return err
		}
	}
}

// followUntil follows until ctx ends, or returns the configuration that came. With again, the workload is reloaded first.
func followUntil(ctx context.Context, c Config, again bool, next <-chan Config, hidden *fileMask, board *status.Board, log *slog.Logger) (to *Config, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-ctx.Done():
		case c := <-next:
			to = &c
			cancel()
		}
	})
	hidden.paths = c.Watch.Paths
	hidden.take()
	err = watch.Files(ctx, c.Watch.Paths, watch.Options{
		Stable: c.Stable, Poll: c.Poll, Valid: c.Valid,
		Warn: func(err error) { log.Warn("files are harder to follow than they should be", "error", err) },
		Started: func() {
			board.Update(func(s *status.State) { s.Ready = true })
			log.Info("following files", "paths", c.Watch.Paths)
			if again {
				follow(ctx, c, hidden, board, log)
			}
		},
	}, func(ctx context.Context) { follow(ctx, c, hidden, board, log) })
	cancel()
	waiting.Wait()
	return to, err
}

// follow reloads, again while that fails, and then waits up to the deadline for the workload to be well. What the files
// hold is hidden in what is said of that.
func follow(ctx context.Context, c Config, hidden *fileMask, board *status.Board, log *slog.Logger) {
	hidden.take()
	if m, ok := c.Reloader.(reload.Masker); ok {
		c.Reloader = m.WithMask(hidden.mask)
	}
	if m, ok := c.Checker.(health.Masker); ok {
		c.Checker = m.WithMask(hidden.mask)
	}
	board.Update(func(s *status.State) { s.Changed = time.Now() })
	verdict := func(reason string) {
		board.Update(func(s *status.State) { s.Healthy, s.Reason = reason == "", reason })
	}
	for failures := 1; ; failures++ {
		begun := beginReload(c, board)
		err := hidden.maskError(c.Reloader.Reload(ctx))
		if err != nil && ctx.Err() != nil {
			board.Update(func(s *status.State) { s.Reloading = nil })
			return
		}
		reloaded(board, begun, err)
		if errors.Is(err, reload.ErrNotRunning) {
			log.Info("files changed; the workload is not running and will read them when it starts", "reason", err)
			return
		}
		if err == nil {
			hidden.load()
			break
		}
		wait := machine.Backoff(failures, rand.Float64()) //nolint:gosec // spreading, not secrecy
		verdict("workload not reloaded: " + err.Error())
		log.Error("workload not reloaded", "error", err, "retry_in", wait)
		if backoff.Wait(ctx, wait) != nil {
			return
		}
	}
	verdict("")
	log.Info("files changed; workload reloaded")
	if c.Checker == nil {
		return
	}
	within, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	for good := 0; ; {
		wait := machine.BackoffFirst
		err := c.Checker.Check(within, "")
		if err != nil {
			good = 0
		} else if good++; good >= c.Successes {
			log.Info("workload is healthy")
			return
		} else {
			wait = c.Interval
			err = fmt.Errorf("it was well %d times in a row, and successes is %d", good, c.Successes)
		}
		if backoff.Wait(within, wait) != nil {
			if ctx.Err() != nil {
				return
			}
			verdict("workload is not healthy after the change: " + err.Error())
			log.Error("workload is not healthy after the change", "error", err)
			return
		}
	}
}

// fileMask hides what files that something else renders hold, in what a reload or a check has said. Their form is not
// known, so that whatever may be a value in one of the usual forms is hidden, names of keys among it.
type fileMask struct {
	valueMask
	paths []string
}

// take looks at the files again. It is called before the workload is signalled.
func (m *fileMask) take() {
	var found []key.Value
	for _, path := range m.paths {
		if data, err := os.ReadFile(path); err == nil { //nolint:gosec // the operator names it; else there is nothing in it to say
			found = append(found, valuesIn(string(data))...)
		}
	}
	m.hold(found)
}

var (
	quotedValue = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'[^']*'`)
	namedValue  = regexp.MustCompile(`^[^=:]*[=:]\s*(.*)$`)
)

// valuesIn returns what may be a value: lines, what follows a name on its line, and what stands in quotes.
func valuesIn(text string) (found []key.Value) {
	seen := map[string]bool{}
	add := func(v string) {
		if v = strings.Trim(v, " \t\r,;"); len(v) >= mask.Least && !seen[v] {
			seen[v] = true
			found = append(found, key.NewValue(v))
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		add(line)
		if m := namedValue.FindStringSubmatch(line); m != nil {
			add(m[1])
		}
		for _, quoted := range quotedValue.FindAllString(line, -1) {
			add(quoted[1 : len(quoted)-1])
			if plain, err := strconv.Unquote(quoted); err == nil {
				add(plain)
			}
		}
	}
	return found
}

// maxOneLine is how many names the engine takes.
const maxOneLine = 200

// oneLine is what the sidecar tells the engine of values of several lines: which keys go into something that cannot carry
// them, so that no rotation hands them over. That is a file of a format which cannot, a template whose author has not said
// that it can, a header, or the URL of a database.
func (c Config) oneLine() client.OneLine {
	var names []string
	for _, t := range c.Targets {
		switch t.Format {
		case render.JSON, render.Bundle, render.Files:
		case render.Template:
			if !t.Multiline {
				names = append(names, t.Template.Keys()...)
			}
		default:
			if t.Multiline {
				continue
			}
			if len(t.Keys) == 0 {
				return nil
			}
			names = append(names, t.Keys...)
		}
	}
	for _, d := range c.Destinations {
		for _, f := range d.Data.Fields {
			if f.Template != nil && !d.Multiline {
				names = append(names, f.Template.Keys()...)
			}
		}
	}
	for _, l := range c.Listeners {
		for _, k := range l.Keys {
			names = append(names, k.Env)
		}
	}
	for _, name := range c.gateKeys {
		names = append(names, name)
	}
	if c.Reencrypt != nil && c.Reencrypt.DatabaseURLKey != "" {
		names = append(names, c.Reencrypt.DatabaseURLKey)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > maxOneLine {
		return nil
	}
	return client.Carries(names...)
}
