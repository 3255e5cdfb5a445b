// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// shortest is the length in bytes below which a secret could stand in an error by chance.
const shortest = 6

var percent = regexp.MustCompile("%[0-9A-Fa-f]{2}")

// secrets are texts that nothing may hold which a kind says.
type secrets struct{ forms []string }

// add takes values, and the password that a value holds where it is a URL, in every way that they are written.
func (x *secrets) add(t testing.TB, values ...key.Value) {
	t.Helper()
	for _, v := range values {
		text := v.Reveal()
		if text == "" {
			continue
		}
		parts := []string{text}
		if scheme, rest, ok := strings.Cut(text, "://"); ok {
			if u, err := dsn.Parse(text, scheme); err == nil && !u.Password.Empty() {
				raw, _, _ := strings.Cut(rest[strings.Index(rest, ":")+1:], "@")
				parts = append(parts, u.Password.Reveal(), raw)
			}
		}
		for _, part := range parts {
			if len(part) < shortest {
				t.Fatalf("a secret of the World has %d bytes, which may stand in an error by chance; use %d or more", len(part), shortest)
			}
			quoted := strings.Trim(fmt.Sprintf("%q", part), `"`)
			x.forms = append(x.forms, part, quoted)
		}
	}
	slices.Sort(x.forms)
	x.forms = slices.Compact(x.forms)
}

// absent fails if an error, or one that it wraps, tells a secret.
func (x *secrets) absent(t testing.TB, where string, err error) {
	t.Helper()
	for ; err != nil; err = errors.Unwrap(err) {
		x.absentText(t, where, fmt.Sprintf("%v %+v", err, err))
	}
}

// absentText fails if a text tells a secret, as it is or percent-encoded in whichever way. The failure does not show it.
func (x *secrets) absentText(t testing.TB, where, text string) {
	t.Helper()
	decoded := percent.ReplaceAllStringFunc(text, func(code string) string {
		c, err := strconv.ParseUint(code[1:], 16, 8)
		if err != nil {
			return code
		}
		return string([]byte{byte(c)})
	})
	for _, plain := range []string{text, decoded, strings.ReplaceAll(decoded, "+", " ")} {
		for _, form := range x.forms {
			if strings.Contains(plain, form) {
				t.Errorf("%s holds a secret: %s", where, strings.ReplaceAll(plain, form, "[the secret]"))
				return
			}
		}
	}
}
