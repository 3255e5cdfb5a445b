// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func TestMain(m *testing.M) {
	chaosWorker()
	bed.Main(m)
}

// fixture is a database with the platform's tables and the keys around it.
type fixture struct {
	t              *testing.T
	url            string
	conn           *pgx.Conn
	rows           []bed.Row
	oldKey, newKey key.Value // of ENCRYPTION_MASTER_KEY
	oldAuth, auth  key.Value // of BETTER_AUTH_SECRET: in use, and a new one
}

func newKeyValue(t testing.TB, n int) key.Value {
	t.Helper()
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	return key.NewValue(base64.StdEncoding.EncodeToString(raw))
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f, _ := fixtureOn(t, nil)
	return f
}

// fixtureOn is newFixture on a server; nil: the one that all tests share.
func fixtureOn(t *testing.T, server *bed.Postgres) (*fixture, *bed.Postgres) {
	t.Helper()
	f := &fixture{
		t: t, oldKey: newKeyValue(t, 32), newKey: newKeyValue(t, 32), oldAuth: newKeyValue(t, 48), auth: newKeyValue(t, 48),
	}
	var err error
	if server == nil {
		f.url, server = bed.DatabaseOn(t)
	} else if f.url, err = server.NewDatabase(t.Context(), "fixture"); err != nil {
		t.Fatal(err)
	}
	f.conn = f.connect(f.url)
	f.rows, err = bed.SeedPlatform(t.Context(), f.conn, bed.Seeding{
		MasterKey: f.oldKey, BetterAuth: f.oldAuth, Providers: 8, Servers: 5, Legacy: 3, Connections: 6, Users: 4, Salts: 7,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, server
}

func (f *fixture) connect(url string) *pgx.Conn {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), url)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// work is the master key's, as the engine would ask for it.
func (f *fixture) work(phase workload.Phase) workload.Work {
	return workload.Work{
		ID: "r1/encryption-master-key/" + string(phase), Rotation: "r1", Key: "encryption-master-key",
		Env: platform.MasterKey, Phase: phase, From: 1, To: 2, Columns: platform.Columns(platform.MasterKey),
		Others: []workload.Other{{Env: platform.BetterAuth, Layout: key.TagLast}},
	}
}

func (f *fixture) accepts() map[string][]key.Value {
	return map[string][]key.Value{platform.MasterKey: {f.newKey, f.oldKey}, platform.BetterAuth: {f.oldAuth}}
}

// prepared is a job of a phase that may begin; it is closed when the test ends.
func (f *fixture) prepared(phase workload.Phase) *job {
	f.t.Helper()
	j, err := NewWorker(f.url, Options{AllowSuperuser: true}).open(f.t.Context(), mustTask(f.t, f.work(phase), f.accepts()))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(j.close)
	if err := j.prepare(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return j
}

func (f *fixture) do(phase workload.Phase) workload.WorkReport {
	f.t.Helper()
	report, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 4}).Do(f.t.Context(), f.work(phase), f.accepts())
	if err != nil {
		f.t.Fatalf("%s: %v", phase, err)
	}
	if !report.Done {
		f.t.Fatalf("%s is not done", phase)
	}
	return report
}

// expect checks that every row opens to its plaintext under a master key and a BETTER_AUTH_SECRET.
func (f *fixture) expect(master, auth key.Value) {
	f.t.Helper()
	rings := map[key.Layout]*envelope.Keyring{}
	for layout, value := range map[key.Layout]key.Value{key.TagFirst: master, key.TagLast: auth} {
		ring, err := envelope.NewKeyring(layout, value)
		if err != nil {
			f.t.Fatal(err)
		}
		rings[layout] = ring
	}
	for _, row := range f.rows {
		plaintext, err := rings[row.Layout].Open(f.read(row))
		if err != nil {
			f.t.Errorf("%s of %s %s: %v", row.Column, row.Table, row.ID, err)
		} else if string(plaintext) != row.Plaintext {
			f.t.Errorf("%s of %s %s: another plaintext", row.Column, row.Table, row.ID)
		}
	}
}

func (f *fixture) read(row bed.Row) envelope.Envelope {
	f.t.Helper()
	var text string
	query := fmt.Sprintf("SELECT %s FROM %s WHERE id = $1", row.Column, row.Table)
	if err := f.conn.QueryRow(f.t.Context(), query, row.ID).Scan(&text); err != nil {
		f.t.Fatal(err)
	}
	e, err := envelope.Parse(text)
	if err != nil {
		f.t.Fatal(err)
	}
	return e
}

