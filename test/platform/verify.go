// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
)

// ColumnResult is a column at the end.
type ColumnResult struct {
	Column     string `json:"column"`
	Rows       int    `json:"rows"`
	Current    int    `json:"open_under_current"`
	Old        int    `json:"open_under_old"`
	Unreadable int    `json:"unreadable"`
	Changed    int    `json:"other_plaintext"`
}

// VerifyRows opens every row under the current keys, and those that do not open under the values of before.
func (w *World) VerifyRows(ctx context.Context, current map[string]key.Value) ([]ColumnResult, error) {
	conn, err := pgx.Connect(ctx, w.Postgres.AdminURL(databaseName))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	now, err := rings(current)
	if err != nil {
		return nil, err
	}
	before, err := rings(w.Initial)
	if err != nil {
		return nil, err
	}
	var results []ColumnResult
	at := map[string]int{}
	for _, row := range w.Rows {
		name := row.Table + "." + row.Column
		if _, ok := at[name]; !ok {
			at[name] = len(results)
			results = append(results, ColumnResult{Column: name})
		}
		result := &results[at[name]]
		result.Rows++
		var text string
		if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE id = $1", row.Column, row.Table), row.ID).Scan(&text); err != nil {
			return nil, fmt.Errorf("%s %s: %w", row.Table, row.ID, err)
		}
		e, err := envelope.Parse(text)
		if err != nil {
			result.Unreadable++
			continue
		}
		plaintext, err := now[row.Layout].Open(e)
		if err == nil {
			result.Current++
		} else if plaintext, err = before[row.Layout].Open(e); err == nil {
			result.Old++
		} else {
			result.Unreadable++
			continue
		}
		if string(plaintext) != row.Plaintext {
			result.Changed++
		}
	}
	return results, nil
}

func rings(values map[string]key.Value) (map[key.Layout]*envelope.Keyring, error) {
	all := map[key.Layout]*envelope.Keyring{}
	for layout, env := range map[key.Layout]string{key.TagFirst: facts.MasterKey, key.TagLast: facts.BetterAuth} {
		r, err := envelope.NewKeyring(layout, values[env])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", env, err)
		}
		all[layout] = r
	}
	return all, nil
}
