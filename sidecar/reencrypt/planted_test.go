// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// phases are all that a worker does.
var phases = []workload.Phase{
	workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseCount, workload.PhaseRevert, workload.PhaseWipe,
}

// Whatever roles of the database have planted, and wherever settings of roles and databases make a session look for it, none
// of it runs in a session of ours, directly and behind a pooler.
func TestPlanted(t *testing.T) {
	for _, pooled := range []bool{false, true} {
		t.Run(fmt.Sprintf("pooled %t", pooled), func(t *testing.T) { planted(t, nil, pooled) })
	}
}

func TestPlantedOnPostgreSQL18(t *testing.T) {
	server, err := bed.ForTest(t).PostgresWith(t.Context(), bed.PostgresOptions{Major: 18})
	if err != nil {
		t.Fatal(err)
	}
	planted(t, server, false)
}

func planted(t *testing.T, on *bed.Postgres, pooled bool) {
	ctx := t.Context()
	f, server := fixtureOn(t, on)
	config := f.conn.Config()
	database, role := config.Database, config.User
	first := "trap_first_" + database
	url := f.url
	if pooled {
		bouncer, err := bed.ForTest(t).PgBouncer(ctx, server, bed.PgBouncerOptions{Mode: "transaction", AuthQuery: true})
		if err != nil {
			t.Fatal(err)
		}
		f.exec(fmt.Sprintf("ALTER ROLE pgbouncer_%d SET search_path = pg_catalog", bouncer.Port)) // its own sessions take no care
		url = bouncer.URL(database, role, config.Password) + "&pgbouncer=true"
	}
	var all []*bed.Traps
	for _, schema := range []string{first, "public", role} {
		traps, err := server.PlantTraps(ctx, f.url, schema)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, traps)
	}
	sprung := func() (lines []string) {
		for _, traps := range all {
			found, err := traps.Sprung()
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, found...)
		}
		return lines
	}
	path := " SET search_path TO " + quoted(first) + ", pg_catalog, public"
	for _, scope := range []string{"DATABASE " + quoted(database), "ROLE " + quoted(role) + " IN DATABASE " + quoted(database)} {
		f.exec("ALTER " + scope + path)
	}
	if _, err := f.connect(f.url).Exec(ctx, "SELECT count(*) FROM pg_roles WHERE rolname = 'x'"); err == nil && len(sprung()) == 0 {
		t.Fatal("a session that takes no care springs no trap: this test proves nothing")
	}
	before := len(sprung())
	for _, o := range []Options{{AllowSuperuser: true, BatchSize: 4, TouchColumn: "updated_at"}, {AllowSuperuser: true, InPlace: true, BatchSize: 4}} {
		w := NewWorker(url, o)
		for _, phase := range phases {
			if _, err := w.Do(ctx, f.work(phase), f.accepts()); err != nil {
				t.Errorf("%s: %v", phase, err)
			}
		}
	}
	env := f.env()
	env["DATABASE_URL"] = url
	if status, _, stderr := f.command(env, "--max-load=1h"); status != 0 {
		t.Errorf("by hand: %s", stderr)
	}
	if lines := sprung(); len(lines) > before {
		t.Errorf("%d traps are sprung; the first: %s", len(lines)-before, lines[before])
	}
}

// Rows are read in the order of the primary key's index, and found again by its operators, of whatever type and schema they
// are: a type's own, and one that orders the other way than its text.
func TestKeysOfOtherTypes(t *testing.T) {
	f := newFixture(t)
	f.all(
		"CREATE SCHEMA app", "CREATE EXTENSION citext SCHEMA app", "CREATE TYPE app.level AS ENUM ('z', 'y', 'x', 'w', 'b', 'a', 'c', 'd')",
		"CREATE TYPE app.code", "CREATE FUNCTION app.code_in(cstring) RETURNS app.code LANGUAGE internal IMMUTABLE STRICT AS 'textin'",
		"CREATE FUNCTION app.code_out(app.code) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'",
		"CREATE TYPE app.code (INPUT = app.code_in, OUTPUT = app.code_out, LIKE = text, COLLATABLE = true)",
		"CREATE FUNCTION app.fires(app.code) RETURNS bool LANGUAGE plpgsql AS 'BEGIN IF current_setting(''application_name'') = ''hyvve-reencrypt'' THEN RAISE ''the domain has fired''; END IF; RETURN true; END'",
		"CREATE DOMAIN app.place AS app.code CHECK (app.fires(VALUE))",
	)
	for operator, function := range map[string]string{"<": "text_gt", "<=": "text_ge", "=": "texteq", ">=": "text_le", ">": "text_lt"} {
		f.all(fmt.Sprintf("CREATE FUNCTION app.%s(app.code, app.code) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS '%[1]s'", function),
			fmt.Sprintf("CREATE OPERATOR app.%s (LEFTARG = app.code, RIGHTARG = app.code, FUNCTION = app.%s)", operator, function))
	}
	f.all("CREATE FUNCTION app.compare(app.code, app.code) RETURNS int LANGUAGE plpgsql IMMUTABLE STRICT AS 'BEGIN RETURN bttextcmp($2::text, $1::text); END'",
		"CREATE OPERATOR CLASS app.code_ops DEFAULT FOR TYPE app.code USING btree AS OPERATOR 1 app.<, OPERATOR 2 app.<=, OPERATOR 3 app.=, OPERATOR 4 app.>=, OPERATOR 5 app.>, FUNCTION 1 app.compare(app.code, app.code)")
	workers := []*Worker{NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 3}), NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 3, InPlace: true})}
	for kind, ids := range map[string][]string{
		"citext": {"z", "Y", "x", "w", "b", "A", "c", "D"}, "level": {"z", "y", "x", "w", "b", "a", "c", "d"}, "code": {"z", "Y", "x", "w", "b", "A", "c", "D"},
		"place": {"z", "Y", "x", "w", "b", "A", "c", "D"}, "code, more uuid": {"z", "Y", "x", "w", "b", "A", "c", "D"},
	} {
		primary, values := "id", "$1"
		if strings.Contains(kind, "more") {
			primary, values = "id, more", "$1, gen_random_uuid()"
		}
		f.all("DROP TABLE IF EXISTS app.things", fmt.Sprintf("CREATE TABLE app.things (id app.%s, secret text, PRIMARY KEY (%s))", kind, primary))
		for _, id := range ids {
			f.exec(strings.ReplaceAll(fmt.Sprintf("INSERT INTO app.things (%s, secret) SELECT %s, api_key_encrypted FROM ai_provider_configs LIMIT 1", primary, values), "$1", pgsession.Literal(id)))
		}
		work := f.work(workload.PhaseStage)
		work.Columns = []key.Column{{Schema: "app", Table: "things", Column: "secret", Layout: key.TagFirst}}
		for _, w := range workers {
			for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseRevert} {
				work.Phase = phase
				report, err := w.Do(t.Context(), work, f.accepts())
				if err != nil {
					t.Fatalf("%s: %s: %v", kind, phase, err)
				}
				if c := report.Columns[0]; c.Total != 8 || phase != workload.PhaseStage && c.Rotated != 8 {
					t.Errorf("%s: %s: %d of 8 rows seen, and %d rotated", kind, phase, c.Total, c.Rotated)
				}
			}
			work.Phase = workload.PhaseWipe
			if _, err := w.Do(t.Context(), work, f.accepts()); err != nil {
				t.Error(err)
			}
		}
	}
}

