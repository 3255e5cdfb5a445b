// SPDX-License-Identifier: Apache-2.0

// Package kinds is the list of kinds there are: a new kind is one line here.
package kinds

import (
	"crypto/rand"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/http"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/postgres"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/redis"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
)

// All returns every kind.
func All() kind.List {
	return kind.List{
		external.Kind{},
		http.Kind{},
		postgres.New(rand.Reader),
		redis.New(),
		token.Kind{},
	}
}
