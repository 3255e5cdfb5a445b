// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Envelopes where nobody has configured them are found, in text and in JSON, before the first write and before the old key
// goes; another key's are not.
func TestDiscover(t *testing.T) {
	f := newFixture(t)
	const one = "(SELECT api_key_encrypted FROM ai_provider_configs LIMIT 1)"
	f.exec(`CREATE SCHEMA audit; CREATE TABLE audit.copies (id int, body char(400)); CREATE TABLE events (id int PRIMARY KEY, payload jsonb, raw json)`)
	f.exec(`INSERT INTO audit.copies SELECT g, CASE WHEN g % 3 = 0 THEN ` + one + ` ELSE repeat('x', 200) END FROM generate_series(1, 30) g`)
	f.exec(`INSERT INTO events SELECT g, jsonb_build_object('a', jsonb_build_array(1, ` + one + `)), json_build_object('k', 'v') FROM generate_series(1, 4) g`)
	f.exec(`DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reencrypt_nobody') THEN CREATE ROLE reencrypt_nobody; END IF; END $$`)
	check := func(finds []workload.Find) {
		t.Helper()
		if len(finds) != 2 || finds[0].Column != "audit.copies.body" || finds[0].Shaped != 30 || finds[0].Tried != 30 || finds[0].Opened != 10 ||
			finds[1].Column != "events.payload" || !finds[1].JSON || finds[1].Opened != 4 {
			t.Errorf("found %+v", finds)
		}
	}
	check(f.do(workload.PhaseStage).Finds)
	if finds := f.do(workload.PhaseFlip).Finds; len(finds) != 0 {
		t.Errorf("the flip looks, too: %+v", finds)
	}
	check(f.do(workload.PhaseSweep).Finds)
	f.exec(`DROP TABLE audit.copies; DELETE FROM events`)
	check(f.do(workload.PhaseSweep).Finds) // a look stands for a while
	f.exec(`UPDATE hyvve_reencrypt.jobs SET found = '{}'`)
	if finds := f.do(workload.PhaseSweep).Finds; len(finds) != 0 {
		t.Errorf("found %+v", finds)
	}
	f.do(workload.PhaseWipe)

	// Of a large table a sample reports whether it is worth reading as a whole.
	f.exec(`CREATE TABLE large (id int, body text); INSERT INTO large SELECT g, repeat('-', 500) FROM generate_series(1, 20000) g`)
	large := func(want string, finds int) {
		t.Helper()
		report, err := NewWorker(f.url, Options{AllowSuperuser: true, SampleBytes: 1 << 20}).Do(t.Context(), f.work(workload.PhaseStage), f.accepts())
		if err != nil || strings.Join(report.Unseen, " ") != want || len(report.Finds) != finds {
			t.Errorf("unseen %v, finds %+v (%v); want %q and %d", report.Unseen, report.Finds, err, want, finds)
		}
		f.do(workload.PhaseRevert)
		f.do(workload.PhaseWipe)
	}
	large("public.large (sampled: 1 MB of it hold no string of that shape)", 0)
	f.exec(`UPDATE large SET body = ` + one)
	large("", 1)
	f.exec(`DROP TABLE large`)

	env := f.env()
	env[platform.MasterKey] = f.oldKey.Reveal()
	delete(env, platform.MasterKey+"_OLD")
	if status, stdout, stderr := f.command(env, "discover"); status != 0 || !strings.Contains(stdout, "no envelope outside") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	f.exec(`INSERT INTO events SELECT 9, to_jsonb(` + one + `)`)
	for _, c := range []struct {
		args []string
		want string
	}{{[]string{"discover"}, "events.payload (in JSON"}, {[]string{"discover", "--all", "--json"}, `"opened":1`}} {
		if status, stdout, stderr := f.command(env, c.args...); status != statusFound || !strings.Contains(stdout, c.want) {
			t.Errorf("%v: status %d: %s%s", c.args, status, stdout, stderr)
		}
	}
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{{[]string{"discover", "--al"}, env, "did you mean --all"}, {[]string{"discover"}, map[string]string{"DATABASE_URL": f.url}, "no key is given"}} {
		if status, _, stderr := f.command(c.env, c.args...); status != 2 || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: status %d: %s", c.args, status, stderr)
		}
	}
}
