// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// administrator creates an administrator of the world that has CREATEROLE and what else is granted to it.
func (w *world) administrator(name string) {
	w.t.Helper()
	password, err := w.postgres.NewRole(w.t.Context(), name)
	w.ok(err)
	w.exec("ALTER ROLE " + quote(name) + " CREATEROLE")
	w.connection, err = w.kind.NormalizeConnection(kind.Connection{
		Name: "main", Kind: "postgres", Revision: w.connection.Revision + 1, Options: kind.Options{login.FieldURL: w.postgres.URL("postgres", name, password)},
	})
	w.ok(err)
}

func (w *world) modern() bool {
	w.t.Helper()
	var modern bool
	w.ok(w.dial(w.admin).QueryRow(w.t.Context(), "SELECT current_setting('server_version_num')::int >= 160000").Scan(&modern))
	return modern
}

// preflight returns the blockers and notes of a change.
func (w *world) preflight(c kind.Change) (blockers, notes string) {
	w.t.Helper()
	b, n, err := w.kind.Preflight(w.t.Context(), c)
	w.ok(err)
	return strings.Join(b, "\n"), strings.Join(n, "\n")
}

// mends runs the statement of a blocker as a superuser.
func (w *world) mends(blockers, statement string) {
	w.t.Helper()
	found := regexp.MustCompile(statement).FindString(blockers)
	if found == "" {
		w.t.Fatalf("the blockers do not say %s: %s", statement, blockers)
	}
	w.exec(found)
}

// What an administrator lacks is named before the first change, with the statement that grants it; with that the rotation
// goes through.
func TestPreflightNamesRights(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	admin := w.app + "_root"
	w.administrator(admin)
	modern := w.modern()
	grant := `GRANT .* WITH ADMIN OPTION`
	c := w.next(w.first)
	c.Cut = true
	blockers, _ := w.preflight(c)
	w.mends(blockers, `GRANT pg_signal_backend TO \S+`)
	notes, err := w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
	if text := strings.Join(notes, ""); strings.Contains(text, "ADMIN OPTION") { // which would stay when it is granted: plans name the role
		t.Errorf("the connection's notes ask for what plans ask for: %s", text)
	}
	if modern {
		w.mends(blockers, grant)
	}
	if blockers, _ = w.preflight(c); blockers != "" {
		t.Fatalf("what was granted is not enough: %s", blockers)
	}
	w.ok(w.kind.Stage(ctx, c))
	if blockers, _ = w.preflight(c); blockers != "" { // as when the call is repeated
		t.Errorf("after Stage: %s", blockers)
	}
	w.ok(w.kind.Verify(ctx, c))
	w.ok(w.kind.Retire(ctx, c))
	second := w.rotate(w.next(c.To))

	// The administrator is replaced.
	w.administrator(w.app + "_Root2")
	c = w.next(second)
	if blockers, _ = w.preflight(c); modern {
		for _, role := range roleNames.Of(w.key)[:2] { // the others do not exist yet
			if !strings.Contains(blockers, role) {
				t.Errorf("role %s is not named: %s", role, blockers)
			}
		}
		if w.kind.Stage(ctx, c) == nil {
			t.Error("Stage does what should be refused")
		}
		w.mends(blockers, grant)
		blockers, _ = w.preflight(c)
	}
	if blockers != "" {
		t.Fatalf("what was granted is not enough: %s", blockers)
	}
	w.ok(w.kind.Unstage(ctx, c))
	w.rotate(w.next(second))
}

func TestPreflightNamesCreateRole(t *testing.T) {
	w := newWorld(t, "", nil)
	w.administrator(w.app + "_root")
	w.exec("ALTER ROLE " + w.app + "_root NOCREATEROLE")
	blockers, _ := w.preflight(w.next(w.first))
	w.mends(blockers, `ALTER ROLE \S+ CREATEROLE`)
}

// Settings of the owner that only a superuser may set for a role.
func TestPreflightNamesParameters(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	w.administrator(w.app + "_root")
	w.exec("ALTER ROLE "+w.app+" SET log_statement TO 'none'", "ALTER ROLE "+w.app+" SET app.tenant TO 'x'", "ALTER ROLE "+w.app+" SET work_mem TO '8MB'")
	if w.modern() {
		w.exec("GRANT " + w.app + " TO " + w.app + "_root WITH ADMIN OPTION")
	}
	c := w.next(w.first)
	blockers, _ := w.preflight(c)
	if strings.Contains(blockers, "work_mem") {
		t.Errorf("work_mem may be set: %s", blockers)
	}
	if w.kind.Stage(ctx, c) == nil {
		t.Fatal("Stage does what a blocker says cannot be done")
	}
	w.mends(blockers, `GRANT SET ON PARAMETER app.tenant, log_statement TO \S+`)
	if blockers, _ = w.preflight(c); blockers != "" {
		t.Fatalf("what was granted is not enough: %s", blockers)
	}
	w.rotate(c)
}

