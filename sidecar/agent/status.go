// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
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
	if a.state.Loaded == a.bundle.Etag {
		a.hidden.load()
	}
	work := a.jobs.reports()
	a.board.Update(func(s *status.State) {
		s.Ready = s.Ready || a.state.Files == machine.FilesWritten // the last good files stay
		s.Loaded = a.state.Holds() && a.state.Loaded == a.bundle.Etag
		s.Proof = a.state.Proof
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

// vaultIs puts on the board how a request has ended. The error is masked.
func (a *Agent) vaultIs(err error) {
	if err == nil {
		a.board.VaultIs(true, "", time.Now())
		return
	}
	if !errors.Is(err, errTokenEnds) {
		a.board.VaultIs(false, err.Error(), time.Now())
	}
}

// beginReload puts on the board that a reload begins, and returns when.
func beginReload(c Config, board *status.Board) time.Time {
	now := time.Now()
	board.Update(func(s *status.State) { s.Reloading = &status.Reloading{Since: now, Limit: c.reloadLimit()} })
	return now
}

// reloadLimit is the limit of one reload; 0 where the configuration has none.
func (c Config) reloadLimit() time.Duration {
	switch c.Reloading.Method {
	case "command", "http":
		return c.Reloading.Timeout
	}
	return 0
}

// sayHangup says why a configuration waits.
func (c Config) sayHangup(board *status.Board, log *slog.Logger) {
	r := board.State().Reloading
	if r == nil || c.Watch != nil { // which ends it
		return
	}
	const text = "SIGHUP received; the configuration is loaded when the reload under way has ended"
	if r.Limit == 0 {
		log.Info(text)
		return
	}
	log.Info(text, "at_most", max(r.Limit-time.Since(r.Since), 0).Round(time.Second).String())
}

// notReloaded takes from the board a reload that was not needed.
func notReloaded(board *status.Board) { board.Update(func(s *status.State) { s.Reloading = nil }) }

// reloaded puts a reload on the board. Its error is masked.
func reloaded(board *status.Board, begun time.Time, err error) {
	r := status.Reload{At: begun, Took: time.Since(begun)}
	result := status.Succeeded
	switch {
	case errors.Is(err, reload.ErrNotRunning):
		result = status.NotRunning
	case err != nil:
		result, r.Error = status.Failed, err.Error()
	}
	board.Reloaded(result, r)
}

// notTaken puts on the board that another configuration was refused; without an error, that one was taken.
func notTaken(board *status.Board, err error) {
	board.Update(func(s *status.State) {
		if s.NotTaken = nil; err != nil {
			s.NotTaken = &status.NotTaken{At: time.Now(), Error: err.Error()}
		}
	})
}

const statusHelp = `Usage: hyvve-sidecar status --config=FILE
       hyvve-sidecar status --socket=FILE

Asks the sidecar that runs by a configuration how it is, at its socket; as its user, or as root. The exit status is 0 if all
is well, 1 if not or if the sidecar does not run, and 2 if it cannot be asked like that. With --ready it is 0 once what the
workload needs to start is in place, well or not, and nothing is printed then: a startup probe.
`

const statusWait = 5 * time.Second

// NewStatus returns "hyvve-sidecar status".
func NewStatus() *cobra.Command {
	var config, socket string
	var asJSON, ready bool
	var wait time.Duration
	cmd := usage.New("hyvve-sidecar status", "ask a sidecar that runs how it is", statusHelp, func(cmd *cobra.Command, _ []string) (err error) {
		if asJSON && ready {
			return usage.Exit{Status: 2, Err: errors.New("--ready prints nothing; leave out --json")}
		}
		if wait != 0 && !ready {
			return usage.Exit{Status: 2, Err: errors.New("--wait needs --ready")}
		}
		if socket == "" {
			if socket, err = configuredSocket(config); err != nil {
				return usage.Exit{Status: 2, Err: err}
			}
		}
		if ready {
			return awaitReady(cmd.Context(), socket, wait)
		}
		return printStatus(cmd, socket, asJSON)
	})
	flags := cmd.Flags()
	flags.StringVar(&config, "config", "", "configuration `FILE` of the sidecar")
	flags.StringVar(&socket, "socket", os.Getenv(environmentPrefix+"STATUS_SOCKET"), "`FILE` of the sidecar's socket; as the configuration says otherwise")
	flags.BoolVar(&asJSON, "json", false, "writes JSON, with all that is known")
	flags.BoolVar(&ready, "ready", false, "tells only whether what the workload needs to start is in place")
	flags.DurationVar(&wait, "wait", 0, "`DURATION` for which --ready waits until it is")
	return cmd
}

// printStatus prints the status of the sidecar at a socket. The exit status is 1 where it is unhealthy.
func printStatus(cmd *cobra.Command, socket string, asJSON bool) error {
	s, err := ask(cmd.Context(), socket, "/status")
	if err != nil {
		return err
	}
	if asJSON {
		out := json.NewEncoder(cmd.OutOrStdout())
		out.SetIndent("", "  ")
		_ = out.Encode(s)
	} else {
		s.Print(cmd.OutOrStdout(), time.Now())
	}
	if !s.Well() {
		return usage.Exit{Status: 1}
	}
	return nil
}

// configuredSocket is that of the sidecar which runs by a file, or by what the environment says.
func configuredSocket(config string) (string, error) {
	text := ""
	if config == "" {
		config, text = os.Getenv(environmentPrefix+"CONFIG"), os.Getenv(environmentPrefix+"CONFIG_TEXT")
	}
	if config == "" && text == "" {
		return "", errors.New("which sidecar? Give --config=FILE as it has, or --socket=FILE")
	}
	f, err := load(config, text)
	if err != nil {
		return "", err
	}
	if f.SocketPath() == "" {
		return "", errors.New("by its configuration the sidecar has no socket; set socket in a status block")
	}
	return f.SocketPath(), nil
}

// readyPoll is the time between two looks at a sidecar that is not ready yet.
const readyPoll = 50 * time.Millisecond

// awaitReady asks until what the workload needs to start is in place, or for so long, once at least.
func awaitReady(ctx context.Context, socket string, wait time.Duration) error {
	for end := time.Now().Add(wait); ; {
		path := "/status"
		if left := time.Until(end); left > 0 {
			path = fmt.Sprintf("/await?for=%dms", left.Milliseconds()) // which answers the moment that it is
		}
		s, err := ask(ctx, socket, path)
		if err == nil && s.Ready {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("what the workload needs to start is not in place yet: %s", s.Unready())
		}
		if !time.Now().Before(end) || backoff.Wait(ctx, readyPoll) != nil {
			return err
		}
	}
}

// ask asks at a socket.
func ask(ctx context.Context, socket, path string) (s status.State, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	resp, err := status.Get(ctx, socket, path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return s, fmt.Errorf("nobody answers at %s: the sidecar does not run, or it runs with another configuration (--socket=FILE names its socket)", socket)
	case errors.Is(err, fs.ErrPermission):
		return s, fmt.Errorf("%s may be asked by the sidecar's user and root only", socket)
	case err != nil:
		return s, fmt.Errorf("no answer at %s: %w", socket, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&s); err != nil || resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("what answers at %s is no sidecar: %s", socket, resp.Status)
	}
	return s, nil
}
