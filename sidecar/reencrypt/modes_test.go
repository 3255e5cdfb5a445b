// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Workers share what there is to stage: what one has claimed and left behind, killed, another takes over when the claim has
// run out, and no row is staged twice.
func TestStagingIsSharedAndTakenOver(t *testing.T) {
	f := newFixture(t)
	w := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 2})
	dead, err := w.open(t.Context(), mustTask(t, f.work(workload.PhaseStage), f.accepts()))
	if err != nil {
		t.Fatal(err)
	}
	defer dead.close()
	if err := dead.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 { // claimed, and never staged
		c, _, err := dead.claimChunk(t.Context(), dead.db)
		if err != nil || c == nil {
			t.Fatalf("no chunk is claimed: %v", err)
		}
	}
	ended := make(chan error)
	for range 2 {
		go func() {
			report, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 2, Sessions: 3}).Do(t.Context(), f.work(workload.PhaseStage), f.accepts())
			if left, bad := report.Left(); err == nil && (left != 19 || bad != 0) {
				t.Errorf("%d rows are left and %d unreadable, want 19 and 0", left, bad)
			}
			ended <- err
		}()
	}
	select {
	case err := <-ended:
		t.Fatalf("staging has ended while chunks are claimed by somebody else: %v", err)
	case <-time.After(time.Second):
	}
	f.exec("UPDATE hyvve_reencrypt.chunks SET until = now() WHERE holder = $1", dead.holder)
	for range 2 {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	if n := f.count("SELECT (SELECT count(*) FROM hyvve_reencrypt.rows_1) + (SELECT count(*) FROM hyvve_reencrypt.rows_2) + (SELECT count(*) FROM hyvve_reencrypt.rows_3)"); n != 19 {
		t.Errorf("%d rows are staged, want 19", n)
	}
	// One that was thought dead, and was only slow, finds its chunk taken over and writes nothing.
	c := chunk{table: dead.tables[0]}
	if err := dead.stageChunk(t.Context(), dead.db, c); err != nil {
		t.Fatal(err)
	}
	if n := f.count("SELECT count(*) FROM hyvve_reencrypt.rows_1"); n != 8 {
		t.Errorf("%d rows of the first column are staged, want 8", n)
	}
	f.do(workload.PhaseFlip)
	f.expect(f.newKey, f.oldAuth)
}

// A claim is of one chunk, whatever the server's statistics make it do.
func TestOneChunkIsClaimed(t *testing.T) {
	f := newFixture(t)
	j := f.prepared(workload.PhaseStage)
	const left = "INSERT INTO hyvve_reencrypt.chunks (col, n, holder, until) SELECT 1, g, '', '-infinity' FROM generate_series($1::int, $2::int) g"
	f.exec(left, 1, 1)
	f.exec("ANALYZE hyvve_reencrypt.chunks")
	f.exec(left, 2, 6)
	if c, _, err := j.claimChunk(t.Context(), j.db); err != nil || c == nil || c.n != 1 {
		t.Fatalf("claimed %+v, %v; want the first chunk", c, err)
	}
	if n := f.count("SELECT count(*) FROM hyvve_reencrypt.chunks WHERE holder <> ''"); n != 1 {
		t.Errorf("%d chunks are claimed, want 1", n)
	}
}

func mustTask(t *testing.T, work workload.Work, accepts map[string][]key.Value) task {
	t.Helper()
	made, err := taskOf(work, accepts)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestInPlace(t *testing.T) {
	f := newFixture(t)
	for _, s := range []struct {
		phase workload.Phase
		now   key.Value
	}{{workload.PhaseStage, f.oldKey}, {workload.PhaseFlip, f.newKey}, {workload.PhaseSweep, f.newKey}, {workload.PhaseRevert, f.oldKey}, {workload.PhaseWipe, f.oldKey}} {
		report, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 3, InPlace: true}).Do(t.Context(), f.work(s.phase), f.accepts())
		if err != nil || !report.Done {
			t.Fatalf("%s: %v", s.phase, err)
		}
		f.expect(s.now, f.oldAuth)
	}
	if n := f.count("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'rows\\_%'"); n != 0 {
		t.Errorf("%d tables of staged rows were made", n)
	}
	status, stdout, stderr := f.command(f.env(), "--in-place")
	if status != 0 || !strings.Contains(stdout, "changed over") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	f.expect(f.newKey, f.oldAuth)
	env := f.env() // the runbook's way back
	env["ENCRYPTION_MASTER_KEY_OLD"], env["ENCRYPTION_MASTER_KEY_NEW"] = env["ENCRYPTION_MASTER_KEY_NEW"], env["ENCRYPTION_MASTER_KEY_OLD"]
	if status, _, stderr := f.command(env); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
	f.expect(f.oldKey, f.oldAuth)
}

