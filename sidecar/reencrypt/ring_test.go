// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// A salt is that of one block, which is no larger than the documentation says, and no two of its envelopes have one IV.
func TestBlocksOfOneSalt(t *testing.T) {
	keyring := func(fill string) *envelope.Keyring {
		k, err := envelope.NewKeyring(key.TagFirst, key.NewValue(base64.StdEncoding.EncodeToString([]byte(strings.Repeat(fill, 32)))))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	old, fresh := keyring("a"), keyring("b")
	salt, err := envelope.NewSalt(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	derived, err := old.Derive(salt)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := envelope.Seal(key.TagFirst, derived, salt, []byte("text"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for perSalt, number := range map[int]int{rowsPerSalt: 2*rowsPerSalt + 10, 1: 20} {
		r := &ring{old: old, new: fresh, random: rand.Reader, perSalt: perSalt}
		ivs, salts := map[string]bool{}, map[envelope.Salt]int{}
		for from := 0; from < number; from += 1000 {
			rows := make([]*row, min(1000, number-from))
			for n := range rows {
				rows[n] = &row{value: sealed.String()}
			}
			if err := r.classify(t.Context(), rows); err != nil {
				t.Fatal(err)
			}
			for _, x := range rows {
				e, err := envelope.Parse(x.replacement)
				if err != nil {
					t.Fatal(err)
				}
				salts[e.Salt]++
				ivs[string(e.IV[:])] = true
			}
		}
		if len(ivs) != number {
			t.Errorf("%d envelopes have %d IVs", number, len(ivs))
		}
		if want := (number + perSalt - 1) / perSalt; len(salts) != want {
			t.Errorf("%d envelopes have %d salts, not %d", number, len(salts), want)
		}
		for _, shared := range salts {
			if shared > perSalt {
				t.Errorf("%d envelopes have one salt", shared)
			}
		}
	}
}
