// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pbkdf2"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgrows"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// input is what the environment says.
type input struct {
	databaseURL string
	urlFrom     string // the variable that databaseURL was read by
	tasks       []named
}

type named struct {
	env string
	task
}

// readInput reads and checks the environment, before anything is done.
func readInput(ctx context.Context, getenv func(string) string, upgrade bool) (input, error) {
	values := map[string]key.Value{}
	for _, env := range []string{platform.MasterKey, platform.BetterAuth} {
		for _, suffix := range []string{"", "_OLD", "_NEW"} {
			v, err := variable(ctx, getenv, env+suffix)
			if err != nil {
				return input{}, err
			}
			values[env+suffix] = v
		}
	}
	in, err := readURL(ctx, getenv)
	if err != nil {
		return input{}, err
	}
	for _, env := range []string{platform.MasterKey, platform.BetterAuth} {
		t, ok, err := taskFor(env, values)
		if err != nil {
			return input{}, err
		}
		if ok {
			t.upgrade = upgrade && env == platform.MasterKey
			in.tasks = append(in.tasks, t)
		}
	}
	if len(in.tasks) == 0 {
		return input{}, fmt.Errorf("no keys are given; set ENCRYPTION_MASTER_KEY_OLD and ENCRYPTION_MASTER_KEY_NEW, or BETTER_AUTH_SECRET_OLD and BETTER_AUTH_SECRET_NEW")
	}
	if upgrade && (len(in.tasks) != 1 || in.tasks[0].env != platform.MasterKey || len(in.tasks[0].others) == 0) {
		return input{}, fmt.Errorf("--upgrade-legacy brings rows under BETTER_AUTH_SECRET to the master key: it needs the pair of ENCRYPTION_MASTER_KEY alone, and BETTER_AUTH_SECRET")
	}
	return in, nil
}

// readURL reads and checks where the database is.
func readURL(ctx context.Context, getenv func(string) string) (in input, err error) {
	// DIRECT_URL is not asked: a leftover of another database would decide which rows are rewritten.
	const name = "DATABASE_URL"
	url, err := variable(ctx, getenv, name)
	if err != nil {
		return in, err
	}
	in.databaseURL, in.urlFrom = url.Reveal(), name
	for _, suffix := range []string{"_FILE", "_VAULT"} {
		if getenv(name+suffix) != "" {
			in.urlFrom += suffix
		}
	}
	if in.databaseURL == "" {
		return in, fmt.Errorf("%s is not set; give the URL of the platform's database", name)
	}
	if _, err := parseURL(in.databaseURL); err != nil {
		return in, fmt.Errorf("%s: %w", in.urlFrom, err)
	}
	return in, nil
}

// blame names what an error is about: a database that is not reached has nothing to do with the key of that name.
func (in input) blame(env string, err error) error {
	if unreached := (*unreachedError)(nil); errors.As(err, &unreached) {
		env = in.urlFrom
	}
	return fmt.Errorf("%s: %w", env, err)
}

// variable reads an environment variable, the file that NAME_FILE names, without a trailing line break, or the field of a
// secret in Vault that NAME_VAULT names.
func variable(ctx context.Context, getenv func(string) string, name string) (key.Value, error) {
	value, file, vault := getenv(name), getenv(name+"_FILE"), getenv(name+"_VAULT")
	switch {
	case value != "" && file != "", value != "" && vault != "", file != "" && vault != "":
		return key.Value{}, fmt.Errorf("more than one of %s, %s_FILE and %s_VAULT are set; set one", name, name, name)
	case vault != "":
		v, err := fromVault(ctx, vault)
		if err != nil {
			return key.Value{}, fmt.Errorf("%s_VAULT: %w", name, err)
		}
		return v, nil
	case file != "":
		data, err := external.ReadCredentialFile(file)
		if err != nil {
			return key.Value{}, fmt.Errorf("%s_FILE: %w", name, err)
		}
		return key.NewValue(strings.TrimRight(string(data), "\r\n")), nil
	}
	return key.NewValue(value), nil
}