// Rows of older releases are brought to the master key and its layout when that is asked, and go back as they were.
func TestLegacyRowsAreUpgraded(t *testing.T) {
	f := newFixture(t)
	before := f.read(f.rows[13]).String() // a legacy one
	upgraded := append(f.rows[:0:0], f.rows...)
	for n := range upgraded {
		if strings.HasPrefix(upgraded[n].ID, "mcp-legacy") {
			upgraded[n].Layout = key.TagFirst
		}
	}
	legacy := f.rows
	for _, s := range []struct {
		phase workload.Phase
		now   key.Value
	}{{workload.PhaseStage, f.oldKey}, {workload.PhaseFlip, f.newKey}, {workload.PhaseSweep, f.newKey}, {workload.PhaseRevert, f.oldKey}} {
		work := f.work(s.phase)
		work.Upgrade = true
		report, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), work, f.accepts())
		if err != nil {
			t.Fatalf("%s: %v", s.phase, err)
		}
		f.rows = upgraded
		if s.now.Equal(f.oldKey) {
			f.rows = legacy
		} else if c := report.Columns[1]; c.Rotated != 8 || c.Other != 0 {
			t.Errorf("%s: %+v, want 8 rows under the new key", s.phase, c)
		}
		f.expect(s.now, f.oldAuth)
	}
	if f.read(legacy[13]).String() != before {
		t.Error("a legacy row has not got its ciphertext back")
	}
	f.do(workload.PhaseWipe)
	if status, stdout, stderr := f.command(f.env(), "--upgrade-legacy"); status != 0 || !strings.Contains(stdout, "     8 rows: 8 under the new key") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	f.rows = upgraded
	f.expect(f.newKey, f.oldAuth)
}

