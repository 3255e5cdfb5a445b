// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// as is the key as a Vault keeps it that knows these versions, of which the last is current, and numbers of a server's.
func (w *world) as(versions []key.Version, seen int) key.Key {
	k := w.key
	k.Versions = nil
	for n, v := range versions {
		v.State = key.Current
		if n < len(versions)-1 {
			v.State, v.Value = key.Destroyed, key.Value{}
		}
		k.Versions = append(k.Versions, v)
	}
	if seen >= k.NextNumber() { // the engine leaves numbers out that a server has seen
		k.Versions = append(k.Versions, key.Version{Number: seen, State: key.Aborted, Fingerprint: "ffffffffffffffff"})
	}
	return k
}

// looks returns what Inspect finds.
func (w *world) looks(c kind.Change) (f kind.Finding, text string, ahead, fixable bool) {
	w.t.Helper()
	f, err := w.kind.Inspect(w.t.Context(), c)
	w.ok(err)
	fixable = true
	for _, p := range f.Problems {
		text += p.Text + "; " + p.Remedy + "\n"
		ahead, fixable = ahead || p.Ahead, fixable && p.Fixable
	}
	return f, text, ahead, fixable
}

// Vault is restored from snapshots that are 1, 2 and 3 rotations old, with sessions open. Reconcile lets everybody log in, and
// the next rotation succeeds.
func TestRestoredVault(t *testing.T) {
	for _, rotations := range []int{0, 4} { // an import is current in the snapshot, or a login role
		for old := 1; old <= 3; old++ {
			t.Run(fmt.Sprintf("%d then %d", rotations, old), func(t *testing.T) { restoredVault(t, rotations, old) })
		}
	}
}

func restoredVault(t *testing.T, rotations, old int) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	w.first.Fingerprint = fingerprints.Of(w.key.Name, w.first.Value)
	versions := []key.Version{w.first}
	for range rotations + old {
		versions = append(versions, w.rotate(w.next(versions[len(versions)-1])))
	}
	newest := versions[len(versions)-1]
	conn, err := w.session(newest)
	w.ok(err)
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	everybody := func() {
		t.Helper()
		w.ok(w.login(newest))
		w.ok(conn.Ping(ctx))
	}

	remembered := versions[:len(versions)-old]
	current := remembered[len(remembered)-1]
	c := kind.Change{Key: w.as(remembered, 0), To: current, Connection: w.connection}
	f, text, ahead, fixable := w.looks(c)
	if !ahead || fixable || f.ServerVersion != newest.Number {
		t.Errorf("Inspect finds version %d (ahead %t, fixable %t): %s", f.ServerVersion, ahead, fixable, text)
	}
	c.Key = w.as(remembered, f.ServerVersion)
	refused := kind.Change{Key: c.Key, From: current, To: w.next(current).To, Connection: w.connection}
	refused.To.Number = c.Key.NextNumber()
	u, err := urls.Credential(refused.To)
	w.ok(err)
	w.refuses(refused, u.User, "the server is ahead of Vault") // until it is reconciled
	roles := func() (all string) {
		for _, role := range append(roleNames.Of(w.key), w.app) {
			all += w.role(role) + "\n"
		}
		return all
	}
	before := roles()
	for _, dryRun := range []bool{true, false, false} {
		done, err := w.kind.Restore(ctx, c, dryRun)
		w.ok(err)
		if dryRun && (roles() != before || len(done) != 1) {
			t.Errorf("a dry run says %q, and changes %s to %s", done, before, roles())
		}
	}
	everybody()
	w.ok(w.login(current))
	if _, text, _, _ := w.looks(c); text != "" {
		t.Errorf("after Restore: %s", text)
	}

	w.key = c.Key
	next := w.next(current)
	next.To.Number = w.key.NextNumber()
	if blockers, notes := w.preflight(next); blockers != "" || !strings.Contains(notes, "which Vault does not know") {
		t.Errorf("blockers: %s; notes: %s", blockers, notes)
	}
	v := w.rotate(next)
	everybody()
	w.ok(w.login(v))
}