// write does what the application does: it encrypts with a fresh salt and updates the row.
func (f *fixture) write(row *bed.Row, secret key.Value, plaintext string) {
	f.t.Helper()
	ring, err := envelope.NewKeyring(row.Layout, secret)
	if err != nil {
		f.t.Fatal(err)
	}
	salt, err := envelope.NewSalt(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	derived, err := ring.Derive(salt)
	if err != nil {
		f.t.Fatal(err)
	}
	e, err := envelope.Seal(row.Layout, derived, salt, []byte(plaintext), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	f.exec(fmt.Sprintf("UPDATE %s SET %s = $1 WHERE id = $2", row.Table, row.Column), e.String(), row.ID)
	row.Plaintext = plaintext
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.conn.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatal(err)
	}
}

// all runs statements.
func (f *fixture) all(statements ...string) {
	f.t.Helper()
	for _, s := range statements {
		f.exec(s)
	}
}

func (f *fixture) count(sql string) (n int) {
	f.t.Helper()
	if err := f.conn.QueryRow(f.t.Context(), sql).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

func TestStageFlipSweepWipe(t *testing.T) {
	f := newFixture(t)
	staged := f.do(workload.PhaseStage)
	f.expect(f.oldKey, f.oldAuth) // the application notices nothing
	if left, bad := staged.Left(); left != 19 || bad != 0 {
		t.Errorf("stage finds %d rows to do and %d unreadable, want 19 and 0", left, bad)
	}
	if other := staged.Columns[1].Other; other != 3 {
		t.Errorf("%d legacy rows are recognised in %s, want 3", other, staged.Columns[1].Column)
	}
	flipped := f.do(workload.PhaseFlip)
	f.expect(f.newKey, f.oldAuth)
	if left, _ := flipped.Left(); left != 0 {
		t.Errorf("%d rows are left after the flip", left)
	}
	if n := f.count("SELECT count(DISTINCT substr(api_key_encrypted, 1, 80)) FROM ai_provider_configs"); n != 1 {
		t.Errorf("new envelopes have %d salts, want a shared one", n)
	}
	f.do(workload.PhaseFlip) // again: nothing to do
	f.do(workload.PhaseSweep)
	f.expect(f.newKey, f.oldAuth)
	if n := f.count("SELECT count(*) FROM users WHERE updated_at <> '2026-01-01'"); n != 0 {
		t.Errorf("updated_at of %d rows was touched", n)
	}
	f.do(workload.PhaseWipe)
	f.do(workload.PhaseWipe)
	if n := f.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'hyvve_reencrypt'"); n != 0 {
		t.Error("the side schema is still there after the wipe")
	}
}

func TestRowsWrittenMeanwhileAreNotLost(t *testing.T) {
	f := newFixture(t)
	f.do(workload.PhaseStage)
	f.write(&f.rows[0], f.oldKey, "written between stage and flip, under the old key")
	f.write(&f.rows[1], f.newKey, "written between stage and flip, under the new key")
	f.exec("DELETE FROM ai_provider_configs WHERE id = $1", f.rows[2].ID)
	f.rows = append(f.rows[:2:2], f.rows[3:]...)
	f.do(workload.PhaseFlip)
	f.expect(f.newKey, f.oldAuth)
	f.write(&f.rows[0], f.oldKey, "written by a straggler after the flip")
	report := f.do(workload.PhaseSweep)
	f.expect(f.newKey, f.oldAuth)
	if left, _ := report.Left(); left != 0 {
		t.Errorf("%d rows are left after the sweep", left)
	}
}

func TestRevertBringsOldAndNewRowsBack(t *testing.T) {
	f := newFixture(t)
	before := f.read(f.rows[0]).String()
	f.do(workload.PhaseStage)
	f.do(workload.PhaseFlip)
	f.write(&f.rows[1], f.newKey, "written under the new key")
	f.do(workload.PhaseRevert)
	f.expect(f.oldKey, f.oldAuth)
	if f.read(f.rows[0]).String() != before {
		t.Error("a reverted row has not got its old ciphertext back")
	}
	f.do(workload.PhaseRevert)
	f.do(workload.PhaseWipe)
	f.expect(f.oldKey, f.oldAuth)
}

func TestRevertWithoutFlip(t *testing.T) {
	f := newFixture(t)
	f.do(workload.PhaseStage)
	f.do(workload.PhaseRevert)
	f.do(workload.PhaseWipe)
	f.expect(f.oldKey, f.oldAuth)
}

// Rotating BETTER_AUTH_SECRET takes 2FA secrets and legacy rows along, and leaves the master key's rows alone.
func TestTagLastAndLegacyRows(t *testing.T) {
	f := newFixture(t)
	w := NewWorker(f.url, Options{AllowSuperuser: true})
	work := f.work(workload.PhaseStage)
	work.Key, work.Env, work.Columns = "better-auth-secret", platform.BetterAuth, platform.Columns(platform.BetterAuth)
	work.Others = []workload.Other{{Env: platform.MasterKey, Layout: key.TagFirst}}
	accepts := map[string][]key.Value{platform.BetterAuth: {f.auth, f.oldAuth}, platform.MasterKey: {f.oldKey}}
	for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseWipe} {
		work.Phase = phase
		report, err := w.Do(t.Context(), work, accepts)
		if err != nil {
			t.Fatalf("%s: %v", phase, err)
		}
		if _, bad := report.Left(); bad != 0 {
			t.Errorf("%s: %d unreadable rows", phase, bad)
		}
	}
	f.expect(f.oldKey, f.auth)
}

func TestWrongOldKeyIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	f := newFixture(t)
	accepts := f.accepts()
	accepts[platform.MasterKey] = []key.Value{f.newKey, newKeyValue(t, 32)}
	accepts[platform.BetterAuth] = []key.Value{newKeyValue(t, 48)}
	_, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), f.work(workload.PhaseStage), accepts)
	if err == nil || !strings.Contains(err.Error(), "old key is not the one") {
		t.Errorf("error is %v", err)
	}
	if n := f.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'hyvve_reencrypt'"); n != 0 {
		t.Error("something was written")
	}
	f.expect(f.oldKey, f.oldAuth)
}

func TestUnreadableRowsAreCounted(t *testing.T) {
	f := newFixture(t)
	f.exec("UPDATE integration_connections SET encrypted_credentials = 'not an envelope' WHERE id = 'conn-000000'")
	f.rows = f.rows[:16]
	report := f.do(workload.PhaseStage)
	if _, bad := report.Left(); bad != 1 {
		t.Errorf("%d unreadable rows, want 1", bad)
	}
	f.expect(f.oldKey, f.oldAuth)
}

// Where row-level security would hide rows the runbook's script reports success; we refuse.
func TestHiddenRowsAreAnError(t *testing.T) {
	f := newFixture(t)
	f.exec(`DROP ROLE IF EXISTS hidden_app`)
	f.exec(`CREATE ROLE hidden_app LOGIN PASSWORD 'hidden-app-password'`)
	f.exec(`GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO hidden_app`)
	f.exec(`DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO hidden_app', current_database()); END $$`)
	url := strings.Replace(f.url, f.url[strings.Index(f.url, "//")+2:strings.Index(f.url, "@")], "hidden_app:hidden-app-password", 1)
	_, err := NewWorker(url, Options{AllowSuperuser: true}).Do(t.Context(), f.work(workload.PhaseStage), f.accepts())
	if err == nil || !strings.Contains(err.Error(), "BYPASSRLS") || !strings.Contains(err.Error(), "hidden_app") {
		t.Errorf("error is %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "hidden-app-password") {
		t.Error("the error holds the password")
	}
}

func TestTwoWorkersAtOnce(t *testing.T) {
	f := newFixture(t)
	for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip} {
		errs := make(chan error)
		for range 2 {
			go func() {
				_, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 3}).Do(t.Context(), f.work(phase), f.accepts())
				errs <- err
			}()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatalf("%s: %v", phase, err)
			}
		}
	}
	f.expect(f.newKey, f.oldAuth)
}

func TestCompositeKeysAndOddNames(t *testing.T) {
	f := newFixture(t)
	f.exec(`CREATE TABLE "Odd ""Table" (a int, "B c" uuid DEFAULT gen_random_uuid(), "Value X" varchar(4000), PRIMARY KEY (a, "B c"))`)
	f.exec(`INSERT INTO "Odd ""Table" (a, "Value X") SELECT g, (SELECT api_key_encrypted FROM ai_provider_configs LIMIT 1) FROM generate_series(1, 9) g`)
	work := f.work(workload.PhaseStage)
	work.Columns = []key.Column{{Schema: "public", Table: `Odd "Table`, Column: "Value X", Layout: key.TagFirst}}
	for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip} {
		work.Phase = phase
		report, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 2}).Do(t.Context(), work, f.accepts())
		if err != nil {
			t.Fatal(err)
		}
		if phase == workload.PhaseFlip && report.Columns[0].Rotated != 9 {
			t.Errorf("%d of 9 rows are rotated", report.Columns[0].Rotated)
		}
	}
}

func TestColumnsThatCannotBe(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE no_key (v text); CREATE TABLE numbers (id int PRIMARY KEY, v int); CREATE VIEW a_view AS SELECT id, email FROM users")
	for _, c := range []struct{ table, column, want string }{
		{"nowhere", "v", "does not exist"},
		{"users", "nothing", "does not exist"},
		{"no_key", "v", "primary key"},
		{"numbers", "v", "integer"},
		{"a_view", "email", "not a column of a table"},
	} {
		work := f.work(workload.PhaseStage)
		work.Columns = []key.Column{{Schema: "public", Table: c.table, Column: c.column, Layout: key.TagFirst}}
		_, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), work, f.accepts())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s.%s: %v, want something on %q", c.table, c.column, err, c.want)
		}
	}
}
