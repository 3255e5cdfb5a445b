// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// rowsPerSalt is how many new envelopes share a salt: each keeps a random IV of its own, and the one derivation that
// the salt costs is shared. docs/security.md says why that is sound.
const rowsPerSalt = 4096

// ring holds the keyrings of one direction, in one layout of new envelopes.
type ring struct {
	old, new *envelope.Keyring   // old is nil where rows are only checked
	older    []*envelope.Keyring // of undeleted versions; where rows are only checked, one that opens under these is no loss
	others   []*envelope.Keyring // of keys that have rows of their own in the columns
	upgrade  bool                // rows of others are brought under the new key, too
	random   io.Reader
	perSalt  int

	mu       sync.Mutex
	salt     envelope.Salt
	derived  envelope.Derived
	left     int  // rows that may still take the salt
	newFirst bool // of the rows that were seen last, more were under the new key
}

// reversed returns the ring of the way back.
func (r *ring) reversed() *ring {
	return &ring{old: r.new, new: r.old, older: r.older, others: r.others, random: r.random, perSalt: r.perSalt}
}

// block returns a salt of new envelopes and its derived key.
func (r *ring) block() (envelope.Salt, envelope.Derived, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == 0 {
		salt, err := envelope.NewSalt(r.random)
		if err != nil {
			return salt, envelope.Derived{}, err
		}
		if r.derived, err = r.new.Derive(salt); err != nil {
			return salt, envelope.Derived{}, err
		}
		r.salt, r.left = salt, r.perSalt
	}
	r.left--
	return r.salt, r.derived, nil
}

// candidate is a row that has opened under nothing yet.
type candidate struct {
	*row
	envelope  envelope.Envelope
	plaintext []byte // once it has opened under a key from which it is to be brought elsewhere
}

// classify finds out under which key each row is, and makes a replacement where that is the old one. A derivation is what
// costs: whatever a batch of rows needs is derived together, and a key whose derivation is known is tried first.
func (r *ring) classify(ctx context.Context, rows []*row) error {
	var all []*candidate
	for _, x := range rows {
		x.kind = bad // a malformed value is a finding, not a failure
		if e, err := envelope.Parse(x.value); err == nil {
			all = append(all, &candidate{row: x, envelope: e})
		}
	}
	type attempt struct {
		ring  *envelope.Keyring
		kind  rowKind
		known bool // only where the derivation is
	}
	attempts := []attempt{{r.new, underNew, true}, {r.old, underOld, true}, {r.old, underOld, false}, {r.new, underNew, false}}
	if r.prefersNew() {
		attempts[2], attempts[3] = attempts[3], attempts[2]
	}
	attempts = slices.DeleteFunc(attempts, func(a attempt) bool { return a.ring == nil })
	for _, o := range r.older {
		kind := underOld
		if r.old == nil {
			kind = underOther
		}
		attempts = append(attempts, attempt{o, kind, false})
	}
	for _, o := range r.others {
		attempts = append(attempts, attempt{o, underOther, false})
	}
	closed := all
	for _, a := range attempts {
		var err error
		if closed, err = r.try(ctx, a.ring, a.kind, a.known, closed); err != nil {
			return err
		}
	}
	r.learn(rows)
	return r.seal(ctx, all)
}

// try opens rows with a keyring, and returns those that stay closed.
func (r *ring) try(ctx context.Context, k *envelope.Keyring, kind rowKind, known bool, rows []*candidate) (closed []*candidate, err error) {
	var open []*candidate
	for _, c := range rows {
		if _, ok := k.Known(c.envelope.Salt); ok || !known {
			open = append(open, c)
		} else {
			closed = append(closed, c)
		}
	}
	if !known {
		salts := make([]envelope.Salt, 0, len(open))
		for _, c := range open {
			salts = append(salts, c.envelope.Salt)
		}
		if err := k.DeriveAll(ctx, salts); err != nil {
			return nil, err
		}
	}
	err = spread(ctx, open, func(c *candidate) error {
		plaintext, err := k.Open(c.envelope)
		if err != nil {
			return nil //nolint:nilerr // it is under another key
		}
		c.kind = kind
		if kind == underOld || kind == underOther && r.upgrade {
			c.plaintext = plaintext
		} else {
			clear(plaintext)
		}
		return nil
	})
	for _, c := range open {
		if c.kind == bad {
			closed = append(closed, c)
		}
	}
	return closed, err
}

// seal makes the replacements.
func (r *ring) seal(ctx context.Context, rows []*candidate) error {
	return spread(ctx, rows, func(c *candidate) error {
		if c.plaintext == nil {
			return nil
		}
		salt, derived, err := r.block()
		if err != nil {
			return err
		}
		sealed, err := envelope.Seal(r.new.Layout, derived, salt, c.plaintext, r.random)
		clear(c.plaintext)
		c.plaintext, c.replacement = nil, sealed.String()
		return err
	})
}

// spread does something with all rows, on all cores.
func spread(ctx context.Context, rows []*candidate, do func(*candidate) error) error {
	const least = 32 // rows that are worth a goroutine
	group, ctx := errgroup.WithContext(ctx)
	size := max(least, (len(rows)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for from := 0; from < len(rows); from += size {
		part := rows[from:min(from+size, len(rows))]
		group.Go(func() error {
			for _, c := range part {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := do(c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// prefersNew tells which of the two keys is tried first where neither derivation is known: the one that has opened more.
func (r *ring) prefersNew() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newFirst
}

func (r *ring) learn(rows []*row) {
	more := 0
	for _, x := range rows {
		switch x.kind {
		case underNew:
			more++
		case underOld:
			more--
		case bad, underOther:
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if more != 0 {
		r.newFirst = more > 0
	}
}

// ringName tells keyrings apart without holding what they hold.
type ringName struct {
	layout key.Layout
	sum    [sha256.Size]byte // of the value
}

// keyring returns that of a value, an old one if there is one.
func (w *Worker) keyring(layout key.Layout, value key.Value) (*envelope.Keyring, error) {
	name := ringName{layout, sha256.Sum256([]byte(value.Reveal()))}
	if k, ok := w.rings[name]; ok {
		return k, nil
	}
	k, err := envelope.NewKeyring(layout, value)
	if err == nil {
		w.rings[name] = k
	}
	return k, err
}

// ringOf makes the keyrings of a job in one layout.
func (w *Worker) ringOf(layout key.Layout, t task) (*ring, error) {
	o := w.options
	r := &ring{random: o.Random, perSalt: rowsPerSalt, upgrade: t.upgrade}
	if o.SaltPerRow {
		r.perSalt = 1
	}
	var err error
	if !t.old.Empty() {
		if r.old, err = w.keyring(layout, t.old); err != nil {
			return nil, fmt.Errorf("the old key: %w", err)
		}
	}
	if t.new.Empty() { // only looked for
		return r, nil
	}
	if r.new, err = w.keyring(layout, t.new); err != nil {
		return nil, fmt.Errorf("the new key: %w", err)
	}
	for _, value := range t.older {
		k, err := w.keyring(layout, value)
		if err != nil {
			return nil, fmt.Errorf("the key of an undeleted version: %w", err)
		}
		r.older = append(r.older, k)
	}
	for _, x := range t.others {
		k, err := w.keyring(x.layout, x.value)
		if err != nil {
			continue // one that cannot be used opens nothing
		}
		r.others = append(r.others, k)
	}
	return r, nil
}
