// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// root makes an administrator for the world's connection, who logs in to the application's database.
func (w *world) root() string {
	w.t.Helper()
	name := fmt.Sprintf("trapped_root%d", worlds)
	password, err := w.postgres.NewRole(w.t.Context(), name)
	w.ok(err)
	w.exec("ALTER ROLE " + name + " SUPERUSER")
	u, err := dsn.Parse(w.admin, urls.Schemes...)
	w.ok(err)
	w.connection.Revision++
	w.connection.Options[login.FieldURL] = u.With(name, key.NewValue(password)).Text().Reveal()
	w.connection, err = w.kind.NormalizeConnection(w.connection)
	w.ok(err)
	w.t.Cleanup(func() { // it must not count among the roles that other tests see
		if conn, err := pgx.Connect(context.Background(), w.admin); err == nil {
			_, _ = conn.Exec(context.Background(), "ALTER ROLE "+name+" NOLOGIN")
			_ = conn.Close(context.Background())
		}
	})
	return name
}

// everything is all that a rotation, and a connection's check, do at a server.
func (w *world) everything(c kind.Change) {
	w.t.Helper()
	ctx := w.t.Context()
	_, err := w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
	_, _, err = w.kind.Preflight(ctx, c)
	w.ok(err)
	for range 2 {
		w.ok(w.kind.Stage(ctx, c))
		w.ok(w.kind.Verify(ctx, c))
	}
	_, _, err = w.kind.InUse(ctx, c)
	w.ok(err)
	_, _, err = w.kind.Sample(ctx, c, 100*time.Millisecond)
	w.ok(err)
	w.ok(w.kind.Unstage(ctx, c))
	w.ok(w.kind.Stage(ctx, c))
	c.Cut = true
	w.ok(w.kind.Retire(ctx, c))
	root := w.connection
	root.Next = key.NewValue("next-password-of-a-trapped-root")
	w.ok(w.kind.RotateRoot(ctx, root))
}

// Whatever roles of the database have planted, and wherever settings of roles and databases make a session look for it, none
// of it runs in a session of ours.
func TestTraps(t *testing.T) {
	for _, mode := range []string{"", "session", "transaction"} {
		t.Run("pool mode "+mode, func(t *testing.T) {
			w := newWorld(t, "", nil)
			c := w.next(w.first)
			if mode != "" {
				_, c = w.withBouncer(t, bed.PgBouncerOptions{Mode: mode})
			}
			root := w.root()
			first := fmt.Sprintf("trap_first_%d", worlds)
			var planted []*bed.Traps
			for _, schema := range []string{first, "public", w.app, root} {
				traps, err := w.postgres.PlantTraps(t.Context(), w.admin, schema)
				w.ok(err)
				planted = append(planted, traps)
			}
			u, err := urls.Credential(w.first)
			w.ok(err)
			w.admin += "&search_path=pg_catalog" // the test's own sessions
			path := " SET search_path TO " + quote(first) + ", pg_catalog, " + quote(w.app) + ", public"
			w.exec(
				"ALTER DATABASE "+quote(u.Path())+path,
				"ALTER ROLE "+quote(w.app)+path, "ALTER ROLE "+quote(w.app)+" IN DATABASE "+quote(u.Path())+path,
				"ALTER ROLE "+quote(root)+path, "ALTER ROLE "+quote(root)+" IN DATABASE "+quote(u.Path())+path,
			)
			before := sprung(t, planted)
			conn := w.dial(strings.TrimSuffix(w.admin, "&search_path=pg_catalog"))
			if _, err := conn.Exec(t.Context(), "SELECT count(*) FROM pg_roles WHERE rolname = 'x'"); err == nil && len(sprung(t, planted)) == len(before) {
				t.Fatal("a session that takes no care springs no trap: this test proves nothing")
			}
			before = sprung(t, planted)
			c.Connection = w.connection
			w.everything(c)
			if all := sprung(t, planted); len(all) > len(before) {
				t.Errorf("%d traps are sprung; the first: %s", len(all)-len(before), all[len(before)])
			}
		})
	}
}

