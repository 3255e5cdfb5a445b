// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

// runbook re-encrypts rows as the platform's own runbook does, and is what ours is compared with: one row after the
// other, a derivation to open it, another one to seal it under a fresh salt, an update by id. A row that is under the
// new key already is recognised by opening it with the old one in vain and with the new one: two derivations, too.
func runbook(ctx context.Context, conn *pgx.Conn, rows []testbed.Row, oldValue, newValue key.Value) error {
	oldSecret, err := envelope.Secret(key.TagFirst, oldValue)
	if err != nil {
		return err
	}
	newSecret, err := envelope.Secret(key.TagFirst, newValue)
	if err != nil {
		return err
	}
	for _, row := range rows {
		var text string
		if err := conn.QueryRow(ctx, "SELECT api_key_encrypted FROM ai_provider_configs WHERE id = $1", row.ID).Scan(&text); err != nil {
			return err
		}
		e, err := envelope.Parse(text)
		if err != nil {
			return err
		}
		derived, err := envelope.Derive(oldSecret, e.Salt)
		if err != nil {
			return err
		}
		plaintext, err := e.Open(key.TagFirst, derived)
		if err != nil { // rotated already
			if derived, err = envelope.Derive(newSecret, e.Salt); err != nil {
				return err
			}
			if _, err = e.Open(key.TagFirst, derived); err != nil {
				return err
			}
			continue
		}
		salt, err := envelope.NewSalt(rand.Reader)
		if err != nil {
			return err
		}
		if derived, err = envelope.Derive(newSecret, salt); err != nil {
			return err
		}
		sealed, err := envelope.Seal(key.TagFirst, derived, salt, plaintext, rand.Reader)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "UPDATE ai_provider_configs SET api_key_encrypted = $1 WHERE id = $2", sealed.String(), row.ID); err != nil {
			return err
		}
	}
	return nil
}
