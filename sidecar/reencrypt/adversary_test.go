// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// squat makes the side schema as an earlier release would, as role, with something planted at its table of jobs: whatever
// role re-encrypts here runs it.
func (f *fixture) squat(role string, planted ...string) {
	f.t.Helper()
	f.all("SET ROLE "+quoted(role), "CREATE TABLE public.harm (done_as text)", "GRANT ALL ON public.harm TO PUBLIC",
		"CREATE FUNCTION public.harm() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.harm VALUES (current_user); RETURN NEW; END'",
		"CREATE FUNCTION public.harms() RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.harm VALUES (current_user); RETURN ''''; END'",
		"CREATE FUNCTION public.harmless(text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.harm VALUES (current_user); RETURN true; END'")
	f.all(createSide...)
	f.all("GRANT ALL ON SCHEMA hyvve_reencrypt TO PUBLIC", "GRANT ALL ON ALL TABLES IN SCHEMA hyvve_reencrypt TO PUBLIC")
	f.all(planted...)
	f.exec("RESET ROLE")
}

// reencryptor makes a role that may re-encrypt in the database and is a member of role, and returns its URL.
func (f *fixture) reencryptor(server *bed.Postgres, name, role string) string {
	f.t.Helper()
	password, err := server.NewRole(f.t.Context(), name)
	if err != nil {
		f.t.Fatal(err)
	}
	f.all("GRANT "+quoted(role)+" TO "+quoted(name), "GRANT USAGE ON SCHEMA public TO "+quoted(name), "ALTER ROLE "+quoted(name)+" BYPASSRLS",
		"GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO "+quoted(name), fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s", quoted(f.conn.Config().Database), quoted(name)))
	return server.URL(f.conn.Config().Database, name, password)
}

// A neighbour who may create in the database makes the side schema first, and hangs code of its own at it.
func TestAdversarySquattersSideSchema(t *testing.T) {
	for name, planted := range map[string][]string{
		"trigger":  {"CREATE TRIGGER harm BEFORE INSERT OR UPDATE ON hyvve_reencrypt.jobs FOR EACH ROW EXECUTE FUNCTION public.harm()"},
		"rule":     {"CREATE RULE harm AS ON INSERT TO hyvve_reencrypt.jobs DO ALSO INSERT INTO public.harm VALUES (public.harms())"},
		"default":  {"ALTER TABLE hyvve_reencrypt.jobs ALTER holder SET DEFAULT public.harms()"},
		"check":    {"ALTER TABLE hyvve_reencrypt.jobs ADD CHECK (public.harmless(name))"},
		"a column": {"ALTER TABLE hyvve_reencrypt.jobs ADD harm text DEFAULT public.harms()"},
		"index":    {"ALTER FUNCTION public.harmless(text) IMMUTABLE", "CREATE INDEX ON hyvve_reencrypt.jobs (public.harmless(name))"},
	} {
		t.Run(name, func(t *testing.T) {
			f, server := fixtureOn(t, nil)
			squatter, us := "squatter_"+f.conn.Config().Database, "reencryptor_"+f.conn.Config().Database
			f.all("CREATE ROLE "+quoted(squatter), fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s", quoted(f.conn.Config().Database), quoted(squatter)), "GRANT ALL ON SCHEMA public TO "+quoted(squatter))
			f.squat(squatter, planted...)
			for role, at := range map[string]string{"a member": f.reencryptor(server, us, squatter), "a superuser": f.url} {
				w := NewWorker(at, Options{AllowSuperuser: true})
				for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseWipe} {
					_, err := w.Do(t.Context(), f.work(phase), f.accepts())
					if err == nil || !strings.Contains(err.Error(), "belongs to role "+squatter) || !strings.Contains(err.Error(), "drop the schema") {
						t.Errorf("%s: %s: %v", role, phase, err)
					}
				}
			}
			if n := f.count("SELECT count(*) FROM public.harm WHERE done_as <> '" + squatter + "'"); n > 0 {
				t.Errorf("the squatter's code ran %d times as others", n)
			}
			f.expect(f.oldKey, f.oldAuth)
		})
	}
}

// What hangs at our own schema is refused as well, when the work begins and when it claims the job: somebody may have had our
// rights for a moment.
func TestAdversaryPlantsInOurSideSchema(t *testing.T) {
	for what, planted := range map[string]string{
		"has trigger harm":         "CREATE TRIGGER harm BEFORE UPDATE ON hyvve_reencrypt.%s FOR EACH ROW EXECUTE FUNCTION public.harm()",
		"has rule harm":            "CREATE RULE harm AS ON DELETE TO hyvve_reencrypt.%s DO ALSO INSERT INTO public.harm VALUES (public.harms())",
		"has constraint":           "ALTER TABLE hyvve_reencrypt.%s ADD CONSTRAINT harm CHECK (public.harms() = '')",
		"is not as":                "ALTER TABLE hyvve_reencrypt.%s ADD more text DEFAULT public.harms()",
		"no ordinary table":        "ALTER TABLE hyvve_reencrypt.%s ENABLE ROW LEVEL SECURITY",
		"inherits":                 "CREATE TABLE public.heir () INHERITS (hyvve_reencrypt.%s)",
		"index of somebody else":   "CREATE INDEX ON hyvve_reencrypt.%s ((public.harmless(1)))",
		"it has function":          "CREATE FUNCTION hyvve_reencrypt.%s() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"in it belongs to role":    "ALTER TABLE hyvve_reencrypt.%s OWNER TO pg_monitor",
		"it has table":             "CREATE TABLE hyvve_reencrypt.more_%s ()",
		"more_jobs in it is no or": "CREATE VIEW hyvve_reencrypt.more_%s AS SELECT 1",
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			f.do(workload.PhaseStage)
			f.all("CREATE TABLE public.harm (done_as text)",
				"CREATE FUNCTION public.harm() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.harm VALUES (current_user); RETURN NEW; END'",
				"CREATE FUNCTION public.harms() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''''; END'",
				"CREATE FUNCTION public.harmless(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'")
			late := f.prepared(workload.PhaseFlip)
			f.exec(fmt.Sprintf(planted, "jobs"))
			_, err := late.hold(t.Context(), late.db)
			if err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("it is claimed: %v", err)
			}
			_, err = NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), f.work(workload.PhaseFlip), f.accepts())
			if err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("it is prepared: %v", err)
			}
			f.expect(f.oldKey, f.oldAuth)
		})
	}
}

