// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// runbook re-encrypts rows as the platform's own runbook does, and is what ours is compared with: one row after the
// other, two derivations by crypto/pbkdf2 for each, an update by id. It returns how many rows it changed.
func runbook(ctx context.Context, conn *pgx.Conn, rows []bed.Row, oldSecret, newSecret []byte) (changed int, err error) {
	for _, row := range rows {
		var text string
		if err := conn.QueryRow(ctx, "SELECT api_key_encrypted FROM ai_provider_configs WHERE id = $1", row.ID).Scan(&text); err != nil {
			return changed, err
		}
		sealed, err := reseal(text, oldSecret, newSecret)
		if err != nil {
			return changed, fmt.Errorf("row %s: %w", row.ID, err)
		}
		if sealed == text {
			continue
		}
		if _, err := conn.Exec(ctx, "UPDATE ai_provider_configs SET api_key_encrypted = $1 WHERE id = $2", sealed, row.ID); err != nil {
			return changed, err
		}
		changed++
	}
	return changed, nil
}

// reseal opens an envelope under the old key and seals it under the new one with a salt of its own: a derivation each.
// One that is under the new key already is given back as it is; that costs two derivations as well, to try both keys
// (docs/platform.md, trap 6).
func reseal(text string, oldSecret, newSecret []byte) (string, error) {
	e, err := envelope.Parse(text)
	if err != nil {
		return "", err
	}
	plaintext, err := openStandard(e, oldSecret)
	if err != nil {
		_, err = openStandard(e, newSecret)
		return text, err
	}
	salt, err := envelope.NewSalt(rand.Reader)
	if err != nil {
		return "", err
	}
	derived, err := standard(newSecret, salt)
	if err != nil {
		return "", err
	}
	sealed, err := envelope.Seal(key.TagFirst, derived, salt, plaintext, rand.Reader)
	return sealed.String(), err
}

func openStandard(e envelope.Envelope, secret []byte) ([]byte, error) {
	derived, err := standard(secret, e.Salt)
	if err != nil {
		return nil, err
	}
	return e.Open(key.TagFirst, derived)
}
