// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// The traps of the platform's runbook (docs/platform.md), by their numbers: each test shows
// that the runbook's way falls into one, and that ours does not. The eighth is in test/platform/app.

// script is the runbook's re-encryption, as it is described there: two tables, rows read outside of the transaction that
// writes them, updates by id alone, one derivation a key and row, and an end at the first row that does not open.
type script struct {
	conn         *pgx.Conn
	old, new     *envelope.Keyring
	batch        int
	beforeUpdate func(id string)
	afterBatch   func()
	longest      time.Duration // that a transaction was open
}

func (f *fixture) script(url string) *script {
	f.t.Helper()
	s := &script{conn: f.connect(url), batch: 200}
	var err error
	if s.old, err = envelope.NewKeyring(key.TagFirst, f.oldKey); err != nil {
		f.t.Fatal(err)
	}
	if s.new, err = envelope.NewKeyring(key.TagFirst, f.newKey); err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (s *script) run(ctx context.Context) error {
	for _, name := range []string{"ai_provider_configs", "mcp_server_configs"} {
		rows, err := s.conn.Query(ctx, "SELECT id, api_key_encrypted FROM "+name+" WHERE api_key_encrypted IS NOT NULL ORDER BY id")
		if err != nil {
			return err
		}
		type found struct{ ID, Text string }
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[found])
		if err != nil {
			return err
		}
		for from := 0; from < len(all); from += s.batch {
			begun := time.Now()
			err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
				for _, r := range all[from:min(from+s.batch, len(all))] {
					sealed, err := s.reseal(r.Text)
					if err != nil {
						return err
					}
					if s.beforeUpdate != nil {
						s.beforeUpdate(r.ID)
					}
					if _, err := tx.Exec(ctx, "UPDATE "+name+" SET api_key_encrypted = $1 WHERE id = $2", sealed, r.ID); err != nil {
						return err
					}
				}
				return nil
			})
			s.longest = max(s.longest, time.Since(begun))
			if err != nil {
				return err
			}
			if s.afterBatch != nil {
				s.afterBatch()
			}
		}
	}
	return nil
}

func (s *script) reseal(text string) (string, error) {
	e, err := envelope.Parse(text)
	if err != nil {
		return "", err
	}
	plaintext, err := s.old.Open(e)
	if err != nil {
		return "", err
	}
	salt, err := envelope.NewSalt(rand.Reader)
	if err != nil {
		return "", err
	}
	derived, err := s.new.Derive(salt)
	if err != nil {
		return "", err
	}
	sealed, err := envelope.Seal(key.TagFirst, derived, salt, plaintext, rand.Reader)
	return sealed.String(), err
}

// readable counts rows of a table that open under a master key, and those that do not.
func (f *fixture) readable(table string, master, auth key.Value) (open, closed int) {
	f.t.Helper()
	for _, r := range f.rows {
		if r.Table != table {
			continue
		}
		value := master
		if r.Layout == key.TagLast {
			value = auth
		}
		ring, err := envelope.NewKeyring(r.Layout, value)
		if err != nil {
			f.t.Fatal(err)
		}
		if _, err := ring.Open(f.read(r)); err == nil {
			open++
		} else {
			closed++
		}
	}
	return open, closed
}

func (f *fixture) withoutLegacy() *fixture {
	f.t.Helper()
	f.exec("DELETE FROM mcp_server_configs WHERE id LIKE 'mcp-legacy%'")
	f.rows = append(f.rows[:13:13], f.rows[16:]...)
	return f
}

func (f *fixture) ours() {
	f.t.Helper()
	f.do(workload.PhaseStage)
	f.do(workload.PhaseFlip)
}

func TestTrap1MissedTable(t *testing.T) {
	f := newFixture(t).withoutLegacy()
	if err := f.script(f.url).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, lost := f.readable("integration_connections", f.newKey, f.oldAuth); lost != 6 {
		t.Errorf("the runbook's way loses %d credentials: this is no trap", lost)
	}
	f = newFixture(t)
	f.ours()
	if _, lost := f.readable("integration_connections", f.newKey, f.oldAuth); lost != 0 {
		t.Errorf("%d credentials are lost", lost)
	}
}

func TestTrap2HiddenRows(t *testing.T) {
	f := newFixture(t).withoutLegacy()
	f.exec(`DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'trap_app') THEN CREATE ROLE trap_app LOGIN PASSWORD 'trap-password'; END IF;
		EXECUTE format('GRANT CREATE ON DATABASE %I TO trap_app', current_database()); END $$`)
	f.exec(`GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO trap_app`)
	url := strings.Replace(f.url, f.url[strings.Index(f.url, "//")+2:strings.Index(f.url, "@")], "trap_app:trap-password", 1)
	err := f.script(url).run(t.Context())
	if _, left := f.readable("ai_provider_configs", f.newKey, f.oldAuth); err != nil || left != 8 {
		t.Errorf("the runbook's way says %v and leaves %d rows: this is no trap", err, left)
	}
	if _, err := NewWorker(url, Options{AllowSuperuser: true}).Do(t.Context(), f.work(workload.PhaseStage), f.accepts()); err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("rows are hidden, and we say: %v", err)
	}
}