// The server is restored from a dump that is one rotation old: the current version's role has gone.
func TestRestoredServer(t *testing.T) {
	ctx := t.Context()
	for rotations := 1; rotations <= 3; rotations++ {
		w := newWorld(t, "", nil)
		w.first.Fingerprint, w.first.Login = fingerprints.Of(w.key.Name, w.first.Value), w.app
		versions := []key.Version{w.first}
		for range rotations {
			versions = append(versions, w.rotate(w.next(versions[len(versions)-1])))
		}
		current := versions[len(versions)-1]
		c := kind.Change{Key: w.as(versions, 0), To: current, Connection: w.connection}
		f, text, _, _ := w.looks(c)
		if text != "" || readActed(f.Kept).Owner != w.app {
			t.Fatalf("of a healthy server Inspect finds: %s, and keeps %s", text, f.Kept)
		}
		if rotations == 3 { // nobody has looked at the healthy server before: the imported role, or another login role, tells
			c.Kept = f.Kept
		}
		gone := roleNames.Of(w.key)[rotations-1]
		w.exec("DROP OWNED BY "+gone, "DROP ROLE "+gone)
		if _, text, ahead, fixable := w.looks(c); ahead || !fixable || !strings.Contains(text, "has no role") {
			t.Errorf("of a role that has gone (ahead %t, fixable %t): %s", ahead, fixable, text)
		}
		for range 2 {
			_, err := w.kind.Restore(ctx, c, false)
			w.ok(err)
		}
		conn, err := w.session(current)
		w.ok(err)
		var acts string
		w.ok(conn.QueryRow(ctx, "SELECT current_user::text").Scan(&acts))
		if acts != w.app {
			t.Errorf("the restored role acts as %s", acts)
		}
		w.ok(conn.Close(ctx))
		w.key = c.Key
		w.rotate(w.next(current))
	}
}

// A dump that is run at a server in use drops roles and makes them again: the owner, of which the login role is then no
// member any more, and the administrator, whose open sessions act as a role that is gone.
func TestRolesMadeAgain(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	w.first.Fingerprint = fingerprints.Of(w.key.Name, w.first.Value)
	current := w.rotate(w.next(w.first))
	c := kind.Change{Key: w.as([]key.Version{w.first, current}, 0), To: current, Connection: w.connection}
	acts := func() (name string) {
		t.Helper()
		conn, err := w.session(current)
		w.ok(err)
		defer conn.Close(ctx) //nolint:errcheck // of a test
		w.ok(conn.QueryRow(ctx, "SELECT current_user::text").Scan(&name))
		return name
	}
	f, text, _, _ := w.looks(c)
	if text != "" {
		t.Fatalf("of a healthy server Inspect finds: %s", text)
	}
	c.Kept = f.Kept
	a := roleNames.Of(w.key)[0]
	w.exec("REVOKE " + quote(w.app) + " FROM " + a)
	if _, text, ahead, fixable := w.looks(c); ahead || fixable || !strings.Contains(text, "acts as itself") || acts() != a {
		t.Errorf("of a role that acts as %s (ahead %t, fixable %t): %s", acts(), ahead, fixable, text)
	}
	for _, dryRun := range []bool{true, false, false} {
		before := acts()
		done, err := w.kind.Restore(ctx, c, dryRun)
		w.ok(err)
		if (len(done) > 0) != (before != w.app) || (acts() == w.app) != (!dryRun || before == w.app) {
			t.Errorf("dry run %t: %q; it acted as %s, and acts as %s", dryRun, done, before, acts())
		}
	}
	root := fmt.Sprintf("root%d", worlds)
	password, err := w.postgres.NewRole(ctx, root)
	w.ok(err)
	w.exec("ALTER ROLE " + root + " SUPERUSER")
	admin, err := urls.Credential(w.first)
	w.ok(err)
	w.connection.Revision++
	w.connection.Options[login.FieldURL] = admin.With(root, key.NewValue(password)).Text().Reveal()
	c.Connection, err = w.kind.NormalizeConnection(w.connection)
	w.ok(err)
	for range 2 {
		if _, text, _, _ := w.looks(c); text != "" {
			t.Errorf("after Restore: %s", text)
		}
		w.exec("DROP ROLE "+root, "CREATE ROLE "+root+" LOGIN SUPERUSER PASSWORD '"+password+"'")
	}
	if _, err := w.kind.Restore(ctx, c, false); err != nil {
		t.Error(err)
	}
}

