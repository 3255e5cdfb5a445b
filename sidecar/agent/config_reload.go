// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// ReloadBlock is how the workload takes up a change: "signal", "command", "http" or "none".
type ReloadBlock struct {
	Method  string   `hcl:"method,label"`
	PIDFile string   `hcl:"pid_file,optional"`
	Signal  string   `hcl:"signal,optional"`
	Command []string `hcl:"command,optional"`
	URL     string   `hcl:"url,optional"`
	Timeout string   `hcl:"timeout,optional"`
}

func (r ReloadBlock) reloader(timeout time.Duration) (reload.Reloader, error) {
	methods := []string{"signal", "command", "http", "none"}
	switch r.Method {
	case "none":
		return nil, nil //nolint:nilnil // none is wanted
	case "signal":
		if r.PIDFile == "" {
			return nil, errors.New("reload \"signal\": pid_file is missing; name the file that holds the workload's process number")
		}
		if r.Signal == "" {
			r.Signal = "SIGHUP"
		}
		s, err := reload.ParseSignal(r.Signal)
		if err != nil {
			return nil, fmt.Errorf("reload \"signal\": %w", err)
		}
		return reload.Signal{PIDFile: r.PIDFile, Signal: s}, nil
	case "command":
		if len(r.Command) == 0 {
			return nil, errors.New("reload \"command\": command is missing; write it as a list, such as [\"nginx\", \"-s\", \"reload\"]")
		}
		return reload.Command{Args: r.Command, Timeout: timeout}, nil
	case "http":
		if r.URL == "" {
			return nil, errors.New("reload \"http\": url is missing")
		}
		return reload.HTTP{URL: r.URL, Timeout: timeout}, nil
	}
	return nil, fmt.Errorf("reload %q is not known%s (it is one of %s)", r.Method, usage.DidYouMean(r.Method, methods), strings.Join(methods, ", "))
}
