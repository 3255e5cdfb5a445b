// SPDX-License-Identifier: Apache-2.0

package key

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// masterKeyBytes is what AES-256 takes.
const masterKeyBytes = 32

// MasterKey returns the 32 bytes of a master key, which must be standard base64 with padding. It is strict: the platform
// decodes leniently and then uses whatever bytes come out, so that a value that is almost right would encrypt rows under
// a key that nobody can write down again. Errors say what is wrong and do not hold the value.
func MasterKey(v Value) ([]byte, error) {
	text := v.Reveal()
	if strings.ContainsAny(text, "-_") {
		return nil, errors.New("value is url-safe base64 ('-' or '_'); the master key must be standard base64, with '+', '/' and '=' padding")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("value is not standard base64 with padding; make one with: openssl rand -base64 32")
	}
	if len(raw) != masterKeyBytes {
		return nil, fmt.Errorf("value decodes to %d bytes; the master key must be exactly %d (make one with: openssl rand -base64 32)", len(raw), masterKeyBytes)
	}
	return raw, nil
}
