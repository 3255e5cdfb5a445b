// SPDX-License-Identifier: Apache-2.0

package http_test

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/http"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest"
)

func TestContract(t *testing.T) {
	kindtest.Run(t, func(t testing.TB) kindtest.World {
		p := newProvider(t)
		p.add("of somebody else")
		return kindtest.World{
			Kind:        http.Kind{},
			Key:         key.Key{Name: "deploy-token", Env: "DEPLOY_TOKEN", Options: parameters},
			Connection:  p.connection(),
			Valid:       func(_ testing.TB, v key.Value) bool { return p.valid(v.Reveal()) },
			Credentials: func(testing.TB) []string { return p.ids() },
			Stop:        p.stop,
			Start:       p.start,
			Freeze:      p.freeze,
		}
	})
}
