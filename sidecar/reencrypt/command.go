// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

const help = `Usage: hyvve-sidecar reencrypt [flags]
       hyvve-sidecar reencrypt discover [flags]    look for envelopes that nobody has configured

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

// Command is "hyvve-sidecar reencrypt". It gives the exit status.
func Command(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "discover" {
		return discoverCommand(ctx, args[1:], getenv, stdout, stderr)
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		if near := usage.DidYouMean(args[0], []string{"discover"}); near != "" {
			_, _ = fmt.Fprintf(stderr, "hyvve-sidecar reencrypt: %q is not known%s\nRun \"hyvve-sidecar reencrypt --help\" for its flags.\n", args[0], near)
			return 2
		}
	}
	var s settings
	onBad := "abort"
	flags := flag.NewFlagSet("hyvve-sidecar reencrypt", flag.ContinueOnError)
	flags.BoolVar(&s.dryRun, "dry-run", false, "count the rows under each key and change nothing")
	flags.IntVar(&s.options.BatchSize, "batch-size", defaultBatch, "rows read and staged at a time, `N` from 1 to 10000")
	flags.BoolVar(&s.revert, "revert", false, "go back to the old key, with the same environment")
	flags.BoolVar(&s.wipe, "wipe", false, "drop the kept ciphertexts of the old key, with the same environment; a revert after that encrypts every row anew")
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
	flags.StringVar(&onBad, "on-bad-row", onBad, "what a row that no key opens does: `abort` before anything is changed, or skip it")
	if ok, status := usage.Parse(flags, args, help, stdout, stderr); !ok {
		return status
	}
	s.skipBad = onBad == "skip"
	problem := s.check(onBad)
	var in input
	if problem == nil {
		in, problem = readInput(ctx, getenv, s.upgrade)
	}
	if problem != nil {
		_, _ = fmt.Fprintf(stderr, "hyvve-sidecar reencrypt: %v\nRun \"hyvve-sidecar reencrypt --help\" for what it needs. Nothing was changed.\n", problem)
		return 2
	}
	r := runner{settings: s, out: stdout, err: stderr}
	if err := r.run(ctx, in); err != nil {
		_, _ = fmt.Fprintf(stderr, "hyvve-sidecar reencrypt: %v\n", err)
		return 1
	}
	return 0
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
