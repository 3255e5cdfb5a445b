// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// platformSchema is the part of the platform's schema that holds envelopes (docs/platform.md), with the
// row-level security of ai_provider_configs.
const platformSchema = `
CREATE TABLE ai_provider_configs (
	id text PRIMARY KEY, workspace_id text NOT NULL, provider text NOT NULL DEFAULT 'claude',
	api_key_encrypted text NOT NULL, updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01');
ALTER TABLE ai_provider_configs ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON ai_provider_configs FOR ALL USING (workspace_id::text = current_setting('app.tenant_id', true));
CREATE TABLE mcp_server_configs (
	id text PRIMARY KEY, workspace_id text NOT NULL, api_key_encrypted text,
	updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01');
CREATE TABLE integration_connections (
	id text PRIMARY KEY, workspace_id text NOT NULL, encrypted_credentials text NOT NULL,
	updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01');
CREATE TABLE users (
	id text PRIMARY KEY, email text NOT NULL UNIQUE, two_factor_secret text,
	updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01');`

// Seeding says how many envelopes of each column there are to be, and under which keys.
type Seeding struct {
	MasterKey, BetterAuth      key.Value
	Providers, Servers, Legacy int // ai_provider_configs; mcp_server_configs under the master key; under BETTER_AUTH_SECRET
	Connections, Users         int // integration_connections; users
	Salts                      int // distinct salts; 0: one an envelope, as the platform writes them
}

// Row is an envelope of the platform's and what is in it.
type Row struct {
	Table, Column, ID string
	Layout            key.Layout
	Plaintext         string
}

// SeedPlatform makes the platform's tables in an empty database and fills them.
func SeedPlatform(ctx context.Context, conn *pgx.Conn, s Seeding) ([]Row, error) {
	if _, err := conn.PgConn().Exec(ctx, platformSchema).ReadAll(); err != nil {
		return nil, fmt.Errorf("making the platform's tables: %w", err)
	}
	shapes, err := plaintextShapes()
	if err != nil {
		return nil, err
	}
	var rows []Row
	add := func(table, column string, layout key.Layout, prefix string, n int) {
		for i := range n {
			id := fmt.Sprintf("%s-%06d", prefix, i)
			rows = append(rows, Row{table, column, id, layout, fmt.Sprintf("%s#%s", shapes[i%len(shapes)], id)})
		}
	}
	add("ai_provider_configs", "api_key_encrypted", key.TagFirst, "prov", s.Providers)
	add("mcp_server_configs", "api_key_encrypted", key.TagFirst, "mcp", s.Servers)
	add("mcp_server_configs", "api_key_encrypted", key.TagLast, "mcp-legacy", s.Legacy)
	add("integration_connections", "encrypted_credentials", key.TagFirst, "conn", s.Connections)
	add("users", "two_factor_secret", key.TagLast, "user", s.Users)
	sealed, err := sealRows(ctx, s, rows)
	if err != nil {
		return nil, err
	}
	return rows, insertRows(ctx, conn, rows, sealed)
}

// plaintextShapes are those of the vectors that the platform's own code made.
func plaintextShapes() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(Repo(), "internal/envelope/testdata/envelopes.json"))
	if err != nil {
		return nil, err
	}
	var vectors []struct {
		Plaintext string `json:"plaintext"`
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		return nil, fmt.Errorf("envelopes.json: %w", err)
	}
	var shapes []string
	for _, v := range vectors {
		shapes = append(shapes, v.Plaintext)
	}
	return shapes, nil
}

func sealRows(ctx context.Context, s Seeding, rows []Row) ([]string, error) {
	rings := map[key.Layout]*envelope.Keyring{}
	for layout, value := range map[key.Layout]key.Value{key.TagFirst: s.MasterKey, key.TagLast: s.BetterAuth} {
		ring, err := envelope.NewKeyring(layout, value)
		if err != nil {
			return nil, err
		}
		rings[layout] = ring
	}
	salts := make([]envelope.Salt, max(s.Salts, 1))
	for i := range salts {
		_, _ = rand.Read(salts[i][:])
	}
	sealed := make([]string, len(rows))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, row := range rows {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			salt := salts[i%len(salts)]
			if s.Salts == 0 {
				_, _ = rand.Read(salt[:])
			}
			derived, err := rings[row.Layout].Derive(salt)
			if err != nil {
				return err
			}
			e, err := envelope.Seal(row.Layout, derived, salt, []byte(row.Plaintext), rand.Reader)
			sealed[i] = e.String()
			return err
		})
	}
	return sealed, group.Wait()
}

func insertRows(ctx context.Context, conn *pgx.Conn, rows []Row, sealed []string) error {
	for from := 0; from < len(rows); {
		table, column, second := rows[from].Table, rows[from].Column, "workspace_id"
		if table == "users" {
			second = "email"
		}
		n := from // those of one table stand together
		_, err := conn.CopyFrom(ctx, pgx.Identifier{table}, []string{"id", second, column}, pgx.CopyFromFunc(func() ([]any, error) {
			if n == len(rows) || rows[n].Table != table {
				return nil, nil
			}
			value := "ws-1"
			if table == "users" {
				value = rows[n].ID + "@example.test"
			}
			n++
			return []any{rows[n-1].ID, value, sealed[n-1]}, nil
		}))
		if err != nil {
			return fmt.Errorf("filling table %s: %w", table, err)
		}
		from = n
	}
	return nil
}
