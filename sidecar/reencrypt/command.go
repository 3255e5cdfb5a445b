// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

const help = `Usage: hyvve-sidecar reencrypt [flags]
       hyvve-sidecar reencrypt discover [flags]

Re-encrypts the platform's envelopes in PostgreSQL from an old key to a new one. New ciphertexts are staged beside the
rows, then put in place in one transaction; a run that was interrupted is resumed by the same command. The old
ciphertexts are kept until --wipe, so that --revert takes seconds.

Environment (each may be given as a file instead, by NAME_FILE, or as PATH#FIELD in Vault, by NAME_VAULT):
  DATABASE_URL                                   PostgreSQL, with or without a pooler; Prisma's parameters are understood
  ENCRYPTION_MASTER_KEY_OLD, _NEW                ai_provider_configs, mcp_server_configs, integration_connections
  BETTER_AUTH_SECRET_OLD, _NEW                   users.two_factor_secret, and legacy rows of mcp_server_configs
  BETTER_AUTH_SECRET, ENCRYPTION_MASTER_KEY      the key that does not change, so that its rows are recognised
At least one pair of _OLD and _NEW is needed.

Exit status: 0 done, 1 failed (nothing half done: run it again), 2 wrong usage.
`

// settings are what the command line says.
type settings struct {
	dryRun, revert, wipe, json, upgrade bool
	skipBad                             bool // flip although some rows open under no key; they stay as they are
	options                             Options
}

// NewCommand returns "hyvve-sidecar reencrypt".
func NewCommand(getenv func(string) string) *cobra.Command {
	var s settings
	var onBad string
	cmd := usage.New("hyvve-sidecar reencrypt", "re-encrypt the platform's envelopes in PostgreSQL, by hand", help, func(cmd *cobra.Command, _ []string) error {
		s.skipBad = onBad == "skip"
		problem := s.check(onBad)
		var in input
		if problem == nil {
			in, problem = readInput(cmd.Context(), getenv, s.upgrade)
		}
		if problem != nil {
			return needs(cmd, problem, " Nothing was changed.")
		}
		r := runner{settings: s, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
		return r.run(cmd.Context(), in)
	})
	s.define(cmd.Flags(), &onBad)
	cmd.AddCommand(newDiscover(getenv))
	return cmd
}

// needs returns the error of a command that lacks something.
func needs(cmd *cobra.Command, problem error, rest string) error {
	return usage.Exit{Status: 2, Err: fmt.Errorf("%w\nRun \"%s --help\" for what it needs.%s", problem, cmd.CommandPath(), rest)}
}

func (s *settings) define(flags *pflag.FlagSet, onBad *string) {
	flags.BoolVar(&s.dryRun, "dry-run", false, "count the rows under each key and change nothing")
	flags.IntVar(&s.options.BatchSize, "batch-size", defaultBatch, "rows read and staged at a time, `N` from 1 to 10000")
	flags.BoolVar(&s.revert, "revert", false, "go back to the old key, with the same environment")
	flags.BoolVar(&s.wipe, "wipe", false, "drop the kept ciphertexts of the old key, with the same environment; a revert after that encrypts every row again")
	flags.BoolVar(&s.json, "json", false, "print the result as JSON")
	flags.BoolVar(&s.options.SaltPerRow, "salt-per-row", false, "draw a salt for each new envelope, which makes every later run slow")
	flags.BoolVar(&s.options.InPlace, "in-place", false, "replace rows batch by batch, without side schema and revert of its own: where applications hold both keys")
	flags.BoolVar(&s.upgrade, "upgrade-legacy", false, "bring rows of older releases, under BETTER_AUTH_SECRET, to the master key and its layout")
	flags.IntVar(&s.options.RowsPerSecond, "rows-per-second", 0, "work on no more than `N` rows a second; 0: as fast as it goes")
	flags.DurationVar(&s.options.MaxLoad, "max-load", 0, "rest while a batch's transactions take longer than that `DURATION`, or a replica lags behind so much; 0: never")
	flags.Func("allow-trigger", "the trigger of that `NAME` may be set off; may be given again", func(name string) error {
		s.options.AllowTriggers = append(s.options.AllowTriggers, name)
		return nil
	})
	flags.BoolVar(&s.options.AllowSuperuser, "allow-superuser", false, "let the role of DATABASE_URL be a superuser, as whom code of the database's own could do anything")
	flags.StringVar(&s.options.TouchColumn, "touch-column", "", "set the column of that `NAME`, such as updated_at, to the time of the change, in tables that have it")
	flags.StringVar(onBad, "on-bad-row", "abort", "what a row that no key opens does: `abort` before anything is changed, or skip it")
}

func (s settings) check(onBad string) error {
	switch {
	case s.options.BatchSize < 1 || s.options.BatchSize > 10_000:
		return fmt.Errorf("--batch-size=%d is not from 1 to 10000", s.options.BatchSize)
	case onBad != "abort" && onBad != "skip":
		return fmt.Errorf("--on-bad-row=%s is not known; use abort or skip", onBad)
	case s.options.RowsPerSecond < 0:
		return fmt.Errorf("--rows-per-second=%d is negative; 0 is no bound", s.options.RowsPerSecond)
	case s.options.MaxLoad < 0:
		return fmt.Errorf("--max-load=%v is negative; 0 is no bound", s.options.MaxLoad)
	case s.options.InPlace && (s.revert || s.wipe):
		return fmt.Errorf("--in-place keeps nothing that could be reverted or wiped; to go back, run it with the values of _OLD and _NEW changed over")
	case s.revert && s.wipe:
		return fmt.Errorf("--revert and --wipe exclude each other")
	case s.dryRun && (s.revert || s.wipe):
		return fmt.Errorf("--dry-run counts rows; it goes neither with --revert nor with --wipe")
	}
	return nil
}
