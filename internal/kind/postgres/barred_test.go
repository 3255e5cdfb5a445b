// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// A login that the server lets nobody use, although Vault's password is right or nobody can have another, is named by its
// cause, and mended when an operator asks for it. What an operator's own role lacks is his to mend.
func TestBarredLogins(t *testing.T) {
	ctx := t.Context()
	for statement, want := range map[string]string{
		"VALID UNTIL '2020-01-01'":                     "VALID UNTIL is over",
		"VALID UNTIL '2020-01-01' PASSWORD 'unusable'": "VALID UNTIL is over",
		"CONNECTION LIMIT 0":                           "CONNECTION LIMIT 0",
		"PASSWORD NULL":                                "has no password",
	} {
		w, c := lentWorld(t)
		a := roleNames.Of(w.key)[0]
		w.exec("ALTER ROLE " + a + " " + statement)
		f, text, ahead, fixable := w.looks(c)
		if ahead || fixable || !f.Problems[0].Rotates || !strings.Contains(text, want) || strings.Contains(text, "by hand") || !strings.Contains(text, "/reconcile") {
			t.Errorf("%s: %s", statement, text)
		}
		for _, dryRun := range []bool{true, false, false} {
			done, err := w.kind.Restore(ctx, c, dryRun)
			w.ok(err)
			if dryRun && (len(done) != 1 || w.login(c.To) == nil) {
				t.Errorf("%s: a dry run says %q", statement, done)
			}
		}
		w.ok(w.login(c.To))
		if _, text, _, _ := w.looks(c); text != "" {
			t.Errorf("%s: after Restore: %s", statement, text)
		}

		first := kind.Change{Key: w.as([]key.Version{w.first}, 0), To: w.first, Connection: w.connection}
		w.exec("ALTER ROLE " + quote(w.app) + " LOGIN " + strings.ReplaceAll(statement, "PASSWORD NULL", ""))
		if !strings.Contains(statement, "PASSWORD") { // Retire has taken the password away, which nobody gives back here
			u, err := urls.Credential(w.first)
			w.ok(err)
			w.exec("ALTER ROLE " + quote(w.app) + " PASSWORD " + literal(u.Password.Reveal()))
			if _, text, _, _ := w.looks(first); !strings.Contains(text, want) || !strings.Contains(text, "ALTER ROLE") {
				t.Errorf("%s of an operator's role: %s", statement, text)
			}
			if _, err := w.kind.Restore(ctx, first, false); err == nil || !strings.Contains(err.Error(), "ALTER ROLE") {
				t.Errorf("%s of an operator's role: Restore: %v", statement, err)
			}
		}
	}
}

// A login whose connections are all in use has its password; the limit is named. An owner that may have none is not lent.
func TestConnectionLimits(t *testing.T) {
	ctx := t.Context()
	w, c := lentWorld(t)
	a := roleNames.Of(w.key)[0]
	w.exec("ALTER ROLE " + a + " CONNECTION LIMIT 1")
	conn, err := w.session(c.To)
	w.ok(err)
	for range 2 {
		if _, err := w.kind.Inspect(ctx, c); err == nil || !strings.Contains(err.Error(), "CONNECTION LIMIT 1: end sessions") {
			t.Errorf("Inspect: %v", err)
		}
		if _, err := w.kind.Restore(ctx, c, false); err == nil || !strings.Contains(err.Error(), "CONNECTION LIMIT 1: end sessions") {
			t.Errorf("Restore: %v", err)
		}
	}
	w.ok(conn.Close(ctx))

	w.exec("ALTER ROLE " + a + " CONNECTION LIMIT -1")
	w.exec("ALTER ROLE " + quote(w.app) + " CONNECTION LIMIT 0")
	next := w.next(c.To)
	next.Key = c.Key
	if blockers, _ := w.preflight(next); !strings.Contains(blockers, "CONNECTION LIMIT 0") {
		t.Errorf("blockers: %s", blockers)
	} else {
		w.mends(blockers, `ALTER ROLE \S+ CONNECTION LIMIT -1`)
	}
	w.key = c.Key
	w.rotate(next)
}
