// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// actsAs returns whom a session of a version acts as.
func (w *world) actsAs(v key.Version) (name string) {
	w.t.Helper()
	conn, err := w.session(v)
	w.ok(err)
	defer conn.Close(w.t.Context()) //nolint:errcheck // of a test
	w.ok(conn.QueryRow(w.t.Context(), "SELECT current_user::text").Scan(&name))
	return name
}

// lentWorld is a world whose second version is a login role of the key.
func lentWorld(t *testing.T) (*world, kind.Change) {
	w := newWorld(t, "", nil)
	w.first.Fingerprint, w.first.Login = fingerprints.Of(w.key.Name, w.first.Value), w.app
	current := w.rotate(w.next(w.first))
	return w, kind.Change{Key: w.as([]key.Version{w.first, current}, 0), To: current, Connection: w.connection}
}

// A login role whose sessions act as somebody else than the owner is found, whichever process saw it when it was well, blocks a
// rotation with the same words, and is lent the owner again when an operator asks for it.
func TestLoginsThatActAsAnother(t *testing.T) {
	ctx := t.Context()
	for name, of := range map[string][]string{
		"membership revoked": {"REVOKE %[2]s FROM %[1]s"},
		"no setting":         {"ALTER ROLE %[1]s RESET role"},
		"another's":          {"GRANT %[3]s TO %[1]s", "ALTER ROLE %[1]s SET role TO %[3]s"},
		"in a database":      {"GRANT %[3]s TO %[1]s", "ALTER ROLE %[1]s IN DATABASE %[4]s SET role TO %[3]s"},
		"in another":         {"GRANT %[3]s TO %[1]s", "ALTER ROLE %[1]s IN DATABASE postgres SET role TO %[3]s"},
		"mark removed":       {"REVOKE %[2]s FROM %[1]s", "COMMENT ON ROLE %[1]s IS NULL"},
		"SET FALSE":          {"REVOKE %[2]s FROM %[1]s", "GRANT %[2]s TO %[1]s WITH INHERIT TRUE, SET FALSE"},
	} {
		for _, seen := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, seen %t", name, seen), func(t *testing.T) {
				w, c := lentWorld(t)
				if name == "SET FALSE" && !w.modern() {
					t.Log("memberships have options since PostgreSQL 16; TestPostgreSQL18 runs this") // not skipped: nothing is missing
					return
				}
				if f, text, _, _ := w.looks(c); text != "" {
					t.Fatalf("of a healthy login: %s", text)
				} else if seen {
					c.Kept = f.Kept
				}
				a, other, database := roleNames.Of(w.key)[0], w.app+"_other", ""
				w.ok(w.dial(w.admin).QueryRow(ctx, "SELECT current_database()").Scan(&database))
				w.exec("CREATE ROLE " + quote(other))
				for _, statement := range of {
					w.exec(strings.NewReplacer("%[1]s", a, "%[2]s", quote(w.app), "%[3]s", quote(other), "%[4]s", quote(database)).Replace(statement))
				}
				f, text, ahead, fixable := w.looks(c)
				if ahead || fixable || f.Kept != "" || !strings.Contains(text, "not as its owner "+w.app) {
					t.Errorf("ahead %t, fixable %t, kept %q: %s", ahead, fixable, f.Kept, text)
				}
				next := w.next(c.To)
				next.Key, next.Kept = c.Key, c.Kept
				blockers, _, err := w.kind.Preflight(ctx, next)
				w.ok(err)
				if len(blockers) != 1 || len(f.Problems) != 1 || blockers[0] != f.Problems[0].String() {
					t.Errorf("blockers %q, problems %v", blockers, f.Problems)
				}
				if err := w.kind.Stage(ctx, next); err == nil || !strings.Contains(err.Error(), "not as its owner") {
					t.Errorf("Stage: %v", err)
				}
				for _, dryRun := range []bool{true, false, false} {
					done, err := w.kind.Restore(ctx, c, dryRun)
					w.ok(err)
					if len(done) > 1 || dryRun && len(done) == 0 {
						t.Errorf("dry run %t: %q", dryRun, done)
					}
				}
				if _, text, _, _ := w.looks(c); text != "" || w.actsAs(c.To) != w.app {
					t.Errorf("after Restore it acts as %s: %s", w.actsAs(c.To), text)
				}
				w.key = c.Key
				w.rotate(next)
			})
		}
	}
}