// A cast that somebody has made between text and the type of a key would run as us.
func TestCastsOfOthers(t *testing.T) {
	f := newFixture(t)
	f.all("CREATE TYPE level AS ENUM ('a', 'b')", "CREATE TABLE things (id level PRIMARY KEY, secret text)",
		"CREATE FUNCTION spell(level) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''the cast has fired''; END'", "CREATE CAST (level AS text) WITH FUNCTION spell(level)",
		"INSERT INTO things SELECT 'a', api_key_encrypted FROM ai_provider_configs LIMIT 1")
	work := f.work(workload.PhaseStage)
	work.Columns = []key.Column{{Table: "things", Column: "secret", Layout: key.TagFirst}}
	_, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), work, f.accepts())
	if err == nil || !strings.Contains(err.Error(), "function spell") || !strings.Contains(err.Error(), "column id") {
		t.Errorf("%v", err)
	}
}

// A side schema that another role has made could hold triggers that run as us. A superuser is a member of every role.
func TestSideSchemaOfOthers(t *testing.T) {
	for name, statements := range map[string][]string{
		"the schema":    {"CREATE SCHEMA hyvve_reencrypt AUTHORIZATION side_other"},
		"a table in it": {"CREATE SCHEMA hyvve_reencrypt", "CREATE TABLE hyvve_reencrypt.jobs (id int)", "ALTER TABLE hyvve_reencrypt.jobs OWNER TO side_other"},
	} {
		f := newFixture(t)
		f.exec("DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'side_other') THEN CREATE ROLE side_other; END IF; END $$")
		f.all(statements...)
		_, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), f.work(workload.PhaseStage), f.accepts())
		if err == nil || !strings.Contains(err.Error(), "belongs to role side_other") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The server reads no text of ours as more than one statement.
func TestReencryptionsStatementsTravelAlone(t *testing.T) {
	server, err := bed.ForTest(t).PostgresWith(t.Context(), bed.PostgresOptions{Settings: map[string]string{"log_line_prefix": "%a|"}})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := fixtureOn(t, server)
	for _, phase := range phases {
		f.do(phase)
	}
	log, err := os.ReadFile(server.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	ours := regexp.MustCompile(`(?m)^hyvve-reencrypt\|LOG:  (statement|execute)[^:]*: (.*)`).FindAllStringSubmatch(string(log), -1)
	if len(ours) < 50 {
		t.Errorf("the log has %d statements of ours: this test proves nothing", len(ours))
	}
	for _, line := range ours {
		if line[1] == "statement" && !slices.Contains([]string{"begin", "commit", "rollback"}, line[2]) {
			t.Errorf("by the simple protocol: %s", line[0])
		}
	}
}

// A server that announces a message of 700 MB is not believed, neither before it has let us in nor when it says that it has.
func TestServerThatAnnouncesTooMuch(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // of a test
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1024))
			_, _ = conn.Write([]byte{'R', 0x2b, 0, 0, 0, 0, 0, 0, 10})
			_, _ = conn.Read(make([]byte, 1024))
			_ = conn.Close()
		}
	}()
	_, err = connect(context.Background(), "postgresql://u:p@"+listener.Addr().String()+"/x?sslmode=disable")
	if err == nil || !strings.Contains(err.Error(), "invalid body length") {
		t.Errorf("%v", err)
	}
}
