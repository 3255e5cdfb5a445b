// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/supervise"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

const execHelp = `Usage: hyvve-sidecar exec --config=FILE [-- COMMAND [ARGUMENTS…]]
       hyvve-sidecar exec --vault-addr=URL --token-file=FILE --workload=NAME [flags] -- COMMAND [ARGUMENTS…]

Runs the workload itself, as the first process of a container or anywhere: with the values of its keys in its environment,
restarted when they change. Signals are passed on to it, and its exit status is that of the sidecar. Files are rendered,
health is checked and reports are made as agent does. Without Vault the workload is not started before there is a first
bundle, and not touched afterwards. Flags are for the common cases and go over the exec block of the configuration file;
docs/sidecar.md and docs/exec.md describe it. Each flag may come from the environment instead, as HYVVE_SIDECAR_ and its name.
`

// execFlags are those of exec.
type execFlags struct {
	command                                 []string
	keys, onChange, stopSignal, stopTimeout string
	accepts, previous, overlap              bool
	always                                  bool // there is an exec block even if nothing of it is set

	flags *pflag.FlagSet // to know those that are set to false
}

func (e *execFlags) define(flags *pflag.FlagSet) {
	e.flags = flags
	flags.SetInterspersed(false)
	flags.StringVar(&e.keys, "keys", "", "`NAMES` of the environment to take from the bundle, with commas between them; all otherwise")
	flags.BoolVar(&e.accepts, "accepts", false, "adds NAME_ACCEPTS: all values to accept, newest first, as a JSON array")
	flags.BoolVar(&e.previous, "previous", false, "adds NAME_PREVIOUS: the second value to accept, while there is one")
	flags.BoolVar(&e.overlap, "overlap", false, "has the next process up before the one before is stopped; needs expect_etag of the health block")
	flags.StringVar(&e.onChange, "on-change", "", "`WHAT` to do with a running workload: restart, signal or none; restart otherwise")
	flags.StringVar(&e.stopSignal, "stop-signal", "", "`NAME` of the signal that stops the workload for a restart; SIGTERM otherwise")
	flags.StringVar(&e.stopTimeout, "stop-timeout", "", "`DURATION` after which a workload that does not stop is killed; 10s otherwise")
}

// over puts the flags over the block.
func (e *execFlags) over(f *config.File) {
	set := len(e.command) > 0 || e.accepts || e.previous || e.overlap || e.keys+e.onChange+e.stopSignal+e.stopTimeout != ""
	if f.Exec == nil && !set && !e.always {
		return
	}
	if f.Exec == nil {
		f.Exec = &config.ExecBlock{}
	}
	override(&f.Exec.OnChange, e.onChange)
	override(&f.Exec.StopSignal, e.stopSignal)
	override(&f.Exec.StopTimeout, e.stopTimeout)
	if e.keys != "" {
		f.Exec.Keys = strings.Split(e.keys, ",")
	}
	if len(e.command) > 0 {
		f.Exec.Command = e.command
	}
	for _, o := range []struct {
		name  string
		into  *bool
		value bool
	}{{"accepts", &f.Exec.Accepts, e.accepts}, {"previous", &f.Exec.Previous, e.previous}, {"overlap", &f.Exec.Overlap, e.overlap}} {
		if e.flags.Changed(o.name) {
			*o.into = o.value
		}
	}
}

// cut takes the workload's command, which stands after "--".
func (e *execFlags) cut(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
		return usage.Wrong(fmt.Errorf("%q is not wanted; the workload's command, if that is one, stands after --", args[0]))
	}
	e.command = args
	return nil
}

// NewExec returns "hyvve-sidecar exec". Its exit status is the workload's own, once that was started. A context that is done
// before signals are passed on stands for one that asks to end.
func NewExec() *cobra.Command {
	f := &commandFlags{exec: &execFlags{always: true}}
	return f.command("exec", "run the workload itself, with its keys in its environment; restart it when they change", execHelp, func(cmd *cobra.Command, c Config, log *slog.Logger) error {
		if len(c.Supervise.Command) == 0 {
			return usage.Exit{Status: 2, Err: errors.New("the workload's command is missing; write it after --, as in \"hyvve-sidecar exec --config=FILE -- node server.js\", or in the exec block")}
		}
		if _, err := supervise.Find(c.Supervise.Command); err != nil {
			var unstartable *supervise.StartError
			if errors.As(err, &unstartable) {
				return usage.Exit{Status: unstartable.Status, Err: err}
			}
			return err
		}
		status, err := superviseWorkload(cmd.Context(), c, log)
		if err == nil {
			log.Info("sidecar stopped", "status", status)
		}
		return usage.Exit{Status: status, Err: err}
	})
}

// superviseWorkload runs agent and workload together. The agent goes on until the workload has ended, since that holds its
// values until then; after that it gives the lease back.
func superviseWorkload(asked context.Context, c Config, log *slog.Logger) (int, error) {
	var a *Agent
	c.Supervise.Checker, c.Supervise.ReadyTimeout = health.Now(c.Checker), c.Deadline
	if m, ok := c.Supervise.Checker.(health.Masker); ok { // it is asked for the agent alone
		c.Supervise.Checker = m.WithMask(func(text string) string { return a.mask(text) })
	}
	process, err := supervise.New(c.Supervise, log)
	if err != nil {
		return 1, err
	}
	defer process.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready := make(chan struct{})
	go process.Forward(ctx, func() { close(ready) })
	<-ready
	if asked.Err() != nil {
		process.Pass(syscall.SIGTERM)
	}
	go supervise.Reap(ctx)
	go func() {
		select {
		case <-process.Ended():
			cancel()
		case <-ctx.Done():
		}
	}()
	c.Reloader = process
	if len(c.Health) == 0 {
		c.Checker = process
	}
	if a, err = New(c, log); err != nil {
		return 1, err
	}
	log.Info("sidecar started; the workload starts with its first bundle", "workload", c.Workload, "instance", c.Instance)
	if err := a.Run(ctx); err != nil {
		return 1, err
	}
	return process.Status(), nil
}
