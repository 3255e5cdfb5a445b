// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

const statusHelp = `Usage: hyvve-sidecar status --config=FILE
       hyvve-sidecar status --socket=FILE

Asks the sidecar that runs by a configuration how it is, at its socket; as its user, or as root. The exit status is 0 if all
is well, 1 if not or if the sidecar does not run, and 2 if it cannot be asked like that.
`

const statusWait = 5 * time.Second

// Status is "hyvve-sidecar status". It gives the exit status.
func Status(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("hyvve-sidecar status", flag.ContinueOnError)
	config := flags.String("config", "", "configuration `FILE` of the sidecar")
	socket := flags.String("socket", os.Getenv(environmentPrefix+"STATUS_SOCKET"), "`FILE` of the sidecar's socket; as the configuration says otherwise")
	asJSON := flags.Bool("json", false, "writes JSON, with all that is known")
	if ok, code := usage.Parse(flags, args, statusHelp, stdout, stderr); !ok {
		return code
	}
	fail := func(code int, err error) int {
		_, _ = fmt.Fprintln(stderr, "hyvve-sidecar status:", err)
		return code
	}
	if *config == "" && *socket == "" {
		*config = os.Getenv(environmentPrefix + "CONFIG")
	}
	if *config == "" && *socket == "" {
		return fail(2, errors.New("which sidecar? Give --config=FILE as it has, or --socket=FILE"))
	}
	if *socket == "" {
		f, err := Load(*config)
		if err != nil {
			return fail(2, err)
		}
		if *socket = f.socket(); *socket == "" {
			return fail(2, fmt.Errorf("by %s the sidecar has no socket; set socket in a status block", *config))
		}
	}
	s, err := ask(ctx, *socket)
	if err != nil {
		return fail(1, err)
	}
	if *asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		_ = out.Encode(s)
	} else {
		s.Print(stdout, time.Now())
	}
	if s.Well() {
		return 0
	}
	return 1
}

// ask asks at a socket.
func ask(ctx context.Context, socket string) (s status.State, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	resp, err := status.Get(ctx, socket, "/status")
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
