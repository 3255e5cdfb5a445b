// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

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
		if asJSON && ready || wait != 0 && !ready {
			return usage.Exit{Status: 2, Err: errors.New("--ready stands without --json, and --wait beside --ready")}
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
		return s, fmt.Errorf("the sidecar does not run: nobody answers at %s", socket)
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
