// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// The shape of an envelope: base64 of 97 bytes at least. In JSON a slash may be escaped.
const (
	shapeLeast = 132 // characters of 97 bytes, padded
	shapeText  = `^[A-Za-z0-9+/]{130,}={0,2}$`
	shapeJSON  = `"((?:[A-Za-z0-9+/]|\\/){130,}={0,2})"`

	// discoverTries is how many strings of a column are tried under the key, drawn by chance: a derivation each, as a rule.
	// If one in a hundred of a column's strings is an envelope of ours, two hundred tries miss it in 13 of 100 runs, and a
	// rotation looks at least twice; --all tries every one.
	discoverTries = 200
)

// place is a column that may hold envelopes which nobody has configured.
type place struct {
	schema, table, column string
	json                  bool
	but                   string // rows that the job looks at one by one, of alias t; empty: none
	bytes                 int64  // of the table
}

func (p place) String() string {
	return key.Column{Schema: p.schema, Table: p.table, Column: p.column}.String()
}

// value is the column's text, without what pads a char(n).
func (p place) value() string { return quoted(p.column) + "::text" }

// shaped is true of rows that hold a string of an envelope's shape.
func (p place) shaped() string {
	if p.json {
		return fmt.Sprintf("length(%s) > %d AND %s ~ '%s'", p.value(), shapeLeast, p.value(), shapeJSON)
	}
	return fmt.Sprintf("length(%s) >= %d AND length(%s) %% 4 = 0 AND %s ~ '%s'", p.value(), shapeLeast, p.value(), p.value(), shapeText)
}

// strings are those of an envelope's shape in rows that have some.
func (p place) strings() string {
	if p.json {
		return fmt.Sprintf("(regexp_matches(%s, '%s', 'g'))[1]", p.value(), shapeJSON)
	}
	return p.value()
}

// found is what a look has brought, as the side schema keeps it.
type found struct {
	At     time.Time       `json:"at"`
	Finds  []workload.Find `json:"finds"`
	Unseen []string        `json:"unseen"`
}

// How long a look stands: a rotation asks again and again while it sweeps, and the database is not to be read as a whole
// each time. What was found may be mended any time.
const (
	lookNothing = 10 * time.Minute
	lookFound   = time.Minute
)

// discoverFor looks for envelopes in a phase of the job, unless that was done a short while ago. The job is claimed.
func (j *job) discoverFor(ctx context.Context, phase workload.Phase) (found, error) {
	var last found
	var now time.Time
	err := j.db.tx(ctx, func(tx pgx.Tx) error {
		var text *string
		if err := tx.QueryRow(ctx, "SELECT now(), (found->$2)::text FROM hyvve_reencrypt.jobs WHERE id = $1", j.id, string(phase)).Scan(&now, &text); err != nil || text == nil {
			return err
		}
		return json.Unmarshal([]byte(*text), &last)
	})
	stands := lookNothing
	if len(last.Finds) > 0 {
		stands = lookFound
	}
	if err != nil || !last.At.IsZero() && now.Sub(last.At) < stands {
		return last, err
	}
	last = found{At: now}
	if last.Finds, last.Unseen, err = j.discover(ctx, discoverTries); err != nil {
		return last, err
	}
	text, err := json.Marshal(last)
	if err != nil {
		return last, err
	}
	return last, j.db.relaxedTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE hyvve_reencrypt.jobs SET found = found || jsonb_build_object($2::text, $3::jsonb) WHERE id = $1", j.id, string(phase), string(text))
		return err
	})
}

