// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// refused wants work on a column to be refused with some words, before anything is written.
func (f *fixture) refused(url, tableName, column string, o Options, words ...string) {
	f.t.Helper()
	work := f.work(workload.PhaseStage)
	work.Columns = []key.Column{{Schema: "public", Table: tableName, Column: column, Layout: key.TagFirst}}
	_, err := NewWorker(url, o).Do(f.t.Context(), work, f.accepts())
	if err == nil {
		f.t.Errorf("%s.%s is not refused; it should say %q", tableName, column, words)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			f.t.Errorf("%s.%s: %q does not say %q", tableName, column, err, word)
		}
	}
	if n := f.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'hyvve_reencrypt'"); n != 0 {
		f.t.Errorf("%s.%s is refused after something was written", tableName, column)
	}
}

func TestWhatForbidsRewritingIsFoundFirst(t *testing.T) {
	f := newFixture(t)
	f.exec(`CREATE TABLE made (id int PRIMARY KEY, a text, v text GENERATED ALWAYS AS (a) STORED)`)
	f.exec(`CREATE TABLE inkey (v text PRIMARY KEY)`)
	f.exec(`CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE heir () INHERITS (parent)`)
	f.exec(`CREATE TABLE ruled (id int PRIMARY KEY, v text); CREATE RULE no_updates AS ON UPDATE TO ruled DO INSTEAD NOTHING`)
	f.exec(`CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER IF NOT EXISTS files FOREIGN DATA WRAPPER file_fdw`)
	f.exec(`CREATE FOREIGN TABLE elsewhere (id int, v text) SERVER files OPTIONS (filename '/dev/null')`)
	f.exec(`CREATE TABLE parted (id int, v text) PARTITION BY RANGE (id)`)
	f.exec(`CREATE FOREIGN TABLE parted_far PARTITION OF parted FOR VALUES FROM (0) TO (10) SERVER files OPTIONS (filename '/dev/null')`)
	f.exec(`CREATE TABLE touchy (id int PRIMARY KEY, v text, updated_at timestamp);
		CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END';
		CREATE TRIGGER touching BEFORE UPDATE ON touchy FOR EACH ROW EXECUTE FUNCTION touch();
		CREATE TRIGGER of_another BEFORE UPDATE OF updated_at ON touchy FOR EACH ROW EXECUTE FUNCTION touch();
		CREATE TRIGGER asleep BEFORE UPDATE ON touchy FOR EACH ROW EXECUTE FUNCTION touch();
		ALTER TABLE touchy DISABLE TRIGGER asleep`)
	for _, c := range []struct {
		table, column string
		words         []string
	}{
		{"made", "v", []string{"generated"}},
		{"inkey", "v", []string{"primary key"}},
		{"parent", "v", []string{"heir inherits"}},
		{"ruled", "v", []string{"no_updates", "disable"}},
		{"elsewhere", "v", []string{"foreign table", "at the server"}},
		{"parted", "v", []string{"no primary key"}}, // a partitioned table with foreign parts cannot have one
		{"touchy", "v", []string{"trigger touching,", "allow_triggers", "--allow-trigger"}},
	} {
		f.refused(f.url, c.table, c.column, Options{AllowSuperuser: true}, c.words...)
	}
	work := f.work(workload.PhaseStage)
	work.Columns = []key.Column{{Schema: "public", Table: "touchy", Column: "v", Layout: key.TagFirst}}
	if _, err := NewWorker(f.url, Options{AllowSuperuser: true, AllowTriggers: []string{"touching"}}).Do(t.Context(), work, f.accepts()); err != nil {
		t.Errorf("a trigger that is allowed: %v", err)
	}
	f.do(workload.PhaseWipe)
	f.exec(`DROP TRIGGER touching ON touchy`) // the other is set off by the column that is to be touched
	f.refused(f.url, "touchy", "v", Options{AllowSuperuser: true, TouchColumn: "updated_at"}, "trigger of_another,")
}

func TestRightsAndReadOnly(t *testing.T) {
	f := newFixture(t)
	f.exec(`DO $$ BEGIN
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reencrypt_reader') THEN CREATE ROLE reencrypt_reader LOGIN PASSWORD 'reader-password'; END IF;
		EXECUTE format('GRANT CREATE ON DATABASE %I TO reencrypt_reader', current_database());
		END $$`)
	f.exec(`GRANT SELECT ON users TO reencrypt_reader`)
	url := strings.Replace(f.url, f.url[strings.Index(f.url, "//")+2:strings.Index(f.url, "@")], "reencrypt_reader:reader-password", 1)
	f.refused(url, "users", "two_factor_secret", Options{AllowSuperuser: true}, "reencrypt_reader may not read and update users.two_factor_secret", "GRANT SELECT, UPDATE")
	f.refused(url, "integration_connections", "encrypted_credentials", Options{AllowSuperuser: true}, "GRANT SELECT, UPDATE")
	f.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	f.refused(f.url, "users", "two_factor_secret", Options{AllowSuperuser: true}, "read-only", "default_transaction_read_only")
}

// Rows of partitions are found by the key of the whole, which may have any type.
func TestPartitionsAndKeysOfManyTypes(t *testing.T) {
	f := newFixture(t)
	f.exec(`CREATE TYPE mood AS ENUM ('sad', 'happy', 'sad or happy')`)
	f.exec(`CREATE TABLE parted (at timestamptz, who uuid, n numeric(20,3), f double precision, b bytea, i interval, m mood, d date, c "char", v text,
		PRIMARY KEY (at, who, n, f, b, i, m, d, c)) PARTITION BY RANGE (at)`)
	f.exec(`CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01'); CREATE TABLE parted_2 PARTITION OF parted DEFAULT`)
	f.exec(`INSERT INTO parted SELECT '2026-01-01 00:00:00.123456+03'::timestamptz + g * interval '7 days 1 second', gen_random_uuid(), g / 3.0, g / 3.0::float8,
		decode(md5(g::text), 'hex'), g * interval '1 month 3 microseconds', (ARRAY['sad', 'happy', 'sad or happy'])[1 + g % 3]::mood, '2026-01-01'::date + g, chr(48 + g)::"char",
		(SELECT api_key_encrypted FROM ai_provider_configs LIMIT 1) FROM generate_series(1, 9) g`)
	f.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET datestyle = ''SQL, DMY''', current_database());
		EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Kolkata''', current_database()); END $$`)
	work := f.work(workload.PhaseStage)
	work.Columns = []key.Column{{Schema: "public", Table: "parted", Column: "v", Layout: key.TagFirst}}
	for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseRevert, workload.PhaseWipe} {
		work.Phase = phase
		report, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 2}).Do(t.Context(), work, f.accepts())
		if err != nil {
			t.Fatalf("%s: %v", phase, err)
		}
		if phase != workload.PhaseStage && phase != workload.PhaseWipe && (report.Columns[0].Rotated != 9 || report.Columns[0].Total != 9) {
			t.Errorf("%s: %+v, want 9 rows rotated", phase, report.Columns[0])
		}
	}
}