func TestTrap3SecondFactors(t *testing.T) {
	f := newFixture(t)
	// The runbook's way is to set the new secret.
	if _, lost := f.readable("users", f.oldKey, f.auth); lost != 4 {
		t.Errorf("the runbook's way locks %d users out: this is no trap", lost)
	}
	env := f.env()
	for _, name := range []string{"ENCRYPTION_MASTER_KEY_OLD", "ENCRYPTION_MASTER_KEY_NEW", "BETTER_AUTH_SECRET"} {
		delete(env, name)
	}
	env["BETTER_AUTH_SECRET_OLD"], env["BETTER_AUTH_SECRET_NEW"], env["ENCRYPTION_MASTER_KEY"] = f.oldAuth.Reveal(), f.auth.Reveal(), f.oldKey.Reveal()
	if status, _, stderr := f.command(env); status != 0 {
		t.Fatal(stderr)
	}
	if _, lost := f.readable("users", f.oldKey, f.auth); lost != 0 {
		t.Errorf("%d users are locked out", lost)
	}
}

func TestTrap4LegacyRows(t *testing.T) {
	f := newFixture(t)
	err := f.script(f.url).run(t.Context())
	rotated, _ := f.readable("ai_provider_configs", f.newKey, f.oldAuth)
	if !errors.Is(err, envelope.ErrKey) || rotated != 8 {
		t.Errorf("the runbook's way ends with %v, %d rows of the first table rotated: this is no trap", err, rotated)
	}
	f = newFixture(t)
	f.ours()
	f.expect(f.newKey, f.oldAuth)
}

func TestTrap5LostUpdate(t *testing.T) {
	lose := func(f *fixture, run func(write func())) string {
		t.Helper()
		written := false
		run(func() {
			if !written {
				written = true
				f.write(&f.rows[0], f.oldKey, "written meanwhile")
			}
		})
		var found string
		for _, master := range []key.Value{f.oldKey, f.newKey} {
			ring, err := envelope.NewKeyring(key.TagFirst, master)
			if err != nil {
				t.Fatal(err)
			}
			if plaintext, err := ring.Open(f.read(f.rows[0])); err == nil {
				found = string(plaintext)
			}
		}
		return found
	}
	f := newFixture(t).withoutLegacy()
	s := f.script(f.url)
	if found := lose(f, func(write func()) {
		s.beforeUpdate = func(id string) {
			if id == f.rows[0].ID {
				write()
			}
		}
		if err := s.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}); found == "written meanwhile" {
		t.Error("the runbook's way keeps what was written meanwhile: this is no trap")
	}
	f = newFixture(t)
	if found := lose(f, func(write func()) {
		f.do(workload.PhaseStage)
		write()
		f.do(workload.PhaseFlip)
	}); found != "written meanwhile" {
		t.Errorf("what was written meanwhile is lost: %q", found)
	}
}

func TestTrap6LongTransactions(t *testing.T) {
	f := newFixture(t).withoutLegacy()
	s := f.script(f.url)
	if err := s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	f = newFixture(t)
	f.do(workload.PhaseStage)
	j := f.prepared(workload.PhaseFlip)
	begun := time.Now()
	if err := j.flip(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	// 8 rows cost the runbook's transaction 15 derivations; ours is open for none.
	if flip := time.Since(begun); s.longest < 3*flip {
		t.Errorf("the runbook's transaction is open for %v, and ours for %v", s.longest, flip)
	}
	f.expect(f.newKey, f.oldAuth)
}

func TestTrap7MixedRows(t *testing.T) {
	mixed := func(f *fixture) bool {
		t.Helper()
		conn, err := pgx.Connect(context.Background(), f.url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background()) //nolint:errcheck // of a test
		rows, err := conn.Query(context.Background(), `SELECT api_key_encrypted FROM ai_provider_configs
			UNION ALL SELECT api_key_encrypted FROM mcp_server_configs WHERE id NOT LIKE 'mcp-legacy%'
			UNION ALL SELECT encrypted_credentials FROM integration_connections`)
		if err != nil {
			t.Fatal(err)
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		ring, err := envelope.NewKeyring(key.TagFirst, f.newKey)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, text := range texts {
			e, err := envelope.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ring.Open(e); err == nil {
				n++
			}
		}
		return n > 0 && n < len(texts)
	}
	f := newFixture(t).withoutLegacy()
	s := f.script(f.url)
	s.batch = 4
	seen := false
	s.afterBatch = func() { seen = seen || mixed(f) }
	if err := s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !seen {
		t.Error("the runbook's way never leaves rows of both keys: this is no trap")
	}
	f = newFixture(t)
	if f.do(workload.PhaseStage); mixed(f) {
		t.Error("rows are of both keys while they are staged")
	}
	done := make(chan error)
	go func() {
		_, err := NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 4}).Do(context.Background(), f.work(workload.PhaseFlip), f.accepts())
		done <- err
	}()
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
		if mixed(f) {
			t.Error("rows are of both keys during the flip")
		}
	}
	f.expect(f.newKey, f.oldAuth)
}
