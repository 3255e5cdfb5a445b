// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// database is one of its own, with rows of ai_provider_configs under a key.
type database struct {
	url     string
	conn    *pgx.Conn
	rows    []bed.Row
	current key.Value
	runs    int
}

func masterKey() key.Value {
	secret, _ := draw()
	return key.NewValue(base64.StdEncoding.EncodeToString(secret))
}

// newDatabase makes one with so many rows and distinct salts; 0 salts: one a row.
func newDatabase(ctx context.Context, server *bed.Postgres, name string, rows, salts int) (*database, error) {
	url, err := server.NewDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	d := &database{url: url, current: masterKey()}
	if d.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, err
	}
	d.rows, err = bed.SeedPlatform(ctx, d.conn, bed.Seeding{
		MasterKey: d.current, BetterAuth: key.NewValue("not used in this database"), Providers: rows, Salts: salts,
	})
	return d, err
}

// rotate brings the rows from one key to another with a fresh worker and an agent's options, as a sidecar that has just
// started would, and returns how long that took. That every row is under the new key in the end is checked.
func (d *database) rotate(ctx context.Context, from, to key.Value, phases ...workload.Phase) (time.Duration, error) {
	d.runs++
	worker := reencrypt.NewWorker(d.url, reencrypt.Options{AllowSuperuser: true})
	begun := time.Now()
	rotated := 0
	for _, phase := range phases {
		report, err := worker.Do(ctx, workload.Work{
			ID: string(phase), Rotation: fmt.Sprintf("r%d", d.runs), Key: "k", Env: "K", Phase: phase, From: 1, To: 2,
			Columns: []key.Column{{Table: "ai_provider_configs", Column: "api_key_encrypted", Layout: key.TagFirst}},
		}, map[string][]key.Value{"K": {to, from}})
		if err != nil {
			return 0, fmt.Errorf("%s: %w", phase, err)
		}
		for _, c := range report.Columns {
			rotated = c.Rotated
		}
	}
	took := time.Since(begun)
	if rotated != len(d.rows) {
		return 0, fmt.Errorf("%d of %d rows are under the new key", rotated, len(d.rows))
	}
	d.current = to
	return took, nil
}
