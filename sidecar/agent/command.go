// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/supervise"
)

const help = `Usage: hyvve-sidecar agent --config=FILE
       hyvve-sidecar agent --vault-addr=URL --token-file=FILE --workload=NAME --dotenv=FILE [flags]
       hyvve-sidecar agent --watch=FILE --pid-file=FILE [flags]

Keeps the files of one workload instance as the engine wants them, makes the workload reload, checks its health and
reports. With --watch, or a watch block, it follows files that something else renders. Flags are for the common cases
and go over the configuration file; docs/sidecar.md describes the file. Each flag may come from the environment instead, as
HYVVE_SIDECAR_ and its name: HYVVE_SIDECAR_VAULT_ADDR is --vault-addr. SIGHUP makes it read its configuration again.
`

const validateHelp = `Usage: hyvve-sidecar validate --config=FILE
       hyvve-sidecar validate [flags] [-- COMMAND [ARGUMENTS…]]

Checks a configuration file, or flags, of agent or exec, without Vault and without changing anything; docs/sidecar.md
describes the file. The exit status is 0 if it is good, and 2 with what is wrong in it otherwise. It says by what the engine will
know that the workload uses what it should (etag, health, reload or none), and what a better proof lacks.
`

// load reads a file, or a text, or neither.
func load(path, text string) (config.File, error) {
	switch {
	case path != "" && text != "":
		return config.File{}, errors.New("--config (or HYVVE_SIDECAR_CONFIG) and --config-text (or HYVVE_SIDECAR_CONFIG_TEXT) are both set; take one out")
	case path != "":
		return config.Load(path)
	case text != "":
		return config.Parse([]byte(text), "config-text")
	}
	return config.File{}, nil
}

// load reads the file or text, if any, and puts the flags over it. A sidecar that runs already is an instance: where nothing names
// one, it stays that, since its standard name depends on what is rendered.
func (c *commandFlags) load(instance string) (Config, error) {
	f, err := c.file()
	if err != nil {
		return Config{}, err
	}
	f.Instance = cmp.Or(f.Instance, instance)
	return Check(f)
}

func (c *commandFlags) logger(w io.Writer) (*slog.Logger, error) {
	level := slog.LevelInfo
	if c.logLevel != "" {
		if err := level.UnmarshalText([]byte(c.logLevel)); err != nil {
			return nil, fmt.Errorf("--log-level=%s is not known; use debug, info, warn or error", c.logLevel)
		}
	}
	return usage.Logger(w, level), nil
}

// NewCommand returns "hyvve-sidecar agent".
func NewCommand() *cobra.Command {
	f := &commandFlags{}
	return f.command("agent", "render files, make the workload reload, check its health, report", help, func(cmd *cobra.Command, c Config, log *slog.Logger) error {
		if c.Exec != nil {
			return usage.Exit{Status: 2, Err: errors.New("the configuration has an exec block; run it with \"hyvve-sidecar exec\"")}
		}
		return f.run(cmd.Context(), c, log)
	})
}

// run runs the agent, or follows files, until ctx ends.
func (c *commandFlags) run(ctx context.Context, config Config, log *slog.Logger) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // before anything is said or done: until then it would end the sidecar
	defer signal.Stop(hangups)
	next := make(chan Config)
	board := newBoard(config, nil)
	run, take := func() error { return followOn(ctx, config, next, board, log) }, func(c Config) error {
		select {
		case next <- c:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	instance := func(now Config) string { return now.Instance }
	if config.Watch == nil {
		a, err := New(config, log)
		if err != nil {
			return err
		}
		run, take, board = func() error { return a.Run(ctx) }, a.reconfigure, a.board
		instance = func(Config) string { return a.instance.Load().(string) }
	}
	go c.onHangup(ctx, hangups, config, instance, take, board, log)
	log.Info("sidecar started", "workload", config.Workload, "instance", config.Instance)
	config.sayProof(log)
	if err := run(); err != nil {
		return err
	}
	log.Info("sidecar stopped")
	return nil
}

// onHangup reads the configuration again at each SIGHUP, until ctx ends. One that is not good changes nothing. instance returns the
// name that the sidecar has: Vault may have refused that of the configuration which was taken last.
func (c *commandFlags) onHangup(ctx context.Context, hangups <-chan os.Signal, now Config, instance func(Config) string, take func(Config) error, board *status.Board, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		next, err := c.load(instance(now))
		if err == nil {
			err = now.changeable(next)
		}
		if err == nil {
			now.sayHangup(board, log)
			notTaken(board, nil) // before it is taken: a watch may give it up at once
			err = take(next)
		}
		if err != nil {
			log.Error("configuration not taken; the one before stays", "error", err)
			notTaken(board, err)
			continue
		}
		now = next
	}
}