// fromVault reads PATH#FIELD, with the address and the token of Vault's own environment. A secret of the key-value engine's
// version 2 has its fields one level down.
func fromVault(ctx context.Context, place string) (key.Value, error) {
	path, field, ok := strings.Cut(place, "#")
	if !ok || path == "" || field == "" {
		return key.Value{}, fmt.Errorf("%q is not PATH#FIELD, such as secret/data/hyvve#OLD_KEY", place)
	}
	vault, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return key.Value{}, fmt.Errorf("VAULT_ADDR and the like: %w", err)
	}
	secret, err := vault.Logical().ReadWithContext(ctx, path)
	var refused *api.ResponseError
	switch {
	case errors.As(err, &refused):
		return key.Value{}, fmt.Errorf("reading %s: vault answers %d (%s); mend VAULT_TOKEN, its policy, or the path", path, refused.StatusCode, strings.Join(strings.Fields(strings.Join(refused.Errors, " ")), " "))
	case err != nil:
		return key.Value{}, fmt.Errorf("vault cannot be asked: %w; start it, or mend VAULT_ADDR and its like", err)
	case secret == nil:
		return key.Value{}, fmt.Errorf("there is nothing at %s; mend the path, which has data/ after the mount of a key-value engine of version 2", path)
	}
	value, ok := secret.Data[field].(string)
	if nested, is := secret.Data["data"].(map[string]any); is && !ok {
		value, ok = nested[field].(string)
	}
	if !ok || value == "" {
		return key.Value{}, fmt.Errorf("the secret at %s has no field %s", path, field)
	}
	return key.NewValue(value), nil
}

// taskFor makes the task of a key that changes.
func taskFor(env string, values map[string]key.Value) (named, bool, error) {
	old, new := values[env+"_OLD"], values[env+"_NEW"]
	switch {
	case old.Empty() && new.Empty():
		return named{}, false, nil
	case old.Empty():
		return named{}, false, fmt.Errorf("%s_NEW is set, but %s_OLD is not", env, env)
	case new.Empty():
		return named{}, false, fmt.Errorf("%s_OLD is set, but %s_NEW is not", env, env)
	case old.Equal(new):
		return named{}, false, fmt.Errorf("%s_OLD and %s_NEW are the same; there is nothing to re-encrypt", env, env)
	}
	t := named{env: env, task: task{old: old, new: new, columns: platform.Columns(env)}}
	layout := t.columns[0].Layout
	for suffix, v := range map[string]key.Value{"_OLD": old, "_NEW": new} {
		if _, err := envelope.Secret(layout, v); err != nil {
			return named{}, false, fmt.Errorf("%s%s: %w", env, suffix, err)
		}
	}
	otherEnv := platform.BetterAuth
	if env == platform.BetterAuth {
		otherEnv = platform.MasterKey
	}
	otherLayout := platform.Columns(otherEnv)[0].Layout
	for _, suffix := range []string{"", "_OLD", "_NEW"} {
		v := values[otherEnv+suffix]
		if v.Empty() {
			continue
		}
		if _, err := envelope.Secret(otherLayout, v); err != nil {
			return named{}, false, fmt.Errorf("%s%s: %w", otherEnv, suffix, err)
		}
		t.others = append(t.others, other{otherLayout, v})
	}
	name, err := handName(env, old, new)
	t.name = name
	return t, true, err
}

// handName names the job of a pair of keys, the same for each run, so that a run finds what an earlier one left. It
// goes through the full derivation: a secret that somebody thought up must not become cheaper to guess.
func handName(env string, old, new key.Value) (string, error) {
	sum, err := pbkdf2.Key([]byte(old.Reveal()+"\x00"+new.Reveal()), []byte("hyvve re-encryption job of "+env), envelope.Iterations)
	if err != nil {
		return "", err
	}
	return "by hand/" + hex.EncodeToString(sum[:8]), nil
}

// table is a protected column with what the catalogue says of its table. Its methods write SQL in which the table has the
// alias t. Values of a primary key are texts, one a column of the key; PostgreSQL casts them to the column's type.
type table struct {
	column key.Column
	oid    uint32
	keys   []keyColumn // primary key, in order

	touch  string // column that is set to the time of the change; empty: none
	moment string // that time, as an expression of the column's type
	staged string // quoted name of the table of staged rows, once there is one
	side   int    // its number
}

// keyColumn is a column of the primary key. Its operators are those of the key's index, whatever a search path makes of their
// names: rows are read in that order.
type keyColumn struct {
	name, kind  string // kind is its type, quoted; of a domain what it is made of
	more, equal string // operators, as OPERATOR(schema.>)
	atMost      string
}

func quoted(name string) string { return pgsession.Quote(name) }

// name is the quoted name of the table.
func (t table) name() string { return pgrows.Table(t.column) }

// value is the quoted name of the column.
func (t table) value() string { return pgrows.Value(t.column) }

