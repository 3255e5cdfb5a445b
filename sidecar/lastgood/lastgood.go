// SPDX-License-Identifier: Apache-2.0

// Package lastgood keeps an encrypted copy of the last bundle that an instance had, so that it can be started while Vault
// is away. The copy is bound to its instance: that of another one, or one that was changed, does not open.
//
// A copy is stored before the files are written, so that it is never older than they are.
package lastgood

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// Owner is whose copy it is.
type Owner struct{ Namespace, Mount, Workload, Instance string }

// Store is a place for one copy.
type Store struct {
	Path    string
	KeyFile string        // 32 bytes, as they are, in base64 or in hex
	MaxAge  time.Duration // of a copy that is still used; 0: any
	Owner   Owner
}

// Copy is what was stored.
type Copy struct {
	Bundle client.Bundle // what was read of it, without lease, secret and work
	Stored time.Time     // when it was last known to be what the instance should hold
}

// header begins each copy. The rest is a nonce, and what AES-256-GCM makes of the content; the header and the owner are its
// additional data.
var header = []byte("hyvve last-good copy 1\n")

// content is what is encrypted.
type content struct {
	Stored time.Time `json:"stored"`
	api.Bundle
}

// Save stores a bundle. What was stored stays whole until the new one is.
func (s Store) Save(b client.Bundle, now time.Time) error {
	plain, err := json.Marshal(content{now.UTC(), b.Plain()})
	if err != nil {
		return err
	}
	return s.seal(header, plain)
}

// seal stores what is encrypted below a header.
func (s Store) seal(header, plain []byte) error {
	seal, err := s.cipher()
	if err != nil {
		return err
	}
	nonce := make([]byte, seal.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	out := append(bytes.Clone(header), nonce...)
	return render.Keep(s.Path, seal.Seal(out, nonce, plain, s.Owner.data(header)))
}

var (
	// ErrNone means that nothing was stored yet.
	ErrNone = errors.New("nothing is stored")
	// ErrTooOld means that what is stored is older than is wanted.
	ErrTooOld = errors.New("it is too old")
	// ErrNotOpened means that it is no copy, or not of this instance, or under another key, or was changed. The cases
	// cannot be distinguished.
	ErrNotOpened = errors.New("it does not open")
)

// maxBytes bounds what is read: a bundle has some kilobytes.
const maxBytes = 64 << 20

// ahead is how far a copy may be from the future, where clocks are set back a little.
const ahead = 5 * time.Minute

// Load returns what was stored.
func (s Store) Load(now time.Time) (Copy, error) {
	plain, err := s.open(header)
	if err != nil {
		return Copy{}, err
	}
	var c content
	if json.Unmarshal(plain, &c) != nil { // whose error may quote a value
		return Copy{}, fmt.Errorf("%s: %w: its content has another form than this release knows", s.Path, ErrNotOpened)
	}
	if err := s.fresh(c.Stored, now); err != nil {
		return Copy{}, err
	}
	b, err := client.Opaque(c.Bundle)
	if err != nil {
		return Copy{}, fmt.Errorf("%s: %w: %w", s.Path, ErrNotOpened, err)
	}
	return Copy{b, c.Stored}, nil
}

// open reads what was sealed below a header.
func (s Store) open(header []byte) ([]byte, error) {
	info, err := os.Stat(s.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", s.Path, ErrNone)
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxBytes:
		return nil, fmt.Errorf("%s is no copy: %w", s.Path, ErrNotOpened)
	}
	data, err := os.ReadFile(s.Path)
	if err != nil {
		return nil, err
	}
	seal, err := s.cipher()
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(data, header)
	if !ok || len(rest) < seal.NonceSize() {
		return nil, fmt.Errorf("%s: %w: it does not begin as a copy of this release does", s.Path, ErrNotOpened)
	}
	plain, err := seal.Open(nil, rest[:seal.NonceSize()], rest[seal.NonceSize():], s.Owner.data(header))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: it was changed or cut, stored under another key than that of %s, or is that of another instance than %q of workload %q (mount %q)",
			s.Path, ErrNotOpened, s.KeyFile, s.Owner.Instance, s.Owner.Workload, s.Owner.Mount)
	}
	return plain, nil
}

// secretHeader begins a stored secret of an instance, which is sealed as a copy is.
var secretHeader = []byte("hyvve instance secret 1\n")

// SaveSecret stores the secret of an instance's newest read.
func (s Store) SaveSecret(secret key.Value) error {
	return s.seal(secretHeader, []byte(secret.Reveal()))
}

// LoadSecret returns the secret that was stored. ErrNone: there is none.
func (s Store) LoadSecret() (key.Value, error) {
	plain, err := s.open(secretHeader)
	if err != nil {
		return key.Value{}, err
	}
	return key.NewValue(string(plain)), nil
}

// fresh refuses what is too old, and what seems to come from the future where its age matters.
func (s Store) fresh(stored, now time.Time) error {
	age := now.Sub(stored)
	switch {
	case s.MaxAge == 0:
		return nil
	case age < -ahead:
		return fmt.Errorf("%s: %w, probably: it was stored %s from now; set the clock right", s.Path, ErrTooOld, (-age).Round(time.Second))
	case age > s.MaxAge:
		return fmt.Errorf("%s: %w: it is %s old, and max_age is %s", s.Path, ErrTooOld, age.Round(time.Second), s.MaxAge)
	}
	return nil
}

// Remove takes a copy away that is not what the instance should hold any more.
func (s Store) Remove() error {
	if err := os.Remove(s.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// data is the additional data: the header, and the owner's names, each with its length before it.
func (o Owner) data(header []byte) []byte {
	out := bytes.Clone(header)
	for _, name := range []string{o.Namespace, o.Mount, o.Workload, o.Instance} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(name))) //nolint:gosec // a name
		out = append(out, name...)
	}
	return out
}

// cipher reads the key again each time: it stays in memory no longer than it is needed.
func (s Store) cipher() (cipher.AEAD, error) {
	k, err := ReadKey(s.KeyFile)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	clear(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