// discover looks for envelopes that open under the old key outside of the job's columns: in every text and JSON column that
// our role may read, of every schema. tries 0 tries all strings. unseen lists what cannot be read.
func (j *job) discover(ctx context.Context, tries int) (finds []workload.Find, unseen []string, err error) {
	places, unseen, err := j.places(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, at := range places {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		look, err := j.worthwhile(ctx, at, tries)
		if err == nil && !look {
			if note := fmt.Sprintf("%s.%s (sampled: %d MB of it hold no string of that shape)", at.schema, at.table, j.options.SampleBytes>>20); !slices.Contains(unseen, note) {
				unseen = append(unseen, note)
			}
			continue
		}
		var find workload.Find
		if err == nil {
			find, err = j.look(ctx, at, tries)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("looking for envelopes in %s: %w", at, err)
		}
		if find.Opened > 0 {
			finds = append(finds, find)
		}
	}
	return finds, unseen, nil
}

// places are the columns to look at: of those of the job only the rows that their conditions leave out, since the others are
// looked at one by one.
func (j *job) places(ctx context.Context) (places []place, unseen []string, err error) {
	err = j.db.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT n.nspname, c.relname, a.attname, a.atttypid IN ('json'::regtype, 'jsonb'::regtype),
				pg_table_size(c.oid), has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT') AND NOT row_security_active(c.oid)
			FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped
				AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'json'::regtype, 'jsonb'::regtype)
				AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'hyvve_reencrypt') AND n.nspname NOT LIKE 'pg\_toast%'
			ORDER BY 1, 2, a.attnum`)
		if err != nil {
			return err
		}
		var p place
		var visible bool
		_, err = pgx.ForEachRow(rows, []any{&p.schema, &p.table, &p.column, &p.json, &p.bytes, &visible}, func() error {
			p.but = ""
			whole := false
			for _, t := range j.tables {
				if t.column.Schema == p.schema && t.column.Table == p.table && t.column.Column == p.column {
					p.but, whole = t.chosen(), len(t.column.Where) == 0
				}
			}
			switch {
			case whole:
			case visible:
				places = append(places, p)
			case !slices.Contains(unseen, p.schema+"."+p.table):
				unseen = append(unseen, p.schema+"."+p.table)
			}
			return nil
		})
		return err
	})
	if err != nil || len(places) == 0 {
		return places, unseen, err
	}
	return j.withoutParts(ctx, places), unseen, nil
}

// withoutParts leaves out partitions of tables that the job looks at row by row.
func (j *job) withoutParts(ctx context.Context, places []place) []place {
	for _, t := range j.tables {
		var parts []string
		err := j.db.tx(ctx, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "SELECT n.nspname || '.' || c.relname FROM pg_partition_tree($1::oid) p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace", t.oid)
			if err == nil {
				parts, err = pgx.CollectRows(rows, pgx.RowTo[string])
			}
			return err
		})
		if err != nil {
			continue // they are looked at once more, which does no harm
		}
		places = slices.DeleteFunc(places, func(p place) bool {
			return p.column == t.column.Column && slices.Contains(parts, p.schema+"."+p.table)
		})
	}
	return places
}

// worthwhile reports whether a column is to be looked at as a whole. Of a large table a sample of its pages is looked at before:
// to read it twice a rotation would be a burden. tries 0 takes no samples.
func (j *job) worthwhile(ctx context.Context, at place, tries int) (bool, error) {
	most := j.options.SampleBytes
	if tries == 0 || at.bytes <= most {
		return true, nil
	}
	share := max(100*float64(most)/float64(at.bytes), 0.001) // percent
	var shaped bool
	err := j.db.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s t TABLESAMPLE SYSTEM (%f) WHERE %s)",
			pgx.Identifier{at.schema, at.table}.Sanitize(), share, at.shaped())).Scan(&shaped)
	})
	return shaped, err
}

// look tries strings of a column under the old key, in whichever layout.
func (j *job) look(ctx context.Context, at place, tries int) (workload.Find, error) {
	find := workload.Find{Column: at.String(), JSON: at.json}
	from := fmt.Sprintf("FROM %s t WHERE %s", pgx.Identifier{at.schema, at.table}.Sanitize(), at.shaped())
	if at.but != "" {
		from += fmt.Sprintf(" AND (%s) IS NOT TRUE", at.but)
	}
	var values []string
	err := j.db.tx(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, "SELECT count(*) "+from).Scan(&find.Shaped); err != nil || find.Shaped == 0 {
			return err
		}
		limit := ""
		if tries > 0 {
			limit = fmt.Sprintf(" ORDER BY random() LIMIT %d", tries)
		}
		rows, err := tx.Query(ctx, fmt.Sprintf("SELECT s FROM (SELECT %s AS s %s) x%s", at.strings(), from, limit))
		if err == nil {
			values, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return err
	})
	if err != nil {
		return find, err
	}
	var all []envelope.Envelope
	for _, v := range values {
		if e, err := envelope.Parse(strings.ReplaceAll(v, `\/`, "/")); err == nil {
			all = append(all, e)
		}
	}
	find.Tried = len(all)
	for _, r := range j.rings {
		n, err := opened(ctx, r.old, all)
		if err != nil {
			return find, err
		}
		find.Opened += n
	}
	return find, nil
}

// opened counts the envelopes that open under a key.
func opened(ctx context.Context, k *envelope.Keyring, all []envelope.Envelope) (n int, err error) {
	for part := range slices.Chunk(all, defaultBatch) {
		salts := make([]envelope.Salt, 0, len(part))
		for _, e := range part {
			salts = append(salts, e.Salt)
		}
		if err := k.DeriveAll(ctx, salts); err != nil {
			return n, err
		}
		for _, e := range part {
			if plaintext, err := k.Open(e); err == nil {
				clear(plaintext)
				n++
			}
		}
	}
	return n, nil
}

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
