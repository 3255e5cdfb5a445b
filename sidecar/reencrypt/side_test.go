// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Any role of the database may take any advisory lock. None of them delays re-encryption.
func TestAdversaryHoldsAdvisoryLocks(t *testing.T) {
	f, server := fixtureOn(t, nil)
	name := "thief_" + f.conn.Config().Database
	password, err := server.NewRole(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	f.do(workload.PhaseStage)
	thief := f.connect(server.URL(f.conn.Config().Database, name, password))
	if _, err := thief.Exec(t.Context(), "SELECT pg_advisory_lock($1)", int64(0x6879767665)); err != nil {
		t.Fatal(err)
	}
	if _, err := thief.Exec(t.Context(), "LOCK TABLE hyvve_reencrypt.jobs IN ACCESS SHARE MODE"); err == nil {
		t.Error("others can lock our tables")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w := NewWorker(f.url, Options{AllowSuperuser: true})
	for _, phase := range []workload.Phase{workload.PhaseWipe, workload.PhaseStage, workload.PhaseFlip, workload.PhaseWipe} {
		if _, err := w.Do(ctx, f.work(phase), f.accepts()); err != nil {
			t.Fatalf("%s: %v", phase, err)
		}
	}
}

// Workers make and drop the side schema at the same time, also where transactions see one moment of the database.
func TestSideSchemaComesAndGoes(t *testing.T) {
	for _, level := range []string{"read committed", "repeatable read"} {
		t.Run(level, func(t *testing.T) {
			f := newFixture(t)
			f.exec("ALTER DATABASE " + quoted(f.conn.Config().Database) + " SET default_transaction_isolation = '" + level + "'")
			var busy sync.WaitGroup
			for range 6 {
				busy.Go(func() {
					j, err := NewWorker(f.url, Options{AllowSuperuser: true}).open(t.Context(), mustTask(t, f.work(workload.PhaseFlip), f.accepts()))
					if err != nil {
						t.Error(err)
						return
					}
					defer j.close()
					for range 15 {
						if err := j.prepare(t.Context()); err != nil {
							t.Error(err)
						}
						if err := j.wipe(t.Context()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			busy.Wait()
			if n := f.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'hyvve_reencrypt'"); n != 0 {
				t.Error("the schema is there still")
			}
		})
	}
}
