// SPDX-License-Identifier: Apache-2.0

package client

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// FuzzAnswer has Vault, or somebody in its place, answer anything to a read of a bundle: what is taken has names that are
// names, and work whose names forge no lines.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"lease_id":"l","lease_duration":300,"data":{"values":{"A":"x"},"accepts":{"A":["x","y"]},"versions":{"A":2},"etag":"e","created":{"A":"2026-11-23T03:00:00Z"}}}`))
	f.Add([]byte(`{"data":{"values":{"A\nB":"x"},"work":[{"id":"a\u001b[2J"}]}}`))
	f.Add([]byte(`{"data":{"values":[]}}`))
	f.Add([]byte(`null`))
	var body atomic.Pointer[[]byte]
	vault := newClient(f, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(*body.Load()) })
	f.Fuzz(func(t *testing.T, data []byte) {
		body.Store(&data)
		b, err := vault.Creds(t.Context(), "api", "api-1")
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) && !strings.Contains(string(data), "errors") {
				t.Errorf("the error has control characters: %q", err)
			}
			return
		}
		for name := range b.Values {
			if key.ValidateEnv(name) != nil {
				t.Errorf("a value has the name %q", name)
			}
		}
		for name := range b.Accepts {
			if key.ValidateEnv(name) != nil {
				t.Errorf("a list has the name %q", name)
			}
		}
		for _, w := range b.Work {
			if strings.ContainsFunc(w.ID+w.Key+w.Env+w.Rotation, unicode.IsControl) {
				t.Errorf("work has the names %q", []string{w.ID, w.Key, w.Env, w.Rotation})
			}
		}
		if _, err := Opaque(b.Plain()); err != nil {
			t.Errorf("a copy of what was taken is refused: %v", err)
		}
	})
}
