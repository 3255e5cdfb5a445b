// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

const discoverHelp = `Usage: hyvve-sidecar reencrypt discover [flags]

Looks for envelopes that nobody has configured: in every text and JSON column that the role may read, strings of an
envelope's shape are tried under the keys. Nothing is written.

Environment (each may be given as a file instead, by NAME_FILE, or as PATH#FIELD in Vault, by NAME_VAULT):
  DATABASE_URL                                 PostgreSQL
  ENCRYPTION_MASTER_KEY or its _OLD            the key in use; columns that the platform is known to encrypt are left out
  BETTER_AUTH_SECRET or its _OLD               likewise
At least one of the keys is needed.

Exit status: 0 nothing found, 1 failed, 2 wrong usage, 3 something found.
`

const statusFound = 3

// discovered is what was found of one key.
type discovered struct {
	Key    string          `json:"key"`
	Finds  []workload.Find `json:"finds"`
	Unseen []string        `json:"unseen"`
}

func newDiscover(getenv func(string) string) *cobra.Command {
	var all, asJSON bool
	cmd := usage.New("hyvve-sidecar reencrypt discover", "look for envelopes that nobody has configured", discoverHelp, func(cmd *cobra.Command, _ []string) error {
		in, err := discoverInput(cmd.Context(), getenv)
		if err != nil {
			return needs(cmd, err, "")
		}
		tries := discoverTries
		if all {
			tries = 0
		}
		var results []discovered
		status := 0
		for _, t := range in.tasks {
			r, err := discoverOne(cmd.Context(), in.databaseURL, t, tries)
			if err != nil {
				return in.blame(t.env, err)
			}
			if len(r.Finds) > 0 {
				status = statusFound
			}
			results = append(results, r)
		}
		if asJSON {
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"results": results}); err != nil {
				return err
			}
			return usage.Exit{Status: status}
		}
		for _, r := range results {
			r.print(cmd.OutOrStdout())
		}
		return usage.Exit{Status: status}
	})
	cmd.Flags().BoolVar(&all, "all", false, fmt.Sprintf("read all of every table, however large, and try every string of an envelope's shape, not only %d of a column, drawn by chance", discoverTries))
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}

func discoverInput(ctx context.Context, getenv func(string) string) (input, error) {
	in, err := readURL(ctx, getenv)
	if err != nil {
		return in, err
	}
	for _, env := range []string{platform.MasterKey, platform.BetterAuth} {
		var value key.Value
		for _, name := range []string{env + "_OLD", env} {
			if value.Empty() {
				if value, err = variable(ctx, getenv, name); err != nil {
					return in, err
				}
			}
		}
		if value.Empty() {
			continue
		}
		columns := platform.Columns(env)
		if _, err := envelope.Secret(columns[0].Layout, value); err != nil {
			return in, fmt.Errorf("%s: %w", env, err)
		}
		in.tasks = append(in.tasks, named{env: env, task: task{old: value, columns: columns}})
	}
	if len(in.tasks) == 0 {
		return in, fmt.Errorf("no key is given; set ENCRYPTION_MASTER_KEY or BETTER_AUTH_SECRET")
	}
	return in, nil
}

func discoverOne(ctx context.Context, databaseURL string, t named, tries int) (discovered, error) {
	r := discovered{Key: t.env, Finds: []workload.Find{}, Unseen: []string{}}
	w := NewWorker(databaseURL, Options{})
	j := &job{options: w.options, rings: map[key.Layout]*ring{}}
	var err error
	if j.db, err = connect(ctx, databaseURL); err != nil {
		return r, err
	}
	defer j.close()
	for _, c := range t.columns {
		if c.Schema == "" {
			c.Schema = j.db.schema
		}
		j.tables = append(j.tables, table{column: c})
		if j.rings[c.Layout], err = w.ringOf(c.Layout, t.task); err != nil {
			return r, err
		}
	}
	finds, unseen, err := j.discover(ctx, tries)
	r.Finds, r.Unseen = append(r.Finds, finds...), append(r.Unseen, unseen...)
	return r, err
}

func (r discovered) print(out io.Writer) {
	if len(r.Finds) == 0 {
		_, _ = fmt.Fprintf(out, "%s: no envelope outside of the platform's columns\n", r.Key)
	}
	for _, f := range r.Finds {
		where := f.Column
		if f.JSON {
			where += " (in JSON, which cannot be re-encrypted: move it to a text column)"
		}
		_, _ = fmt.Fprintf(out, "%s: %s: %d of %d strings tried open; %d rows have strings of an envelope's shape\n", r.Key, where, f.Opened, f.Tried, f.Shaped)
	}
	if len(r.Unseen) > 0 {
		_, _ = fmt.Fprintf(out, "%s: not looked at as a whole, since the role may not read them, row-level security hides rows, or they are large: %s\n", r.Key, strings.Join(r.Unseen, ", "))
	}
}
