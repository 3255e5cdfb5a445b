// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// newBoard makes a board of a sidecar that starts now.
func newBoard(c Config, live func(*status.State)) *status.Board {
	s := status.State{Version: version.Version, Mode: "agent", Workload: c.Workload, Instance: c.Instance, Started: time.Now(), Rendered: len(c.Targets) + len(c.Destinations)}
	switch {
	case c.Watch != nil:
		s.Mode, s.Healthy = "watch", true
	case c.Exec != nil:
		s.Mode = "exec"
	}
	if c.Vault != nil {
		s.Vault = &status.Vault{Address: c.Vault.Address, Method: c.Vault.Auth.Method}
	}
	return status.NewBoard(s, live)
}

// socketAgain is when it is tried again to make the socket, whose directory may come later.
const socketAgain = 5 * time.Second

// serveStatus serves the board where the configuration says, until end. A port that is taken is a mistake to be mended; a
// socket that cannot be had is no reason to leave the workload without its keys.
func serveStatus(ctx context.Context, c Config, board *status.Board, log *slog.Logger) (end func(), err error) {
	var listeners []net.Listener
	if c.Status != nil && c.Status.Listen != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Status.Listen)
		if err != nil {
			return nil, fmt.Errorf("status: %w; end what listens there, or write another listen address", err)
		}
		listeners = append(listeners, l)
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() { board.Serve(ctx, log, listeners...) })
	if c.Socket != "" {
		serving.Go(func() { serveSocket(ctx, c.Socket, board, log) })
	}
	return func() { cancel(); serving.Wait() }, nil
}

func serveSocket(ctx context.Context, path string, board *status.Board, log *slog.Logger) {
	said := ""
	for {
		l, err := status.Listen(path)
		if err == nil {
			board.Serve(ctx, log, l)
			return
		}
		if now := err.Error(); now != said {
			log.Warn("status is not to be had at the socket; it is tried again", "error", err)
			said = now
		}
		if backoff.Wait(ctx, socketAgain) != nil {
			return
		}
	}
}

// publish puts on the board what the loop knows.
func (a *Agent) publish() {
	work := a.jobs.reports()
	for i := range work {
		work[i].Error = a.mask(work[i].Error)
	}
	a.board.Update(func(s *status.State) {
		s.Ready = s.Ready || a.state.Files == machine.FilesWritten // the last good files stay
		s.Loaded = a.state.Holds() && a.state.Loaded == a.bundle.Etag
		s.Healthy, s.Reason, s.Work, s.Rollout = a.state.Verdict == machine.Healthy, a.state.Reason, work, rolloutOf(a.config.Reloader)
		if a.state.HasContent() {
			s.Etag, s.Keys = a.bundle.Etag, keysOf(a.bundle)
		}
	})
}

func keysOf(b client.Bundle) (all []status.Key) {
	for _, name := range slices.Sorted(maps.Keys(b.Versions)) {
		all = append(all, status.Key{Name: name, Version: b.Versions[name], Created: b.Created[name], Accepts: b.AcceptVersions[name]})
	}
	return all
}

// vaultIs puts on the board how a request has ended.
func (a *Agent) vaultIs(err error) {
	if err == nil {
		a.board.VaultIs(true, "", time.Now())
		return
	}
	if !errors.Is(err, errTokenEnds) {
		a.board.VaultIs(false, a.mask(err.Error()), time.Now())
	}
}

// reloaded puts a reload on the board.
func reloaded(board *status.Board, begun time.Time, err error, mask func(string) string) {
	r := status.Reload{At: begun, Took: time.Since(begun)}
	result := status.Succeeded
	switch {
	case errors.Is(err, reload.ErrNotRunning):
		result = status.NotRunning
	case err != nil:
		result, r.Error = status.Failed, mask(err.Error())
	}
	board.Reloaded(result, r)
}
