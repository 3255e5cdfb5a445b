// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
)

// store is Vault's storage as the engine sees it.
type store struct{ storage logical.Storage }

var _ engine.Store = store{}

func (s store) Get(ctx context.Context, path string) ([]byte, error) {
	entry, err := s.storage.Get(ctx, path)
	if err != nil || entry == nil {
		return nil, err
	}
	return entry.Value, nil
}

func (s store) Put(ctx context.Context, path string, data []byte) error {
	return s.storage.Put(ctx, &logical.StorageEntry{Key: path, Value: data, SealWrap: sealWrapped(path)})
}

func (s store) Delete(ctx context.Context, path string) error { return s.storage.Delete(ctx, path) }

func (s store) List(ctx context.Context, prefix string) ([]string, error) {
	return s.storage.List(ctx, prefix)
}

func sealWrapped(path string) bool {
	for _, prefix := range engine.SealWrapped() {
		if len(path) > len(prefix) && path[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}