func sprung(t testing.TB, planted []*bed.Traps) (all []string) {
	t.Helper()
	for _, traps := range planted {
		lines, err := traps.Sprung()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, lines...)
	}
	return all
}

// Any role may have any text as the value of a setting of its own; none of it runs as the administrator, and all of it holds
// for the login role.
func TestSettingsAreNoStatements(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	evil := fmt.Sprintf("evil%d", worlds)
	injected := "public;CREATE/**/ROLE/**/" + evil + ";--"
	u, err := urls.Credential(w.first)
	w.ok(err)
	in := " IN DATABASE " + quote(u.Path())
	app, err := w.session(w.first)
	w.ok(err)
	for value, scope := range map[string]string{injected: "", `x" ;CREATE ROLE "` + evil + `" ,"$user"`: in} {
		_, err := app.Exec(ctx, "SELECT set_config('search_path', $1, false)", `public, "`+strings.ReplaceAll(value, `"`, `""`)+`"`)
		w.ok(err)
		_, err = app.Exec(ctx, "ALTER ROLE "+quote(w.app)+scope+" SET search_path FROM CURRENT")
		w.ok(err)
	}
	_, err = app.Exec(ctx, "SELECT set_config('search_path', $1, false)", "PUBLIC\t,"+injected)
	w.ok(err)
	_, err = app.Exec(ctx, "ALTER ROLE "+quote(w.app)+" SET search_path FROM CURRENT")
	w.ok(err)
	for _, name := range []string{"temp_tablespaces", "local_preload_libraries", "session_preload_libraries", "DateStyle", "app.tenant"} {
		value := map[string]string{"DateStyle": "iso, mdy", "app.tenant": `x'; CREATE ROLE ` + evil + `; --\`}[name]
		if value == "" {
			value = `x; CREATE ROLE ` + evil + `; --`
		}
		w.exec("ALTER ROLE " + quote(w.app) + " SET " + name + " TO " + literal(value))
	}
	// So that sessions of the role still begin.
	w.exec("ALTER ROLE "+quote(w.app)+" RESET local_preload_libraries", "ALTER ROLE "+quote(w.app)+" RESET session_preload_libraries")
	w.ok(app.Close(ctx))
	c := w.next(w.first)
	for range 2 {
		w.ok(w.kind.Stage(ctx, c))
		w.ok(w.kind.Verify(ctx, c))
	}
	var roles int
	conn := w.dial(w.admin)
	w.ok(conn.QueryRow(ctx, "SELECT count(*) FROM pg_roles WHERE rolname = $1", evil).Scan(&roles))
	if roles != 0 {
		t.Error("the application's setting has made a role")
	}
	stored := map[string][]string{}
	for _, role := range []string{w.app, roleNames.Of(w.key)[0]} {
		rows, err := conn.Query(ctx, "SELECT d.setdatabase || s FROM pg_db_role_setting d, unnest(setconfig) s WHERE setrole = $1::regrole AND s NOT LIKE 'role=%' ORDER BY 1", quote(role))
		w.ok(err)
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		w.ok(err)
		for _, text := range texts {
			name, value, _ := strings.Cut(text, "=")
			if strings.HasSuffix(name, "search_path") {
				names, err := pgsession.ParseList("search_path", value)
				w.ok(err)
				text = fmt.Sprintf("%s: %q", name, names)
			}
			stored[role] = append(stored[role], text)
		}
	}
	if ours, theirs := fmt.Sprint(stored[roleNames.Of(w.key)[0]]), fmt.Sprint(stored[w.app]); ours != theirs {
		t.Errorf("the login role has\n%s\nand its owner\n%s", ours, theirs)
	}
}

// A role that names another in its own setting of role is not given that role's rights.
func TestOwnerThatARoleGivesItself(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	app, err := w.session(w.first)
	w.ok(err)
	if _, err := app.Exec(ctx, "ALTER ROLE "+quote(w.app)+" SET role TO postgres"); err != nil {
		t.Fatal(err)
	}
	w.ok(app.Close(ctx))
	err = w.kind.Stage(ctx, w.next(w.first))
	if err == nil || !strings.Contains(err.Error(), "may not act as that role") || !strings.Contains(err.Error(), "owner= of hyvve/keys/") {
		t.Errorf("%v", err)
	}
	var member bool
	w.ok(w.dial(w.admin).QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_auth_members WHERE roleid = 'postgres'::regrole)").Scan(&member))
	if member {
		t.Error("somebody is a member of postgres")
	}
}

// The server reads no text of ours as more than one statement: what is sent by the simple protocol, which allows that, is not
// from us.
func TestStatementsTravelAlone(t *testing.T) {
	ownServer(t, bed.PostgresOptions{Settings: map[string]string{"log_line_prefix": "%a|"}})
	w := newWorld(t, "", nil)
	w.root()
	w.everything(w.next(w.first))
	log, err := os.ReadFile(w.postgres.LogPath)
	w.ok(err)
	ours := regexp.MustCompile(`(?m)^`+ownName+`\|LOG:  (statement|execute)[^:]*:.*`).FindAllStringSubmatch(string(log), -1)
	if len(ours) < 20 {
		t.Errorf("the log has %d statements of ours: this test proves nothing", len(ours))
	}
	for _, line := range ours {
		if line[1] == "statement" && !strings.HasSuffix(line[0], "statement: -- ping") {
			t.Errorf("by the simple protocol: %s", line[0])
		}
	}
}

// The owner of a database sets what sessions there begin with. That hides nothing from us, and holds up no rotation.
func TestSettingsOfTheDatabase(t *testing.T) {
	w := newWorld(t, "", nil)
	root := w.root()
	u, err := urls.Credential(w.first)
	w.ok(err)
	app, database := quote(w.app), quote(u.Path())
	w.exec("ALTER DATABASE "+database+" OWNER TO "+app, "CREATE TABLE docs (who name DEFAULT session_user)", "GRANT ALL ON docs TO "+app,
		"ALTER TABLE docs ENABLE ROW LEVEL SECURITY", "CREATE POLICY mine ON docs USING (who = session_user)")
	c := w.next(w.first)
	c.Connection = w.connection
	before, notes := w.preflight(c)
	if !strings.Contains(before, "policy mine on public.docs") || !strings.Contains(notes, "default of public.docs.who") {
		t.Fatalf("blockers: %s, notes: %s", before, notes)
	}
	superuser := w.dial(w.admin) // before the settings, as is the next
	t.Cleanup(func() {           // other tests use all databases of the server
		if _, err := superuser.Exec(context.Background(), "ALTER DATABASE "+database+" RESET ALL"); err != nil {
			t.Error(err)
		}
	})
	owner, err := w.session(w.first)
	w.ok(err)
	defer owner.Close(context.Background()) //nolint:errcheck // of a test
	for _, setting := range []string{
		"standard_conforming_strings = off", "statement_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'", "lock_timeout = '1ms'",
		"quote_all_identifiers = on", "transform_null_equals = on", "array_nulls = off", "backslash_quote = off", "client_encoding = 'SJIS'",
		"default_transaction_read_only = on", "default_transaction_isolation = serializable", "default_transaction_deferrable = on", "row_security = off",
		"DateStyle = 'German'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Tokyo'", "bytea_output = 'escape'", "client_min_messages = debug5",
	} {
		_, err := owner.Exec(t.Context(), "ALTER DATABASE "+database+" SET "+setting)
		w.ok(err)
		_, err = superuser.Exec(t.Context(), "ALTER ROLE "+quote(root)+" SET "+setting)
		w.ok(err)
	}
	k := New(rand.Reader) // with sessions of its own
	t.Cleanup(func() { _ = k.Close() })
	w.kind = k
	if after, notesAfter := w.preflight(c); after != before || notesAfter != notes {
		t.Errorf("with settings of the database: blockers: %s, want %s; notes: %s, want %s", after, before, notesAfter, notes)
	}
	c.Key.Options = maps.Clone(c.Key.Options)
	c.Key.Options[optionSessionUser] = "true"
	w.everything(c)
}
