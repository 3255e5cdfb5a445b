// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// catalog is what operators have defined: plain data, and what follows from it.
type catalog struct {
	*base
	config      Config
	floor       Floor
	keys        map[string]key.Key
	workloads   map[string]workload.Workload
	connections map[string]kind.Connection
}

func newCatalog(b *base) *catalog {
	return &catalog{
		base: b, config: DefaultConfig(), floor: DefaultFloor(),
		keys: map[string]key.Key{}, workloads: map[string]workload.Workload{}, connections: map[string]kind.Connection{},
	}
}