func TestRateIsKept(t *testing.T) {
	f := newFixture(t)
	begun := time.Now()
	if _, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 2, RowsPerSecond: 20}).Do(t.Context(), f.work(workload.PhaseStage), f.accepts()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 500*time.Millisecond { // 22 rows; the last batch is rested after, too
		t.Errorf("22 rows took %v at 20 a second", took)
	}
	rest := &throttle{maxLoad: time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	db, err := connect(t.Context(), f.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.close()
	if err := rest.rest(ctx, db, 1, time.Second); err == nil {
		t.Error("a batch that took a thousand times what it may is followed by no rest")
	}
	if err := rest.rest(t.Context(), db, 1, 0); err != nil {
		t.Error(err)
	}
}

// The side schema is nobody else's: the old ciphertexts in it open under a key that is being retired.
func TestSideSchemaIsClosed(t *testing.T) {
	f := newFixture(t)
	f.exec(`ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO PUBLIC`)
	f.do(workload.PhaseStage)
	if n := f.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'hyvve_reencrypt' AND has_schema_privilege('public', oid, 'USAGE')"); n != 0 {
		t.Error("everybody may use the side schema")
	}
	f.exec(`DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reencrypt_stranger') THEN CREATE ROLE reencrypt_stranger; END IF; END $$`)
	f.exec(`GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO reencrypt_stranger; ALTER ROLE reencrypt_stranger BYPASSRLS`)
	if n := f.count("SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = 'hyvve_reencrypt' AND relkind = 'r' AND has_table_privilege('public', c.oid, 'SELECT')"); n != 0 {
		t.Errorf("everybody may read %d tables of the side schema", n)
	}
	_, err := NewWorker(f.url+"&options=-c%20role%3Dreencrypt_stranger", Options{AllowSuperuser: true}).Do(t.Context(), f.work(workload.PhaseFlip), f.accepts())
	if err == nil || !strings.Contains(err.Error(), "belongs to role postgres, not to reencrypt_stranger") {
		t.Errorf("somebody else's job: %v", err)
	}
}

func TestCommandFromVaultAndWrongFlags(t *testing.T) {
	f := newFixture(t)
	with := func(name, value string) map[string]string {
		env := f.env()
		delete(env, platform.MasterKey+"_OLD")
		env[name] = value
		return env
	}
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_MAX_RETRIES", "0")
	for _, c := range []struct {
		env    map[string]string
		args   []string
		status int
		want   string
	}{
		{with(platform.MasterKey+"_OLD_VAULT", "secret/data/hyvve"), nil, 2, "is not PATH#FIELD"},
		{with(platform.MasterKey+"_OLD_VAULT", "secret/data/hyvve#old"), nil, 2, "connection refused; start it, or mend VAULT_ADDR"},
		{f.env(), []string{"--touch-column=updatd_at"}, 1, "--touch-column=updatd_at: no table that is re-encrypted has that column, and no row was changed"},
		{with(platform.MasterKey+"_NEW_FILE", "/nowhere"), nil, 2, "more than one"},
		{f.env(), []string{"--rows-per-second=-1"}, 2, "--rows-per-second=-1"},
		{f.env(), []string{"--max-load=-1s"}, 2, "--max-load=-1s"},
		{f.env(), []string{"--in-place", "--revert"}, 2, "changed over"},
		{with(platform.BetterAuth, ""), []string{"--upgrade-legacy"}, 2, "ENCRYPTION_MASTER_KEY_NEW is set"},
	} {
		if status, _, stderr := f.command(c.env, c.args...); status != c.status || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: status %d, want %d; message lacks %q: %s", c.args, status, c.status, c.want, stderr)
		}
	}
	f.expect(f.oldKey, f.oldAuth)
	const canary = "canary-of-a-token"
	t.Setenv("VAULT_TOKEN", canary)
	for answer, want := range map[int]string{http.StatusForbidden: "mend VAULT_TOKEN, its policy, or the path", http.StatusNotFound: "there is nothing at secret/data/hyvve; mend the path"} {
		vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(answer)
			_, _ = w.Write([]byte(`{"errors":[]}`))
		}))
		t.Setenv("VAULT_ADDR", vault.URL)
		status, _, stderr := f.command(with(platform.MasterKey+"_OLD_VAULT", "secret/data/hyvve#old"))
		vault.Close()
		if status != 2 || !strings.Contains(stderr, want) || strings.Contains(stderr, canary) {
			t.Errorf("Vault answers %d: status %d: %s", answer, status, stderr)
		}
	}
}

func TestCount(t *testing.T) {
	f := newFixture(t)
	work := f.work(workload.PhaseCount)
	report, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), work, nil)
	if err != nil || !report.Done || len(report.Columns) != 3 || report.Columns[0].Total != 8 || report.Columns[1].Total != 8 {
		t.Errorf("%+v, %v", report, err)
	}
	f.exec(`CREATE RULE no_updates AS ON UPDATE TO integration_connections DO INSTEAD NOTHING`)
	if _, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), work, nil); err == nil || !strings.Contains(err.Error(), "no_updates") {
		t.Errorf("what would keep a rotation from its rows: %v", err)
	}
	if n := f.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'hyvve_reencrypt'"); n != 0 {
		t.Error("something was written")
	}
}

func openedIn(finds []workload.Find, column string) int {
	for _, f := range finds {
		if f.Column == column {
			return f.Opened
		}
	}
	return 0
}

