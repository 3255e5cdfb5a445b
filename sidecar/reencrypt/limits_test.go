// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// A row that cannot be read keeps no other one under the old key once the flip has begun.
func TestUnreadableRowsHoldNobodyUp(t *testing.T) {
	f := newFixture(t)
	f.do(workload.PhaseStage)
	f.write(&f.rows[0], f.oldKey, "written between stage and flip")
	f.exec("UPDATE integration_connections SET encrypted_credentials = 'damaged' WHERE id = 'conn-000005'")
	f.rows = f.rows[:16]
	if left, bad := f.do(workload.PhaseFlip).Left(); left != 0 || bad != 1 {
		t.Errorf("%d rows left and %d unreadable, want 0 and 1", left, bad)
	}
	f.expect(f.newKey, f.oldAuth)
}

// Legacy rows open under another key, which says nothing of the old one.
func TestWrongOldKeyBesideLegacyRows(t *testing.T) {
	f := newFixture(t)
	f.exec("DELETE FROM mcp_server_configs WHERE id NOT LIKE 'mcp-legacy%'")
	accepts := f.accepts()
	accepts[platform.MasterKey] = []key.Value{f.newKey, newKeyValue(t, 32)}
	_, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), f.work(workload.PhaseStage), accepts)
	if err == nil || !strings.Contains(err.Error(), "old key is not the one") {
		t.Errorf("error is %v", err)
	}
}

// Staging and flip look each row up by its key however stale the statistics are, and no timeout that is meant for the
// application's short queries ends them. Compared each with each, these rows would take minutes.
func TestManyRowsUnderAShortTimeout(t *testing.T) {
	f := newFixture(t)
	f.exec(`INSERT INTO ai_provider_configs (id, workspace_id, api_key_encrypted)
		SELECT md5(g::text), 'w', (SELECT api_key_encrypted FROM ai_provider_configs LIMIT 1) FROM generate_series(1, 20000) g`)
	f.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = ''20ms''', current_database()); END $$`)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	w := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 1000})
	for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseRevert} {
		if _, err := w.Do(ctx, f.work(phase), f.accepts()); err != nil {
			t.Fatalf("%s: %v", phase, err)
		}
	}
	f.expect(f.oldKey, f.oldAuth)
}

// By hand, a damaged row of one key keeps the rows of all keys as they are.
func TestBadRowAbortsAllKeys(t *testing.T) {
	f := newFixture(t)
	f.exec("UPDATE users SET two_factor_secret = 'damaged' WHERE id = 'user-000000'")
	env := f.env()
	delete(env, "BETTER_AUTH_SECRET")
	env["BETTER_AUTH_SECRET_OLD"], env["BETTER_AUTH_SECRET_NEW"] = f.oldAuth.Reveal(), f.auth.Reveal()
	status, _, stderr := f.command(env)
	if status != 1 || !strings.Contains(stderr, "user-000000") || !strings.Contains(stderr, "no row was changed") {
		t.Errorf("status %d: %s", status, stderr)
	}
	intact := f.rows
	f.rows = f.rows[:22] // without users
	f.expect(f.oldKey, f.oldAuth)
	f.rows = append(f.rows[:22:22], intact[23:]...)
	if status, _, stderr = f.command(env, "--on-bad-row=skip"); status != 0 {
		t.Errorf("skip: status %d: %s", status, stderr)
	}
	f.expect(f.newKey, f.auth)
}

// The tables are where the URL's schema= says.
func TestSchemaOfTheURL(t *testing.T) {
	f := newFixture(t)
	f.exec(`CREATE SCHEMA app; ALTER TABLE ai_provider_configs SET SCHEMA app; ALTER TABLE mcp_server_configs SET SCHEMA app;
		ALTER TABLE integration_connections SET SCHEMA app; ALTER TABLE users SET SCHEMA app`)
	env := f.env()
	env["DATABASE_URL"] = f.url + "&schema=app"
	if status, stdout, stderr := f.command(env, "--dry-run"); status != 0 || !strings.Contains(stdout, "app.ai_provider_configs") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	work := f.work(workload.PhaseStage)
	report, err := NewWorker(env["DATABASE_URL"], Options{AllowSuperuser: true}).Do(t.Context(), work, f.accepts())
	if err != nil || len(report.Columns) != len(work.Columns) || report.Place == nil || !report.Place.Covers(work.Columns) {
		t.Fatalf("%+v, %v", report, err)
	}
	for n, c := range work.Columns { // the engine knows no schema of the URL
		if report.Columns[n].Column != c.String() || report.Columns[n].Total == 0 {
			t.Errorf("%s is called %s, with %d rows", c, report.Columns[n].Column, report.Columns[n].Total)
		}
	}
}
