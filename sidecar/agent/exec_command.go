// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"syscall"

	"github.com/spf13/cobra"

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

// NewExec returns "hyvve-sidecar exec". Its exit status is the workload's own, once that was started. A context that is done
// before signals are passed on stands for one that asks to end.
func NewExec() *cobra.Command {
	f := &commandFlags{exec: true, always: true}
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