// A role that could rule the server is not lent.
func TestPreflightOfTheOwner(t *testing.T) {
	ctx := t.Context()
	for name, of := range map[string]struct {
		statement, want string
		allowed         bool // may be allowed
	}{
		"superuser":  {"ALTER ROLE %s SUPERUSER", "is a superuser", false},
		"CREATEROLE": {"ALTER ROLE %s CREATEROLE", "NOCREATEROLE", true},
		"BYPASSRLS":  {"ALTER ROLE %s BYPASSRLS", "NOBYPASSRLS", true},
		"program":    {"GRANT pg_execute_server_program TO %s", "REVOKE pg_execute_server_program FROM", true},
		"by another": {"CREATE ROLE %[1]s_group NOLOGIN; GRANT pg_write_server_files TO %[1]s_group; GRANT %[1]s_group TO %[1]s", "pg_write_server_files", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "", nil)
			for _, statement := range strings.Split(of.statement, "; ") {
				w.exec(strings.NewReplacer("%[1]s", w.app, "%s", w.app).Replace(statement))
			}
			c := w.next(w.first)
			blockers, _ := w.preflight(c)
			if !strings.Contains(blockers, of.want) {
				t.Errorf("blockers: %s, want %q", blockers, of.want)
			}
			if err := w.kind.Stage(ctx, c); err == nil || !strings.Contains(err.Error(), of.want) {
				t.Errorf("Stage: %v", err)
			}
			c.Connection.Options[fieldOwners] = "nobody, " + w.app[:3] + "*"
			if err := w.kind.Stage(ctx, c); (err == nil) != of.allowed {
				t.Errorf("Stage of an owner that is allowed: %v", err)
			}
			c.Connection.Options[fieldOwners] = "*"
			if err := w.kind.Stage(ctx, c); err == nil {
				t.Error("any owner is taken for one that is named")
			}
			if of.allowed {
				w.exec("ALTER ROLE " + w.app + " NOBYPASSRLS NOCREATEROLE")
			}
		})
	}
	w := newWorld(t, "", nil)
	w.connection.Options[fieldOwners] = "nobody"
	if err := w.kind.Stage(ctx, w.next(w.first)); err == nil || !strings.Contains(err.Error(), "does not allow") {
		t.Errorf("an owner that the connection does not allow: %v", err)
	}
	w.connection.Options[fieldOwners] = "[a"
	if _, err := w.kind.NormalizeConnection(w.connection); err == nil || !strings.Contains(err.Error(), fieldOwners) {
		t.Errorf("no pattern: %v", err)
	}
	w.administrator(w.app + "_root")
	w.key.Options[optionOwner] = w.app + "_root"
	c := w.next(w.first)
	if err := w.kind.Stage(ctx, c); err == nil || !strings.Contains(err.Error(), "the administrator of connection") {
		t.Errorf("the administrator is lent: %v", err)
	}
}

// Whose roles those are is said before, too.
func TestPreflightOfOwnership(t *testing.T) {
	w := newWorld(t, "", nil)
	a := roleNames.Of(w.key)[0]
	c := w.next(w.first)
	w.exec("CREATE ROLE " + a + " LOGIN")
	if blockers, _ := w.preflight(c); !strings.Contains(blockers, "was not made by this key") {
		t.Errorf("blockers: %s", blockers)
	}
	w.exec("DROP ROLE "+a, mark{"others", "theirs", 1, ""}.statement(w.app))
	if blockers, _ := w.preflight(c); !strings.Contains(blockers, "belongs to key theirs") {
		t.Errorf("blockers: %s", blockers)
	}
}

