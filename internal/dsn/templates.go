// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Templates are URLs without credentials by environment name: what workloads get under further names, with the credentials of
// a key's version.
type Templates map[string]string

// ParseTemplates reads NAME=URL, separated by white space. check says what is wrong with a URL; example is one that is not.
func ParseTemplates(text, example string, check func(url string) error) (Templates, error) {
	all := Templates{}
	for _, part := range strings.Fields(text) {
		name, url, ok := strings.Cut(part, "=")
		if !ok || key.ValidateEnv(name) != nil {
			return nil, fmt.Errorf("one is not NAME=URL, separated by white space, as %s", example)
		}
		if err := check(url); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("%s is named twice", name)
		}
		all[name] = url
	}
	return all, nil
}

// Names are the environment names, sorted.
func (t Templates) Names() []string { return slices.Sorted(maps.Keys(t)) }

// Render returns the URLs with the credentials of one, if it has some.
func (t Templates) Render(of URL, schemes ...string) (map[string]key.Value, error) {
	rendered := map[string]key.Value{}
	for name, text := range t {
		u, err := Parse(text, schemes...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if of.HasCredentials() {
			u = u.With(of.User, of.Password)
		}
		rendered[name] = u.Text()
	}
	return rendered, nil
}

// passwordBytes give a password of 256 bits.
const passwordBytes = 32

// NewPassword draws one that needs no encoding in a URL.
func NewPassword(random io.Reader) (key.Value, error) {
	secret := make([]byte, passwordBytes)
	if _, err := io.ReadFull(random, secret); err != nil {
		return key.Value{}, fmt.Errorf("drawing random bytes: %w", err)
	}
	return key.NewValue(base64.RawURLEncoding.EncodeToString(secret)), nil
}
