// SPDX-License-Identifier: Apache-2.0

// Package envelope reads and writes the platform's encrypted strings, in both of its layouts
// (docs/platform.md): AES-256-GCM with a 16-byte IV and a 16-byte tag under a key
// that PBKDF2-HMAC-SHA256 derives from a secret and a 64-byte salt, the whole as one standard-base64 string.
//
// New envelopes may share a salt, and so a derived key, where each has a random IV: docs/security.md says why that is sound.
//
// It takes randomness as an argument and logs nothing.
package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pbkdf2"
)

// The sizes, in bytes, and the cost, of the platform's format.
const (
	SaltSize   = 64
	IVSize     = 16
	TagSize    = 16
	Iterations = 100_000

	overhead = SaltSize + IVSize + TagSize
)

// Salt is the salt of an envelope.
type Salt [SaltSize]byte

// Derived is an AES-256 key, of one secret and one salt.
type Derived [pbkdf2.Size]byte

// Format never returns the key, whatever the verb.
func (Derived) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("[redacted]")) }

// Envelope is a parsed string: everything but the knowledge of its layout.
type Envelope struct {
	Salt Salt
	IV   [IVSize]byte
	body []byte // ciphertext and tag, in the order of a layout that the string does not tell
}

// Errors of Parse and Open.
var (
	ErrMalformed = errors.New("not an envelope: standard base64 with padding of at least 97 bytes is wanted")
	ErrKey       = errors.New("the envelope does not open under this key and layout")
)

// Parse reads the string form. Anything that String would not write again is refused.
func Parse(text string) (Envelope, error) {
	if strings.ContainsAny(text, "\r\n") { // the decoder would pass over them
		return Envelope{}, ErrMalformed
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	// The platform never encrypts an empty string: one byte of ciphertext is the least.
	if err != nil || len(raw) <= overhead {
		return Envelope{}, ErrMalformed
	}
	e := Envelope{body: raw[SaltSize+IVSize:]}
	copy(e.Salt[:], raw)
	copy(e.IV[:], raw[SaltSize:])
	return e, nil
}

// String returns the string form.
func (e Envelope) String() string {
	raw := make([]byte, 0, SaltSize+IVSize+len(e.body))
	raw = append(raw, e.Salt[:]...)
	raw = append(raw, e.IV[:]...)
	return base64.StdEncoding.EncodeToString(append(raw, e.body...))
}

// Secret turns a key's value into the input of the derivation: the 32 bytes that it decodes to for tag-first, its
// characters for tag-last. Errors say what is wrong with the value and do not hold it.
func Secret(layout key.Layout, value key.Value) ([]byte, error) {
	text := value.Reveal()
	if text == "" {
		return nil, errors.New("value is empty")
	}
	switch layout {
	case key.TagLast:
		if !utf8.ValidString(text) {
			return nil, errors.New("value is not valid UTF-8")
		}
		return []byte(text), nil
	case key.TagFirst:
		return key.MasterKey(value)
	}
	return nil, fmt.Errorf("layout %q is not known", layout)
}

// Derive makes the key of a secret and a salt. It costs milliseconds of a core; see Keyring.
func Derive(secret []byte, salt Salt) (Derived, error) {
	d, err := pbkdf2.Key(secret, salt[:], Iterations)
	return Derived(d), err
}

func (d Derived) gcm() (cipher.AEAD, error) {
	block, err := aes.NewCipher(d[:])
	if err != nil {
		return nil, fmt.Errorf("aes: %w", err)
	}
	aead, err := cipher.NewGCMWithNonceSize(block, IVSize)
	if err != nil {
		return nil, fmt.Errorf("gcm: %w", err)
	}
	return aead, nil
}

// Open decrypts under a derived key; ErrKey where key or layout are others.
func (e Envelope) Open(layout key.Layout, d Derived) ([]byte, error) {
	aead, err := d.gcm()
	if err != nil {
		return nil, err
	}
	body := e.body
	if layout == key.TagFirst { // Go's GCM wants the tag behind the ciphertext
		body = append(append(make([]byte, 0, len(e.body)), e.body[TagSize:]...), e.body[:TagSize]...)
	}
	plaintext, err := aead.Open(nil, e.IV[:], body, nil)
	if err != nil {
		return nil, ErrKey
	}
	return plaintext, nil
}

// Seal encrypts under a derived key, which must be that of salt, with a fresh IV.
func Seal(layout key.Layout, d Derived, salt Salt, plaintext []byte, random io.Reader) (Envelope, error) {
	if len(plaintext) == 0 {
		return Envelope{}, errors.New("nothing to seal: the plaintext is empty")
	}
	aead, err := d.gcm()
	if err != nil {
		return Envelope{}, err
	}
	e := Envelope{Salt: salt}
	if _, err := io.ReadFull(random, e.IV[:]); err != nil {
		return Envelope{}, fmt.Errorf("drawing an IV: %w", err)
	}
	sealed := aead.Seal(nil, e.IV[:], plaintext, nil)
	e.body = sealed
	if layout == key.TagFirst {
		ciphertext, tag := sealed[:len(sealed)-TagSize], sealed[len(sealed)-TagSize:]
		e.body = append(append(make([]byte, 0, len(sealed)), tag...), ciphertext...)
	}
	return e, nil
}

// NewSalt draws a salt.
func NewSalt(random io.Reader) (Salt, error) {
	var salt Salt
	if _, err := io.ReadFull(random, salt[:]); err != nil {
		return Salt{}, fmt.Errorf("drawing a salt: %w", err)
	}
	return salt, nil
}