// After the server is restored from a dump, logins that Vault has retired work again, and the server does not report it. A note
// says so, and roles that are not in use can be locked; the next versions then get these roles.
func TestRevivedVersions(t *testing.T) {
	w := newWorld(t, "", nil)
	w.first.Fingerprint, w.first.Login = fingerprints.Of(w.key.Name, w.first.Value), w.app
	versions := []key.Version{w.first}
	for range 3 {
		v := w.rotate(w.next(versions[len(versions)-1]))
		v.Login = roleNames.Of(w.key)[len(versions)-1]
		versions = append(versions, v)
	}
	current := versions[len(versions)-1]
	current.Login = ""
	c := kind.Change{Key: w.as(versions, 0), To: current, Connection: w.connection}
	warnings := func() (all []string) {
		t.Helper()
		f, text, _, _ := w.looks(c)
		if text != "" {
			t.Errorf("Inspect finds: %s", text)
		}
		w.key = c.Key
		next := w.next(current)
		blockers, notes := w.preflight(next)
		if blockers != "" {
			t.Errorf("blockers: %s", blockers)
		}
		for _, text := range f.Notes {
			if !strings.Contains(notes, text) {
				t.Errorf("the notes of a plan lack %q: %s", text, notes)
			}
		}
		return f.Notes
	}
	if got := warnings(); len(got) > 0 {
		t.Errorf("of a healthy server: %q", got)
	}
	a, b := roleNames.Of(w.key)[0], roleNames.Of(w.key)[1]
	w.exec("ALTER ROLE " + w.app + " LOGIN")
	if got := warnings(); len(got) != 1 {
		t.Errorf("of an owner with its mark: %q", got)
	}
	w.exec("COMMENT ON ROLE " + w.app + " IS 'for people'")
	if got := warnings(); len(got) > 0 {
		t.Errorf("of an owner that somebody has let in: %q", got)
	}
	w.exec("COMMENT ON ROLE "+w.app+" IS NULL", "ALTER ROLE "+a+" LOGIN", "ALTER ROLE "+b+" LOGIN")
	got := warnings()
	for n, want := range []string{"role " + a + " can log in, and version 2", "role " + b + " can log in, and version 3", "role " + w.app + " can log in, and version 1"} {
		if len(got) != 3 || !strings.HasPrefix(got[n], want) || !strings.HasSuffix(got[n], " NOLOGIN") {
			t.Fatalf("warnings %q, want %q", got, want)
		}
	}
	for _, text := range got {
		_, statement, _ := strings.Cut(text, "If nobody should use the role: ")
		w.exec(statement)
	}
	if got := warnings(); len(got) > 0 {
		t.Errorf("after the statements: %q", got)
	}
}

// A restored server lacks a role that an operator made. Its rights are not known: what is to be done by hand is said, nothing is
// done by itself, and then all continues.
func TestImportedRoleHasGone(t *testing.T) {
	ctx := t.Context()
	for _, name := range []string{"", "App of " + t.Name()} {
		w := newWorld(t, name, nil)
		w.first.Fingerprint = fingerprints.Of(w.key.Name, w.first.Value)
		w.exec("REASSIGN OWNED BY "+quote(w.app)+" TO postgres", "DROP OWNED BY "+quote(w.app), "DROP ROLE "+quote(w.app))
		c := kind.Change{Key: w.as([]key.Version{w.first}, 0), To: w.first, Connection: w.connection, Kept: w.app}
		u, err := urls.Credential(w.first)
		w.ok(err)
		_, text, ahead, fixable := w.looks(c)
		_, err = w.kind.Restore(ctx, c, false)
		if err == nil {
			t.Fatal("a role is made whose rights are not known")
		}
		for _, text := range []string{text, err.Error()} {
			create, _, _ := strings.Cut(text[strings.Index(text, "CREATE ROLE"):], ";")
			if ahead || fixable || !strings.Contains(text, "has no role "+w.app) || !strings.Contains(text, `\password `+quoteIfNeeded(w.app)) || strings.Contains(text, u.Password.Reveal()) {
				t.Errorf("ahead %t, fixable %t: %s", ahead, fixable, text)
			}
			w.exec("DROP ROLE IF EXISTS "+quote(w.app), create)
		}
		if w.role(w.app) == "none" || w.login(w.first) == nil {
			t.Errorf("role: %s", w.role(w.app))
		}
		w.exec("ALTER ROLE " + quote(w.app) + " PASSWORD " + literal(u.Password.Reveal()))
		if _, text, _, _ := w.looks(c); text != "" {
			t.Errorf("of a role that was made again: %s", text)
		}
		w.rotate(w.next(w.first))
	}
}

