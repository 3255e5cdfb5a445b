// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Iterations and salt are PostgreSQL's own (SCRAM_SHA_256_DEFAULT_ITERATIONS, SCRAM_DEFAULT_SALT_LEN in
// src/include/common/scram-common.h). Its passwords are people's; ours have 256 random bits, and need no more. Nor
// fewer, though that would spare the server, which tries the empty password on each verifier: clients such as pgjdbc refuse
// less than the 4096 of RFC 7677.
const (
	scramIterations = 4096
	scramSalt       = 16
)

// verifier is what the server keeps of a password, as ALTER ROLE … PASSWORD takes it: it tells that a client knows the
// password, and lets nobody log in. The form is that of RFC 5803 as PostgreSQL writes it:
// SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey. Our passwords are ASCII, which SASLprep leaves as it is.
func verifier(random io.Reader, password key.Value) (string, error) {
	salt := make([]byte, scramSalt)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("drawing a salt: %w", err)
	}
	salted, err := pbkdf2.Key(sha256.New, password.Reveal(), salt, scramIterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving a verifier: %w", err)
	}
	stored := sha256.Sum256(sum(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, encode(salt), encode(stored[:]), encode(sum(salted, "Server Key"))), nil
}

func sum(secret []byte, text string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