// An owner that was renamed is named with the command that is needed; with that, reconcile does the rest.
func TestRenamedOwner(t *testing.T) {
	ctx := t.Context()
	w, c := lentWorld(t)
	f, _, _, _ := w.looks(c)
	c.Kept = f.Kept
	w.exec("ALTER ROLE " + quote(w.app) + " RENAME TO " + quote(w.app+"z"))
	owner := "owner='" + w.app + "z'"
	if _, text, _, _ := w.looks(c); !strings.Contains(text, owner) || !strings.Contains(text, "/reconcile") {
		t.Errorf("%s", text)
	}
	if _, err := w.kind.Restore(ctx, c, true); err == nil || !strings.Contains(err.Error(), owner) {
		t.Errorf("Restore: %v", err)
	}
	c.Key.Options = kind.Options{kind.OptionConnection: "main", optionOwner: w.app + "z", login.OptionVerify: "true"}
	if _, text, _, _ := w.looks(c); !strings.Contains(text, "not as its owner "+w.app+"z") {
		t.Errorf("before Restore: %s", text)
	}
	_, err := w.kind.Restore(ctx, c, false)
	w.ok(err)
	if _, text, _, _ := w.looks(c); text != "" || w.actsAs(c.To) != w.app+"z" {
		t.Errorf("after Restore it acts as %s: %s", w.actsAs(c.To), text)
	}
	w.key = c.Key
	w.rotate(w.next(c.To))
}

// An owner= that a later version will act as is no fault of the present one, nor is the one that the latest version acts as.
func TestOwnerThatIsChanged(t *testing.T) {
	w, c := lentWorld(t)
	f, _, _, _ := w.looks(c)
	c.Kept = f.Kept
	w.exec("CREATE ROLE " + quote(w.app+"_new"))
	c.Key.Options = kind.Options{kind.OptionConnection: "main", optionOwner: w.app + "_new", login.OptionVerify: "true"}
	if _, text, _, _ := w.looks(c); text != "" {
		t.Errorf("before the rotation: %s", text)
	}
	w.key = c.Key
	next := w.rotate(w.next(c.To))
	c.Key, c.To = w.as([]key.Version{w.first, c.To, next}, 0), next
	if f, text, _, _ := w.looks(c); text != "" || readActed(f.Kept).Owner != w.app+"_new" {
		t.Errorf("after the rotation, kept %s: %s", f.Kept, text)
	}
	for kept, want := range map[string]acted{"app": {"", "app"}, `{"login":"a","owner":"o"}`: {"a", "o"}, "": {}, `{"x":1}`: {"", `{"x":1}`}} {
		if got := readActed(kept); got != want {
			t.Errorf("%q is read as %v", kept, got)
		}
	}
}

// A role that is gone is one blocker, since reconcile knows whom it acts as.
func TestGoneLoginIsOneBlocker(t *testing.T) {
	for _, seen := range []bool{true, false} {
		w, c := lentWorld(t)
		if f, _, _, _ := w.looks(c); seen {
			c.Kept = f.Kept
		}
		w.exec("ALTER ROLE " + roleNames.Of(w.key)[0] + " RENAME TO " + w.app + "_x")
		if _, text, _, _ := w.looks(c); !strings.Contains(text, "has no role") {
			t.Errorf("%s", text)
		}
		next := w.next(c.To)
		next.Key, next.Kept = c.Key, c.Kept
		if blockers, _ := w.preflight(next); blockers != "" {
			t.Errorf("seen %t: %s", seen, blockers)
		}
		w.key = c.Key
		v := w.rotate(next) // it needs no reconcile
		if acts := w.actsAs(v); acts != w.app {
			t.Errorf("seen %t: it acts as %s", seen, acts)
		}
		w.exec("DROP ROLE " + w.app + "_x")
	}
}
