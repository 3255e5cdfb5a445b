// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// ExecBlock is the workload as the sidecar runs it itself.
type ExecBlock struct {
	Command     []string `hcl:"command,optional" doc:"Program and arguments to run, if they do not follow --."`
	Keys        []string `hcl:"keys,optional" type:"environment names" default:"all" flag:"keys" annotation:"keys" doc:"Environment names of the keys to set."`
	Accepts     bool     `hcl:"accepts,optional" flag:"accepts" annotation:"accepts" doc:"Adds NAME_ACCEPTS: all accepted values, newest first."`
	Previous    bool     `hcl:"previous,optional" flag:"previous" annotation:"previous" doc:"Adds NAME_PREVIOUS while there is a second accepted value."`
	OnChange    string   `hcl:"on_change,optional" default:"restart" values:"restart, signal, none" flag:"on-change" annotation:"exec-on-change" doc:"What happens to a running workload when its keys change."`
	Signal      string   `hcl:"signal,optional" type:"name" default:"SIGHUP" flag:"signal" annotation:"exec-signal" doc:"Signal that notifies the workload of a change." note:"Needs on_change = signal."`
	StopSignal  string   `hcl:"stop_signal,optional" type:"name" default:"SIGTERM" flag:"stop-signal" annotation:"exec-stop-signal" doc:"Signal that stops the workload for a restart."`
	StopTimeout string   `hcl:"stop_timeout,optional" type:"duration" default:"10s" flag:"stop-timeout" annotation:"exec-stop-timeout" doc:"Time between the stop signal and SIGKILL."`
	Overlap     bool     `hcl:"overlap,optional" flag:"overlap" annotation:"exec-overlap" doc:"Starts the next process before the present one stops. Needs a check of the etag."`
}

// OnChange is what is done with a running workload when the bundle changes.
type OnChange string

// What can be done.
const (
	OnChangeRestart OnChange = "restart" // it is stopped, and started with the new environment
	OnChangeSignal  OnChange = "signal"  // its environment stays; it reads files that are rendered
	OnChangeNone    OnChange = "none"    // it looks at the files by itself
)

// Running is an exec block with its texts parsed.
type Running struct {
	ExecBlock
	OnChange    OnChange
	Signal      syscall.Signal // of OnChangeSignal
	StopSignal  syscall.Signal
	StopTimeout time.Duration // from StopSignal to SIGKILL
}

// checkExec fills in Running. The command may be missing still: it may come with the arguments.
func (c *Checked) checkExec() (errs []error) {
	e := c.Exec
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("exec: "+format, args...)) }
	o := Running{*e, cmp.Or(OnChange(e.OnChange), OnChangeRestart), syscall.SIGHUP, syscall.SIGTERM, 0} // StopTimeout follows
	if c.Vault == nil {
		fail("a vault block is missing: the workload's environment comes from the engine; add one, or use agent with a reload block")
	}
	if c.Reload != nil {
		fail("it and a reload block exclude each other, since the sidecar restarts or signals the workload itself; take the reload block out, and set on_change here")
	}
	if len(e.Command) > 0 && e.Command[0] == "" {
		fail("command begins with an empty word; write it as a list, such as [\"node\", \"server.js\"]")
	}
	if err := checkKeys(e.Keys, c.AllowNames); err != nil {
		fail("%w", err)
	}
	if changes := []string{string(OnChangeRestart), string(OnChangeSignal), string(OnChangeNone)}; !slices.Contains(changes, string(o.OnChange)) {
		fail("on_change = %q is not known%s (it is one of %s)", e.OnChange, usage.DidYouMean(e.OnChange, changes), strings.Join(changes, ", "))
	} else if o.OnChange != OnChangeRestart {
		if err := c.rendersAll(e); err != nil {
			fail("on_change = %q: %w", e.OnChange, err)
		}
	}
	if e.Signal != "" && o.OnChange != OnChangeSignal {
		fail("signal = %q is for on_change = \"signal\"; set that, or stop_signal for the signal that stops the workload", e.Signal)
	}
	for _, s := range []struct {
		name, text string
		into       *syscall.Signal
	}{{"signal", e.Signal, &o.Signal}, {"stop_signal", e.StopSignal, &o.StopSignal}} {
		if s.text == "" {
			continue
		}
		parsed, err := ParseSignal(s.text)
		switch {
		case err != nil:
			fail("%s: %w", s.name, err)
		case parsed == syscall.SIGSTOP, s.name == "signal" && parsed == syscall.SIGKILL:
			fail("%s = %q cannot be handled by any program; use one such as SIGHUP or SIGTERM", s.name, s.text)
		default:
			*s.into = parsed
		}
	}
	if o.Overlap && (o.OnChange != OnChangeRestart || !c.ExpectsEtag()) {
		fail("overlap needs on_change = \"restart\" and a health block with expect_etag = true, since the process before would answer for the next one; add them, or leave overlap out")
	}
	var err error
	if o.StopTimeout, err = setting("", *e, "stop_timeout"); err != nil {
		fail("%w", err)
	}
	c.Running = o
	return errs
}

// rendersAll reports whether a workload that is not restarted finds in files what changes: its environment cannot.
func (c *Checked) rendersAll(e *ExecBlock) error {
	if len(c.Files()) == 0 {
		return errors.New("the environment of a running process cannot be changed; add a render block with the file that it reads, or use \"restart\"")
	}
	inFiles := func(name string) bool {
		return slices.ContainsFunc(c.Files(), func(r RenderBlock) bool { return len(r.Keys) == 0 || slices.Contains(r.Keys, name) })
	}
	var missing []string
	for _, name := range e.Keys {
		if !inFiles(name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > 0:
		return fmt.Errorf("%s would be in the environment only, and never change there; render it too, leave it out of keys, or use \"restart\"", strings.Join(missing, ", "))
	case len(e.Keys) == 0 && !inFiles(""):
		return errors.New("all keys of the workload are in its environment, and some in no file; set keys here to those of the render blocks, or use \"restart\"")
	}
	return nil
}

// tellsEtag reports whether the workload can know the etag of what it has loaded.
func (f File) tellsEtag() bool {
	return f.Exec != nil && (f.Exec.OnChange == "" || f.Exec.OnChange == string(OnChangeRestart)) ||
		slices.ContainsFunc(f.Render, func(r RenderBlock) bool { return r.Format == string(render.Bundle) })
}
