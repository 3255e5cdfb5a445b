// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

// command runs the command by hand with an environment. The fixture's role is a superuser.
func (f *fixture) command(env map[string]string, args ...string) (status int, stdout, stderr string) {
	f.t.Helper()
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		args = append([]string{"--allow-superuser"}, args...)
	}
	return f.commandAs(env, args...)
}

func (f *fixture) commandAs(env map[string]string, args ...string) (status int, stdout, stderr string) {
	f.t.Helper()
	var out, errs bytes.Buffer
	status = usage.Run(f.t.Context(), NewCommand(func(name string) string { return env[name] }), args, &out, &errs)
	for _, secret := range []key.Value{f.oldKey, f.newKey, f.oldAuth, f.auth} {
		if strings.Contains(out.String()+errs.String(), secret.Reveal()) {
			f.t.Error("a key stands in the output")
		}
	}
	return status, out.String(), errs.String()
}

func (f *fixture) env() map[string]string {
	return map[string]string{
		"DATABASE_URL":              f.url + "&pgbouncer=true&connection_limit=1&schema=public&pool_timeout=10",
		"ENCRYPTION_MASTER_KEY_OLD": f.oldKey.Reveal(), "ENCRYPTION_MASTER_KEY_NEW": f.newKey.Reveal(),
		"BETTER_AUTH_SECRET": f.oldAuth.Reveal(),
	}
}

func TestCommand(t *testing.T) {
	f := newFixture(t)
	steps := []struct {
		args  []string
		wants []string
		now   key.Value
	}{
		{[]string{"--dry-run"}, []string{"counted", "ai_provider_configs.api_key_encrypted", "8 under the old", "3 under another"}, f.oldKey},
		{[]string{"--batch-size=3"}, []string{"re-encrypted", "8 under the new key, 0 under the old", "--revert goes back"}, f.newKey},
		{nil, []string{"8 under the new key, 0 under the old"}, f.newKey},
		{[]string{"--revert"}, []string{"reverted", "8 under the old key, 0 under the new", " kept ciphertexts are back, by one transaction"}, f.oldKey},
		{[]string{"--json"}, []string{`"rotated":8`}, f.newKey},
		{[]string{"--wipe"}, []string{"wiped"}, f.newKey},
		{[]string{"--revert"}, []string{"no old ciphertext is kept", "encrypted again, row by row", "8 under the old key, 0 under the new"}, f.oldKey},
	}
	for _, s := range steps {
		status, stdout, stderr := f.command(f.env(), s.args...)
		if status != 0 {
			t.Fatalf("%v: status %d, %s", s.args, status, stderr)
		}
		for _, want := range s.wants {
			if !strings.Contains(stdout+stderr, want) {
				t.Errorf("%v prints no %q:\n%s%s", s.args, want, stdout, stderr)
			}
		}
		f.expect(s.now, f.oldAuth)
	}
}

func TestCommandRefuses(t *testing.T) {
	f := newFixture(t)
	with := func(change ...string) map[string]string {
		env := f.env()
		for i := 0; i < len(change); i += 2 {
			env[change[i]] = change[i+1]
		}
		return env
	}
	open := filepath.Join(t.TempDir(), "old-key")
	if err := os.WriteFile(open, []byte(f.oldKey.Reveal()), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env    map[string]string
		args   []string
		status int
		want   string
	}{
		"file for all":    {with("ENCRYPTION_MASTER_KEY_OLD", "", "ENCRYPTION_MASTER_KEY_OLD_FILE", open), nil, 2, "ENCRYPTION_MASTER_KEY_OLD_FILE: " + open + " has mode 0644"},
		"no database":     {with("DATABASE_URL", ""), nil, 2, "DATABASE_URL is not set"},
		"no scheme":       {with("DATABASE_URL", "localhost/db"), nil, 2, "postgresql://"},
		"odd parameter":   {with("DATABASE_URL", f.url+"&sslmod=disable"), nil, 2, "sslmod"},
		"no keys":         {map[string]string{"DATABASE_URL": f.url}, nil, 2, "no keys are given"},
		"no old key":      {with("ENCRYPTION_MASTER_KEY_OLD", ""), nil, 2, "ENCRYPTION_MASTER_KEY_OLD is not"},
		"31 bytes":        {with("ENCRYPTION_MASTER_KEY_NEW", base64.StdEncoding.EncodeToString(make([]byte, 31))), nil, 2, "31 bytes"},
		"same key":        {with("ENCRYPTION_MASTER_KEY_NEW", f.oldKey.Reveal()), nil, 2, "are the same"},
		"missing file":    {with("DATABASE_URL", "", "DATABASE_URL_FILE", "/nowhere"), nil, 2, "DATABASE_URL_FILE"},
		"wrong flag":      {f.env(), []string{"--dry-runn"}, 2, `did you mean --dry-run?`},
		"batch size":      {f.env(), []string{"--batch-size=0"}, 2, "--batch-size=0"},
		"batch size word": {f.env(), []string{"--batch-size=many"}, 2, "batch-size"},
		"argument":        {f.env(), []string{"now"}, 2, `"now" is not wanted`},
		"both":            {f.env(), []string{"--revert", "--wipe"}, 2, "exclude"},
		"unreadable":      {with("BETTER_AUTH_SECRET", ""), nil, 1, "no row was changed"},
		"unreachable":     {with("DATABASE_URL", "postgresql://u:se-cr-et@127.0.0.1:1/db"), nil, 1, "DATABASE_URL: the database at 127.0.0.1:1 cannot be reached"},
		"misspelt":        {f.env(), []string{"discovr"}, 2, `"discovr" is not known; did you mean "discover"?`},
	} {
		t.Run(name, func(t *testing.T) {
			status, _, stderr := f.command(c.env, c.args...)
			if status != c.status || !strings.Contains(stderr, c.want) {
				t.Errorf("status %d, want %d; message lacks %q:\n%s", status, c.status, c.want, stderr)
			}
			if strings.Contains(stderr, "se-cr-et") {
				t.Error("the message holds the database's password")
			}
		})
	}
	f.expect(f.oldKey, f.oldAuth)
}
