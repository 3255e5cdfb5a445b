// SPDX-License-Identifier: Apache-2.0

package envelope

import (
	"context"
	"fmt"
	"sync"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pbkdf2"
)

// maxDerived bounds a keyring's cache, in derived keys (about 100 bytes each).
const maxDerived = 16384

// Keyring derives the keys of one secret and remembers those of the salts that it saw last, so that envelopes which
// share a salt cost one derivation together. It may be used from several goroutines.
type Keyring struct {
	Layout key.Layout
	secret []byte

	mu          sync.Mutex
	recent, old map[Salt]Derived // two generations: the old one goes when the recent one is full
}

// NewKeyring is for one value in one layout. The error says what is wrong with the value.
func NewKeyring(layout key.Layout, value key.Value) (*Keyring, error) {
	secret, err := Secret(layout, value)
	if err != nil {
		return nil, err
	}
	return &Keyring{Layout: layout, secret: secret, recent: map[Salt]Derived{}}, nil
}

// Format never returns the secret, whatever the verb.
func (k *Keyring) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "[redacted keyring, %s]", k.Layout)
}

// Derive returns the key of a salt.
func (k *Keyring) Derive(salt Salt) (Derived, error) {
	if d, ok := k.Known(salt); ok {
		return d, nil
	}
	d, err := Derive(k.secret, salt)
	if err == nil {
		k.remember(salt, d)
	}
	return d, err
}

// DeriveAll derives the keys of all salts that are not known, together, which costs far less than one after the other. The
// cache must hold them: give it no more than a few thousand.
func (k *Keyring) DeriveAll(ctx context.Context, salts []Salt) error {
	seen := map[Salt]bool{}
	var jobs []pbkdf2.Job
	var missing []Salt
	for _, s := range salts {
		if _, known := k.Known(s); known || seen[s] {
			continue
		}
		seen[s] = true
		missing = append(missing, s)
		jobs = append(jobs, pbkdf2.Job{Secret: k.secret, Salt: s[:]})
	}
	derived, err := pbkdf2.Keys(ctx, jobs, Iterations)
	if err != nil {
		return err
	}
	for n, d := range derived {
		k.remember(missing[n], Derived(d))
	}
	return nil
}

// Known returns the key of a salt that was derived before.
func (k *Keyring) Known(salt Salt) (Derived, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d, ok := k.recent[salt]; ok {
		return d, true
	}
	d, ok := k.old[salt]
	return d, ok
}

func (k *Keyring) remember(salt Salt, d Derived) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.recent) >= maxDerived/2 {
		k.old, k.recent = k.recent, map[Salt]Derived{}
	}
	k.recent[salt] = d
}

// Open decrypts an envelope of the keyring's layout; ErrKey where it is under another key.
func (k *Keyring) Open(e Envelope) ([]byte, error) {
	d, err := k.Derive(e.Salt)
	if err != nil {
		return nil, err
	}
	return e.Open(k.Layout, d)
}