// What depends on the name that sessions log in with is named; a policy on rows blocks the rotation.
func TestSessionUser(t *testing.T) {
	w := newWorld(t, "", nil)
	app := quote(w.app)
	w.exec(
		"CREATE TABLE docs (id int, who name DEFAULT session_user, cur name DEFAULT current_user, says text DEFAULT 'session_user')",
		"GRANT ALL ON docs TO "+app, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY",
		"CREATE POLICY mine ON docs USING (who = session_user)",
		"CREATE POLICY fine ON docs USING (cur = current_user AND says <> current_setting('app.session_user', true))",
		"CREATE FUNCTION who_am_i() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT session_user::text'",
		"CREATE POLICY hidden ON docs FOR SELECT USING (who = who_am_i())",
		"CREATE POLICY others ON docs TO pg_monitor USING (who = session_user)",
		"CREATE VIEW my_docs AS SELECT * FROM docs WHERE who = session_user",
		"ALTER TABLE docs ADD CONSTRAINT mine CHECK (who = session_user OR id > 0)",
		"SET ROLE "+app, "CREATE TABLE owned (who name)", "ALTER TABLE owned ENABLE ROW LEVEL SECURITY", "CREATE POLICY unused ON owned USING (who = session_user)", "RESET ROLE",
		`CREATE SCHEMA closed`, `CREATE VIEW closed.never AS SELECT session_user AS who`,
	)
	c := w.next(w.first)
	check := func(text string, want, not []string) {
		t.Helper()
		for _, object := range want {
			if !strings.Contains(text, object) {
				t.Errorf("%s is not named in %s", object, text)
			}
		}
		for _, object := range not {
			if strings.Contains(text, object) {
				t.Errorf("%s is named in %s", object, text)
			}
		}
	}
	policies := []string{"policy mine on public.docs", "policy hidden on public.docs"}
	others := []string{
		"policy others on public.docs", "policy unused on public.owned", "default of public.docs.who", "view public.my_docs",
		"constraint mine of public.docs", "function public.who_am_i",
	}
	blockers, notes := w.preflight(c)
	check(blockers, append(slices.Clone(policies), optionSessionUser+"=true"), append(slices.Clone(others), "policy fine"))
	check(notes, others, append(slices.Clone(policies), "closed.never", "docs.cur", "docs.says", "policy fine"))

	c.Key.Options = kind.Options{kind.OptionConnection: "main", optionSessionUser: "true"}
	blockers, notes = w.preflight(c)
	check(blockers, nil, policies)
	check(notes, append(slices.Clone(policies), others...), nil)
	if blockers != "" {
		t.Error(blockers)
	}

	// A database that the administrator may not look at is said to be unseen.
	w.administrator(w.app + "_root")
	var database string
	w.ok(w.dial(w.admin).QueryRow(t.Context(), "SELECT current_database()").Scan(&database))
	w.exec("REVOKE CONNECT ON DATABASE "+quote(database)+" FROM PUBLIC", "GRANT CONNECT ON DATABASE "+quote(database)+" TO "+app)
	c.Connection = w.connection
	if _, notes = w.preflight(c); !strings.Contains(notes, "database "+database+" was not searched") {
		t.Errorf("notes: %s", notes)
	}
}

// What an application that has NOINHERIT, a schema of its own name or further roles sees is the same after a rotation.
func TestSessionsSeeTheSame(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	app, anon := quote(w.app), quote(w.app+"_anon")
	w.exec(
		"ALTER ROLE "+app+" NOINHERIT", "CREATE ROLE "+anon+" NOLOGIN", "GRANT "+anon+" TO "+app, "CREATE TABLE pub (id int)", "GRANT SELECT ON pub TO "+anon,
		"CREATE SCHEMA "+app+" AUTHORIZATION "+app, "CREATE TABLE "+app+".mine (id int)", "ALTER TABLE "+app+".mine OWNER TO "+app,
		"CREATE EXTENSION postgres_fdw", "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw", "CREATE USER MAPPING FOR "+app+" SERVER far OPTIONS (user 'mapped')",
	)
	see := func(conn *pgx.Conn) (all []string) {
		for _, sql := range []string{
			"SELECT current_user::text", "SELECT count(*)::text FROM mine", "SELECT current_schema()::text", "SELECT count(*)::text FROM pub",
			"SET ROLE " + anon, "SELECT count(*)::text FROM pub", "RESET ROLE", "SELECT current_user::text", "SET ROLE " + anon, "DISCARD ALL", "SELECT current_user::text", "SET SESSION AUTHORIZATION DEFAULT", "SELECT current_user::text", "RESET ROLE",
			"SELECT coalesce((SELECT umoptions::text FROM pg_user_mappings WHERE usename = current_user), 'none')",
			"SELECT has_table_privilege('pub', 'SELECT')::text",
		} {
			var text string
			err := conn.QueryRow(ctx, sql).Scan(&text)
			if strings.HasPrefix(sql, "SELECT") && err != nil {
				text = err.Error()
			}
			all = append(all, sql+": "+text)
		}
		return all
	}
	conn, err := w.session(w.first)
	w.ok(err)
	before := see(conn)
	w.ok(conn.Close(ctx))
	v := w.rotate(w.next(w.first))
	conn, err = w.session(v)
	w.ok(err)
	defer conn.Close(ctx) //nolint:errcheck // of a test
	for n, after := range see(conn) {
		if after != before[n] {
			t.Errorf("before: %s; after: %s", before[n], after)
		}
	}
}