// What somebody has done by hand is an operator's to decide, and a password that somebody has set is never replaced.
func TestInspectWhatWasDoneByHand(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	current := w.rotate(w.next(w.first))
	a := roleNames.Of(w.key)[0]
	c := kind.Change{Key: w.as([]key.Version{w.first, current}, 0), To: current, Connection: w.connection}
	own := markOf(w.key, current).statement(a)
	for _, of := range []struct {
		statements []string
		want       string
		restores   bool
	}{
		{[]string{"ALTER ROLE " + a + " NOLOGIN"}, "locked by somebody", true},
		{[]string{"ALTER ROLE " + a + " PASSWORD 'another'"}, "changed by hand", false},
		{[]string{mark{w.key.Mount, w.key.Name, 9, ""}.statement(a)}, "a version that Vault does not know", false},
		{[]string{mark{"others", "theirs", 1, ""}.statement(a)}, "belongs to another key", false},
		{[]string{mark{w.key.Mount, w.key.Name, 1, ""}.statement(a)}, "an older version", true},
		{[]string{"ALTER ROLE " + a + " NOLOGIN PASSWORD NULL", own}, "locked by somebody", true},
	} {
		w.exec(of.statements...)
		if _, text, _, fixable := w.looks(c); fixable || !strings.Contains(text, of.want) {
			t.Errorf("%s: fixable %t: %s", of.statements, fixable, text)
		}
		before := w.role(a)
		_, err := w.kind.Restore(ctx, c, false)
		if (err == nil) != of.restores || (err != nil && w.role(a) != before) {
			t.Errorf("%s: Restore: %v", of.statements, err)
		}
	}
	w.ok(w.login(current))

	// An older password that is in use is not replaced.
	w.exec("ALTER ROLE "+a+" PASSWORD 'older'", mark{w.key.Mount, w.key.Name, 1, ""}.statement(a))
	u, err := urls.Credential(current)
	w.ok(err)
	conn, err := pgx.Connect(ctx, strings.TrimSuffix(u.With(a, key.NewValue("older")).Text().Reveal(), "&pgbouncer=true&schema=public"))
	w.ok(err)
	if _, err := w.kind.Restore(ctx, c, false); err == nil || !strings.Contains(err.Error(), "which is in use") {
		t.Errorf("%v", err)
	}
	w.ok(conn.Close(ctx))
}

// Somebody sets another password, and hands it to clients. Both remedies work as they are printed: a rotation, in which
// these clients keep their login for as long as they are seen; or, where nobody was given it, the version once more.
func TestPasswordSetByHand(t *testing.T) {
	ctx := t.Context()
	for _, imported := range []bool{false, true} {
		w := newWorld(t, "", nil)
		w.first.Fingerprint = fingerprints.Of(w.key.Name, w.first.Value)
		versions := []key.Version{w.first}
		if !imported {
			versions = append(versions, w.rotate(w.next(w.first)))
		}
		current := versions[len(versions)-1]
		u, err := urls.Credential(current)
		w.ok(err)
		w.exec("ALTER ROLE " + quote(u.User) + " PASSWORD 'by-hand'")
		hand := key.Version{Value: key.NewValue(u.With(u.User, key.NewValue("by-hand")).Text().Reveal())}
		c := kind.Change{Key: w.as(versions, 0), To: current, Connection: w.connection}
		f, text, _, fixable := w.looks(c)
		if fixable || len(f.Problems) != 1 || !f.Problems[0].Rotates || !strings.Contains(text, "vault write hyvve/rotate key="+w.key.Name+" gives") {
			t.Fatalf("fixable %t: %s", fixable, text)
		}
		if _, err := w.kind.Restore(ctx, c, false); err == nil || !strings.Contains(err.Error(), "vault write hyvve/rotate key="+w.key.Name) {
			t.Errorf("reconcile says %v", err)
		}
		client, err := w.session(hand)
		w.ok(err)

		w.key = c.Key
		next := w.next(current)
		if blockers, _ := w.preflight(next); blockers != "" {
			t.Fatalf("the remedy is blocked: %s", blockers)
		}
		w.ok(w.kind.Stage(ctx, next))
		w.ok(w.kind.Verify(ctx, next))
		w.ok(w.login(hand))
		if n, what, err := w.kind.InUse(ctx, next); err != nil || n != 1 {
			t.Errorf("a client with the password set by hand is not seen: %d, %s, %v", n, what, err)
		}
		w.ok(w.kind.Unstage(ctx, next))

		statement, _, _ := strings.Cut(text[strings.Index(text, "ALTER ROLE"):], ",")
		w.exec(statement)
		if _, err := w.kind.Restore(ctx, c, false); err != nil {
			t.Errorf("the second remedy: %v", err)
		}
		w.ok(w.login(current))
		w.ok(client.Close(ctx))
		w.rotate(w.next(current))
	}
}

// A plan counts what Vault has, not the version that it would make itself.
func TestAheadNamesTheVersionInUse(t *testing.T) {
	w := newWorld(t, "", nil)
	current := w.rotate(w.next(w.first))
	w.key.Versions = nil
	next := w.next(current)
	b := roleNames.Of(w.key)[1]
	w.exec("CREATE ROLE "+b+" LOGIN PASSWORD 'newer'", mark{w.key.Mount, w.key.Name, 11, ""}.statement(b))
	blockers, _ := w.preflight(next)
	if !strings.Contains(blockers, "version 11 of this key") || !strings.Contains(blockers, "Make version 2,") || strings.Contains(blockers, " 3") {
		t.Errorf("blockers: %s", blockers)
	}
}
