// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

func TestMarkForm(t *testing.T) {
	for _, m := range []mark{{"ab23cd", "database-url", 3, "0123abcd"}, {"ab23cd", "a", 1, ""}} {
		if got, ok := readMark(m.String()); !ok || got != m {
			t.Errorf("%s is read as %v", m, got)
		}
	}
	for _, text := range []string{
		"", "hyvve", "hyvve mount=ab23cd key=a version=1 ", "x hyvve mount=ab23cd key=a version=1", "hyvve mount=ab23cd key=a version=1\n",
		"hyvve mount=AB key=a version=1", "hyvve mount=ab23cd key=a version=99999999999", "hyvve mount=ab23cd key=a version=-1",
	} {
		if m, ok := readMark(text); ok {
			t.Errorf("%q is read as %v", text, m)
		}
	}
}

// role is what the server says of a role.
func (w *world) role(name string) (text string) {
	w.t.Helper()
	w.ok(w.dial(w.admin).QueryRow(w.t.Context(), `SELECT coalesce((SELECT concat_ws(' ', rolcanlogin, rolvaliduntil, rolpassword, rolconnlimit, shobj_description(oid, 'pg_authid'),
		(SELECT string_agg(roleid::text, ' ') FROM pg_auth_members WHERE member = a.oid), (SELECT string_agg(setconfig::text, ' ') FROM pg_db_role_setting WHERE setrole = a.oid))
		FROM pg_authid a WHERE rolname = $1), 'none')`, name).Scan(&text))
	return text
}

// refuses sees that neither Stage nor the Unstage that follows changes a role.
func (w *world) refuses(c kind.Change, role, want string) {
	w.t.Helper()
	before := w.role(role)
	if err := w.kind.Stage(w.t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
		w.t.Errorf("Stage of role %q: %v, want %q", before, err, want)
	}
	w.ok(w.kind.Unstage(w.t.Context(), c))
	if after := w.role(role); after != before {
		w.t.Errorf("role %q is %q after Stage was refused", before, after)
	}
}

// rotate is one whole rotation.
func (w *world) rotate(c kind.Change) key.Version {
	w.t.Helper()
	w.ok(w.kind.Stage(w.t.Context(), c))
	w.ok(w.kind.Verify(w.t.Context(), c))
	w.unused(c)
	w.ok(w.kind.Retire(w.t.Context(), c))
	return c.To
}

// A role that has the name and is not the key's stays as it is.
func TestStageLeavesOthersRoles(t *testing.T) {
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	a := roleNames.Of(w.key)[0]
	other := mark{mount: "others", key: w.key.Name, version: 1}
	for name, of := range map[string]struct {
		statements []string
		want       string
	}{
		"login, no mark":          {[]string{"CREATE ROLE " + a + " LOGIN PASSWORD 'somebody-elses'"}, "was not made by this key"},
		"group, no mark":          {[]string{"CREATE ROLE " + a + " NOLOGIN"}, "was not made by this key"},
		"group, somebody's words": {[]string{"CREATE ROLE " + a + " NOLOGIN", "COMMENT ON ROLE " + a + " IS 'readers'"}, "was not made by this key"},
		"another mount's":         {[]string{"CREATE ROLE " + a + " LOGIN PASSWORD 'somebody-elses'", other.statement(a)}, "of another mount (others"},
		"another mount's, locked": {[]string{"CREATE ROLE " + a + " NOLOGIN", other.statement(a)}, "of another mount (others"},
		"another key's":           {[]string{"CREATE ROLE " + a + " NOLOGIN", mark{w.key.Mount, "other", 1, ""}.statement(a)}, "belongs to key other of this mount"},
		"ours, in use":            {[]string{"CREATE ROLE " + a + " LOGIN PASSWORD 'newer'", mark{w.key.Mount, w.key.Name, 7, ""}.statement(a)}, "the server is ahead of Vault"},
		"ours, same number":       {[]string{"CREATE ROLE " + a + " LOGIN PASSWORD 'newer'", mark{w.key.Mount, w.key.Name, 2, "00000000"}.statement(a)}, "the server is ahead of Vault"},
		"ours, let in again":      {[]string{"CREATE ROLE " + a + " LOGIN PASSWORD 'older'", mark{w.key.Mount, w.key.Name, 1, "00000000"}.statement(a)}, "NOLOGIN"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.exec(of.statements...)
			w.refuses(c, a, of.want)
			w.exec("DROP ROLE " + a)
		})
	}
	w.t = t
	// The other one of the pair says that the server is ahead, too.
	b := roleNames.Of(w.key)[1]
	w.exec("CREATE ROLE "+b+" LOGIN PASSWORD 'newer'", mark{w.key.Mount, w.key.Name, 3, ""}.statement(b))
	w.refuses(c, b, "the server is ahead of Vault")
	w.exec("DROP ROLE " + b)
	w.ok(w.kind.Stage(t.Context(), c))
	if got := w.role(a); !strings.Contains(got, markOf(w.key, c.To).String()) {
		t.Errorf("the role that Stage has made has no mark: %s", got)
	}
	w.ok(w.kind.Retire(t.Context(), c))
	if got := w.role(w.app); !strings.Contains(got, markOf(w.key, c.From).String()) || strings.Contains(got, "SCRAM") {
		t.Errorf("the role that Retire has locked: %s", got)
	}
}

