// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// keySize is that of AES-256.
const keySize = 32

const howToMake = "make one with: (umask 077; openssl rand -base64 32 >FILE)"

// ReadKey reads a key file: 32 bytes as they are, in base64 or in hex. It refuses one that others than its owner can read.
func ReadKey(path string) ([]byte, error) {
	text, err := external.ReadFile(path, maxKeyFile, checkKeyFile)
	if err != nil {
		return nil, fmt.Errorf("last_good: key_file: %w", err)
	}
	defer clear(text)
	k, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("last_good: key_file: %s %w; %s", path, err, howToMake)
	}
	return k, nil
}

// maxKeyFile is longer than any form of a key.
const maxKeyFile = 4 << 10

func checkKeyFile(path string, info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return fmt.Errorf("%s is not a file; %s", path, howToMake)
	case mode.Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %04o, so that others than its owner can get at it; chmod 0400 it", path, mode.Perm())
	}
	return external.CheckSecret(path, info)
}

// parseKey tells the forms apart by their length. 32 bytes that are all printable are a password or half a key in hex: 32
// random bytes are that once in 10^16 times.
func parseKey(text []byte) ([]byte, error) {
	if len(text) == keySize {
		if !bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, errors.New("holds a text of 32 characters, which is not 32 random bytes")
		}
		return bytes.Clone(text), nil
	}
	word := bytes.TrimSpace(text)
	k := make([]byte, base64.StdEncoding.DecodedLen(len(word)))
	for _, decode := range []func(dst, src []byte) (int, error){hex.Decode, base64.StdEncoding.Decode, base64.URLEncoding.Decode} {
		if n, err := decode(k, word); err == nil && n == keySize {
			return k[:n], nil
		}
	}
	return nil, errors.New("does not hold 32 bytes, as they are, in base64 or in hex")
}
