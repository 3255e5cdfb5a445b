// SPDX-License-Identifier: Apache-2.0

package key

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
)

// Fingerprinter makes keyed hashes. Its secret is the mount's own, so that a fingerprint can neither be reversed by
// guessing values nor compared between mounts.
type Fingerprinter struct{ secret []byte }

// NewFingerprinter takes the mount's secret, 32 random bytes.
func NewFingerprinter(secret []byte) Fingerprinter { return Fingerprinter{secret: secret} }

// Of returns 16 hexadecimal characters: HMAC-SHA256 over domain and value, cut to 64 bits.
func (f Fingerprinter) Of(domain string, v Value) string {
	return f.Sum("value", domain, v.Reveal())[:16]
}

// MountID returns the mount's short id, six characters of [a-z2-7]. It reveals nothing of the secret.
func (f Fingerprinter) MountID() string { return ShortHash(f.Sum("mount")) }

// ShortHash returns six characters of [a-z2-7] that depend on text: 30 bits of SHA-256.
func ShortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))[:6]
}

// Sum is the whole keyed hash, hexadecimal, over parts that cannot run into each other.
func (f Fingerprinter) Sum(parts ...string) string {
	mac := hmac.New(sha256.New, f.secret)
	for _, part := range parts {
		length := len(part)
		mac.Write([]byte{byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}) //nolint:gosec // byte by byte; stored sums depend on it
		mac.Write([]byte(part))
	}
	return hex.EncodeToString(mac.Sum(nil))
}