// As a superuser, any code of the database's would run with the rights of the whole server.
func TestAdversarySuperuserReencrypts(t *testing.T) {
	f, server := fixtureOn(t, nil)
	for _, phase := range phases {
		_, err := NewWorker(f.url, Options{}).Do(t.Context(), f.work(phase), f.accepts())
		if err == nil || !strings.Contains(err.Error(), "is a superuser") || !strings.Contains(err.Error(), "allow_superuser = true") {
			t.Errorf("%s: %v", phase, err)
		}
	}
	name := "plain_" + f.conn.Config().Database
	f.exec("CREATE ROLE " + quoted(name+"_group"))
	plain := f.reencryptor(server, name, name+"_group")
	as := f.url + "&options=" + strings.ReplaceAll(url.QueryEscape("-c role="+name), "+", "%20")
	if _, err := NewWorker(as, Options{}).Do(t.Context(), f.work(workload.PhaseStage), f.accepts()); err == nil || !strings.Contains(err.Error(), "is a superuser") {
		t.Errorf("a superuser who acts as another role: %v", err)
	}
	for _, phase := range phases {
		report, err := NewWorker(plain, Options{}).Do(t.Context(), f.work(phase), f.accepts())
		if err != nil {
			t.Errorf("%s: %v", phase, err)
		}
		if phase != workload.PhaseWipe && (report.Place == nil || len(report.Place.Tables) != 3 || report.Place.System == "" || !report.Place.Primary) {
			t.Errorf("%s: looked at %+v", phase, report.Place)
		}
	}
	status, _, stderr := f.commandAs(f.env())
	if status != 1 || !strings.Contains(stderr, "--allow-superuser") {
		t.Errorf("by hand: %d %s", status, stderr)
	}
}