// protected is true of the rows that have an envelope of the key.
func (t table) protected() string { return pgrows.Protected(t.column) }

// chosen is true of the rows that the column's condition means.
func (t table) chosen() string { return pgrows.Chosen(t.column) }

// each writes something for every column of the primary key, with its place from 0.
func (t table) each(separator string, write func(n int, k keyColumn) string) string {
	parts := make([]string, 0, len(t.keys))
	for n, k := range t.keys {
		parts = append(parts, write(n, k))
	}
	return strings.Join(parts, separator)
}

// id is the primary key as an array of texts.
func (t table) id() string {
	return "ARRAY[" + t.each(", ", func(_ int, k keyColumn) string { return "t." + quoted(k.name) + "::text" }) + "]"
}

// order is the primary key as an ORDER BY.
func (t table) order() string {
	return t.each(", ", func(_ int, k keyColumn) string { return "t." + quoted(k.name) })
}

// bound is a column of the primary key in an array of texts.
func (k keyColumn) bound(n int, array string) string {
	return fmt.Sprintf("(%s)[%d]::%s", array, n+1, k.kind)
}

// compared reports whether the primary key is more than an array of texts (operator ">"), or at most that ("<=").
func (t table) compared(operator, array string) string {
	pick := func(k keyColumn) string { return k.more }
	if operator == "<=" {
		pick = func(k keyColumn) string { return k.atMost }
	}
	if !slices.ContainsFunc(t.keys, func(k keyColumn) bool { return pick(k) != pick(t.keys[0]) }) { // as a whole, so that the index is used
		return fmt.Sprintf("(%s) %s (%s)", t.order(), pick(t.keys[0]), t.each(", ", func(n int, k keyColumn) string { return k.bound(n, array) }))
	}
	var either []string
	for n := range t.keys {
		var all []string
		for m, k := range t.keys[:n+1] {
			with := k.equal
			if m == n {
				with = k.more
				if operator == "<=" {
					with = k.atMost
				}
			}
			all = append(all, fmt.Sprintf("t.%s %s %s", quoted(k.name), with, k.bound(m, array)))
		}
		either = append(either, strings.Join(all, " AND "))
	}
	return "(" + strings.Join(either, " OR ") + ")"
}

// sets puts an expression into the column, and the time into the one that is to have it.
func (t table) sets(expression string) string {
	text := fmt.Sprintf("%s = %s", quoted(t.column.Column), expression)
	if t.touch != "" {
		text += fmt.Sprintf(", %s = %s", quoted(t.touch), t.moment)
	}
	return text
}

// joins compares the primary key with that of staged rows, of alias s.
func (t table) joins() string {
	return t.each(" AND ", func(n int, k keyColumn) string { return fmt.Sprintf("t.%s %s s.k%d", quoted(k.name), k.equal, n) })
}

// given is a FROM of rows that come as parameters from $first on: an array of texts for each column of the primary key,
// then the ciphertexts that are there and those that take their place. It has the alias s, and the columns of staged rows.
func (t table) given(first int) string {
	var arrays, names []string
	for n := range len(t.keys) + 2 {
		arrays = append(arrays, fmt.Sprintf("$%d::text[]", first+n))
	}
	keys := t.each(", ", func(n int, k keyColumn) string {
		names = append(names, fmt.Sprintf("k%d", n))
		return fmt.Sprintf("x.k%d::%s AS k%d", n, k.kind, n)
	})
	names = append(names, "old", "new")
	return fmt.Sprintf("(SELECT %s, x.old, x.new FROM unnest(%s) AS x(%s)) s", keys, strings.Join(arrays, ", "), strings.Join(names, ", "))
}

// parameters are rows in the form that given takes.
func (t table) parameters(rows []*row) []any {
	columns := make([][]string, len(t.keys)+2)
	for _, x := range rows {
		for n, k := range append(x.id[:len(x.id):len(x.id)], x.value, x.replacement) {
			columns[n] = append(columns[n], k)
		}
	}
	all := make([]any, 0, len(columns))
	for _, c := range columns {
		all = append(all, c)
	}
	return all
}

// row is one envelope of a column.
type row struct {
	id    []string // primary key
	value string

	kind        rowKind
	replacement string // where value is to go
}

// name is the row's primary key for people.
func (x *row) name() string { return strings.Join(x.id, ", ") }

type rowKind int

const (
	bad        rowKind = iota // opens under nothing that we hold
	underOld                  // under the key that goes
	underNew                  // under the key that takes its place
	underOther                // under a key that has rows of its own in the column
)