// A role of another key is not locked at the end, nor withdrawn.
func TestRetireLeavesOthersRoles(t *testing.T) {
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	w.ok(w.kind.Stage(t.Context(), c))
	w.exec(mark{"others", "theirs", 1, ""}.statement(w.app))
	before := w.role(w.app)
	if err := w.kind.Retire(t.Context(), c); err == nil || !strings.Contains(err.Error(), "belongs to key theirs of mount others") || w.role(w.app) != before {
		t.Errorf("%v", err)
	}
	w.exec("COMMENT ON ROLE " + w.app + " IS NULL")
	w.ok(w.kind.Retire(t.Context(), c))
}

// What a release before marks has made continues, whether it is between two rotations or in the middle of one.
func TestRolesOfEarlierReleases(t *testing.T) {
	for name, options := range map[string]kind.Options{"default names": nil, "username": {kind.OptionUsername: "Legacy"}} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			w := newWorld(t, "", options)
			if options != nil {
				w.key.Options[kind.OptionUsername] += w.app
			}
			a, b := roleNames.Pair(w.key)[0], roleNames.Pair(w.key)[1]
			make := func(role string, v key.Version) {
				u, err := urls.Credential(v)
				w.ok(err)
				text, err := verifier(rand.Reader, u.Password)
				w.ok(err)
				w.exec("CREATE ROLE "+quote(role)+" LOGIN PASSWORD "+literal(text), "GRANT "+w.app+" TO "+quote(role), "ALTER ROLE "+quote(role)+" SET role TO "+w.app)
			}
			as := func(number int, role string, of key.Version) key.Version {
				u, err := dsn.Parse(of.Value.Reveal(), urls.Schemes...)
				w.ok(err)
				password, err := dsn.NewPassword(rand.Reader)
				w.ok(err)
				return key.Version{Number: number, Value: u.With(role, password).Text()}
			}
			one, two := as(2, a, w.first), as(3, b, w.first)
			make(a, one)
			c := kind.Change{Key: w.key, From: one, To: two, Connection: w.connection}

			// In the middle: staged, and either goes back or continues.
			for range 2 {
				make(b, two)
				w.ok(w.kind.Stage(ctx, c))
				for range 2 {
					w.ok(w.kind.Unstage(ctx, c))
				}
				if got := w.role(b); got != "none" {
					t.Errorf("after Unstage: %s", got)
				}
				w.exec("COMMENT ON ROLE " + quote(a) + " IS NULL")
			}
			// Planned, with the other role locked since its last turn.
			w.exec("CREATE ROLE " + quote(b) + " NOLOGIN")
			w.ok(w.kind.Stage(ctx, c))
			w.ok(w.kind.Verify(ctx, c))
			if got := w.role(a); !strings.Contains(got, "key="+w.key.Name) {
				t.Errorf("the role of the present version has no mark: %s", got)
			}
			w.ok(w.kind.Retire(ctx, c))

			last := w.rotate(w.next(two))
			u, err := urls.Credential(last)
			w.ok(err)
			turn := 0
			if options != nil { // the names are the same as before
				turn = 2
			}
			if want := roleNames.Of(w.key)[turn]; u.User != want {
				t.Errorf("the next rotation makes %s, not %s", u.User, want)
			}
			last = w.rotate(w.next(last))
			if conn, err := w.session(last); err != nil {
				t.Error(err)
			} else {
				w.ok(conn.Close(ctx))
			}
		})
	}
}