// Rows that a condition leaves out are not touched, in no phase.
func TestConditions(t *testing.T) {
	f := newFixture(t)
	f.exec(`UPDATE ai_provider_configs SET provider = 'it''s \other', api_key_encrypted = 'plain text' WHERE id IN ('prov-000000', 'prov-000001')`)
	f.rows = f.rows[2:]
	for _, c := range []struct {
		where string
		total int
	}{{`provider!=it's \other`, 6}, {`provider=claude and workspace_id is not null`, 6}, {`workspace_id is null`, 0}, {`provider=claude and id=prov-000002`, 1}} {
		column, err := key.ParseProtected("public.ai_provider_configs.api_key_encrypted:tag-first where " + c.where)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := key.ParseProtected(column.Protected()); err != nil || !again.Equal(key.Column{Table: column.Table, Column: column.Column, Layout: column.Layout, Where: column.Where}) {
			t.Errorf("%s is read as %s (%v)", c.where, again.Protected(), err)
		}
		for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseRevert, workload.PhaseWipe} {
			work := f.work(phase)
			work.Columns = []key.Column{column}
			report, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 2}).Do(t.Context(), work, f.accepts())
			if err != nil {
				t.Fatalf("%s: %s: %v", c.where, phase, err)
			}
			left := 6 - c.total // envelopes of the key that the condition leaves out
			if phase == workload.PhaseStage && openedIn(report.Finds, "ai_provider_configs.api_key_encrypted") != left {
				t.Errorf("%s: found %+v, want %d envelopes that are left out", c.where, report.Finds, left)
			}
			if phase != workload.PhaseWipe && (report.Columns[0].Total != c.total || report.Columns[0].Bad != 0) {
				t.Errorf("%s: %s: %+v, want %d rows", c.where, phase, report.Columns[0], c.total)
			}
		}
		f.expect(f.oldKey, f.oldAuth)
	}
	work := f.work(workload.PhaseStage)
	work.Columns = []key.Column{{Table: "users", Column: "two_factor_secret", Layout: key.TagFirst, Where: []key.Term{{Column: "nothing", Is: "=", Value: "x"}}}}
	if _, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), work, f.accepts()); err == nil || !strings.Contains(err.Error(), `column nothing of the condition "nothing=x" does not exist`) {
		t.Errorf("a condition on a column that is not there: %v", err)
	}
}

// The time of a row's last change stays, unless it is asked for.
func TestTouchColumn(t *testing.T) {
	f := newFixture(t)
	f.exec(`ALTER TABLE integration_connections DROP COLUMN updated_at; ALTER TABLE mcp_server_configs ALTER updated_at TYPE timestamptz`)
	f.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Kolkata''', current_database()); END $$`)
	touched := func() int {
		return f.count("SELECT (SELECT count(*) FROM ai_provider_configs WHERE updated_at > '2026-01-02') + (SELECT count(*) FROM mcp_server_configs WHERE updated_at > '2026-01-02')")
	}
	for _, o := range []Options{{AllowSuperuser: true, TouchColumn: "updated_at"}, {AllowSuperuser: true, TouchColumn: "updated_at", InPlace: true}} {
		for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip} {
			if _, err := NewWorker(f.url, o).Do(t.Context(), f.work(phase), f.accepts()); err != nil {
				t.Fatalf("%s: %v", phase, err)
			}
		}
		if n := touched(); n != 13 {
			t.Errorf("%+v: %d rows are touched, want 13", o, n)
		}
		if n := f.count("SELECT count(*) FROM ai_provider_configs WHERE abs(extract(epoch FROM updated_at - now() AT TIME ZONE 'UTC')) < 600"); n != 8 {
			t.Errorf("%+v: the time of %d rows is in UTC, as the application writes it; want 8", o, n)
		}
		f.exec(`UPDATE ai_provider_configs SET updated_at = '2026-01-01'; UPDATE mcp_server_configs SET updated_at = '2026-01-01'`)
		f.do(workload.PhaseRevert)
		f.do(workload.PhaseWipe)
		if n := touched(); n != 0 {
			t.Errorf("%d rows are touched by a way back that was not asked to", n)
		}
	}
	f.refused(f.url, "users", "two_factor_secret", Options{AllowSuperuser: true, TouchColumn: "email"}, "and no timestamp", "email")
}

// No more than some workers are at a database at the same time.
func TestFewWorkersAtATime(t *testing.T) {
	f := newFixture(t)
	j := f.prepared(workload.PhaseStage)
	for n := range maxWorkers {
		f.exec("INSERT INTO hyvve_reencrypt.chunks (col, n, holder, until) VALUES ($1, $2, $3, now() + interval '1 hour')", j.tables[0].side, 100+n, string(rune('a'+n)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := j.awaitRoom(ctx); err == nil {
		t.Errorf("a worker more than %d does not wait", maxWorkers)
	}
	f.exec("UPDATE hyvve_reencrypt.chunks SET until = now() WHERE holder = 'a'")
	if err := j.awaitRoom(t.Context()); err != nil {
		t.Error(err)
	}
}