// NewValidate returns "hyvve-sidecar validate".
func NewValidate() *cobra.Command {
	f := &commandFlags{exec: true}
	return f.command("validate", "check a configuration of agent or exec", validateHelp, func(cmd *cobra.Command, c Config, _ *slog.Logger) error {
		for _, risk := range c.Risks() {
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), "WARNING: "+risk)
		}
		_, _ = fmt.Fprintln(cmd.OutOrStdout(), "The configuration is good.")
		if c.Vault != nil {
			printProof(cmd.OutOrStdout(), c.Proof())
			printEnding(cmd.OutOrStdout(), c)
		}
		return nil
	})
}

// sayProof warns of a configuration that proves nothing.
func (c Config) sayProof(log *slog.Logger) {
	if p := c.Proof(); c.Vault != nil && !p.Most.AtLeast(workload.ProofReload) {
		log.Warn("it will not be known whether the workload uses what it should, and rotations go on without knowing", "proof", p.Most.String(), "lacks", p.Lacks)
	}
}

// printProof says what a configuration can prove, and what it lacks to prove more.
func printProof(out io.Writer, p config.Proof) {
	if !p.Most.AtLeast(workload.ProofReload) {
		_, _ = fmt.Fprintln(out, "WARNING: it proves nothing: rotations go on, and retire old values, although nobody knows whether the workload uses the new ones.")
	}
	_, _ = fmt.Fprintf(out, "Proof of each load: %s.\n", p.Most)
	if p.Lacks != "" {
		_, _ = fmt.Fprintf(out, "For more: %s.\n", p.Lacks)
	}
}

// printEnding says where the sidecar will not know, when it stops, that the workload has ended.
func printEnding(out io.Writer, c Config) {
	text := map[config.Ending]string{
		config.EndUnseen:    "it is not known whether the workload has ended, unless it is in a pod whose service account may get pods",
		config.EndListening: "in a pod, the workload has ended where nobody listens any more; elsewhere that is not known",
	}[c.Ending()]
	if text != "" && c.OnStop == config.OnStopHold {
		_, _ = fmt.Fprintf(out, "When the sidecar stops: %s. If not, rotations wait for the instance for lease_ttl.\n", text)
	}
}

// environmentPrefix begins the names of variables that stand for flags, as in HYVVE_SIDECAR_VAULT_ADDR for --vault-addr.
const environmentPrefix = "HYVVE_SIDECAR_"

// command returns a command that reads flags and configuration, and then runs.
func (c *commandFlags) command(name, short, help string, run func(*cobra.Command, Config, *slog.Logger) error) *cobra.Command {
	cmd := usage.New("hyvve-sidecar "+name, short, help, func(cmd *cobra.Command, _ []string) error {
		if err := usage.Environment(cmd.Flags(), environmentPrefix, os.Environ(), c.loginFlags(), allFlags()); err != nil {
			return usage.Exit{Status: 2, Err: err}
		}
		loaded, err := c.load("")
		var log *slog.Logger
		if err == nil {
			log, err = c.logger(cmd.ErrOrStderr())
		}
		if err != nil {
			return usage.Wrong(err)
		}
		return run(cmd, loaded, log)
	})
	c.define(cmd.Flags())
	if c.exec {
		cmd.Args = c.cut
	}
	return cmd
}

const execHelp = `Usage: hyvve-sidecar exec --config=FILE [-- COMMAND [ARGUMENTS…]]
       hyvve-sidecar exec --vault-addr=URL --token-file=FILE --workload=NAME [flags] -- COMMAND [ARGUMENTS…]

Runs the workload itself, as the first process of a container or anywhere: with the values of its keys in its environment,
restarted when they change. Signals are passed on to it, and the sidecar exits with its status. Files are rendered,
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

// superviseWorkload runs agent and workload together. The agent continues until the workload has ended, since that holds its
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
	c.sayProof(log)
	if err := a.Run(ctx); err != nil {
		return 1, err
	}
	return process.Status(), nil
}