// Vault is restored from snapshots that are 1, 2 and 3 rotations old: nothing is changed, and who is in stays in.
func TestServerAheadOfVault(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	versions := []key.Version{w.first}
	for range 4 {
		versions = append(versions, w.rotate(w.next(versions[len(versions)-1])))
	}
	newest := versions[len(versions)-1]
	conn, err := w.session(newest)
	w.ok(err)
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	for old := 1; old <= 3; old++ {
		known := versions[len(versions)-1-old]
		c := w.next(known)
		for _, role := range roleNames.Of(w.key) {
			w.refuses(c, role, "the server is ahead of Vault")
		}
		if again, err := w.session(newest); err != nil || conn.Ping(ctx) != nil {
			t.Errorf("%d rotations old: %v", old, err)
		} else {
			w.ok(again.Close(ctx))
		}
	}
	w.ok(conn.Close(ctx))
	w.rotate(w.next(newest))
}

// Two mounts have keys of one name, for one owner at one server, and rotate at the same time: neither takes the other's.
func TestTwoMountsOnOneServer(t *testing.T) {
	const rotations = 20
	w := newWorld(t, "", nil)
	var group sync.WaitGroup
	for _, mount := range []string{"mounta", "mountb"} {
		u, err := urls.Credential(w.first)
		w.ok(err)
		password, err := w.postgres.NewRole(t.Context(), w.app+mount)
		w.ok(err)
		w.exec("GRANT " + w.app + " TO " + w.app + mount)
		one := *w
		one.key.Mount = mount
		one.key.Options = kind.Options{kind.OptionConnection: "main", optionOwner: w.app, login.OptionVerify: "true", optionQuery: "SELECT 1"}
		one.kind = New(rand.Reader)
		t.Cleanup(func() { _ = one.kind.Close() })
		current := key.Version{Number: 1, Value: u.With(w.app+mount, key.NewValue(password)).Text()}
		group.Go(func() {
			for range rotations {
				c, err := one.change(current)
				if err == nil {
					err = one.whole(c)
				}
				if err != nil {
					t.Errorf("mount %s: version %d: %v", mount, current.Number+1, err)
					return
				}
				current = c.To
			}
		})
	}
	group.Wait()
}

// change is next for goroutines.
func (w *world) change(from key.Version) (kind.Change, error) {
	value, err := w.kind.Generate(rand.Reader, w.key, from.Value)
	to := key.Version{Number: from.Number + 1, Value: value, Fingerprint: fingerprints.Of(w.key.Name, value)}
	return kind.Change{Key: w.key, From: from, To: to, Connection: w.connection}, err
}

// whole is a rotation, with a login of the present version before each step.
func (w *world) whole(c kind.Change) error {
	ctx := context.Background()
	for _, step := range []func() error{
		func() error { return w.login(c.From) },
		func() error { return w.kind.Stage(ctx, c) },
		func() error { return w.kind.Verify(ctx, c) },
		func() error { return w.login(c.From) },
		func() error { return w.login(c.To) },
		func() error { return w.kind.Retire(ctx, c) },
		func() error { return w.login(c.To) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) login(v key.Version) error {
	u, err := urls.Credential(v)
	if err != nil {
		return err
	}
	at := home(w.connection)
	at.database = u.Path()
	if ok, err := w.kind.valid(context.Background(), w.connection, at, u); err != nil || !ok {
		return faultf("version %d does not log in: %w", v.Number, err)
	}
	return nil
}
