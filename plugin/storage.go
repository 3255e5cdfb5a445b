// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// store is Vault's storage as the engine sees it.
type store struct{ storage logical.Storage }

var _ rotation.Store = store{}

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
	for _, prefix := range rotation.SealWrapped() {
		if len(path) > len(prefix) && path[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// observer logs what the engine does and sends events, where the edition of Vault has them.
type observer struct{ b *backend }

var _ rotation.Observer = observer{}

func (o observer) Moved(r rotation.Rotation, e rotation.Event) {
	o.b.Logger().Info("rotation moved", "rotation", r.ID, "keys", r.KeyNames(), "state", e.State, "step", e.Step, "text", e.Text)
	err := logical.SendEvent(context.Background(), o.b, "hyvve/rotation",
		"rotation", r.ID, "state", string(e.State), "step", string(e.Step), "modified", "true")
	if err != nil && !errors.Is(err, framework.ErrNoEvents) {
		o.b.Logger().Warn("event not sent", "rotation", r.ID, "error", err)
	}
}

func (o observer) Fault(what string, err error) {
	o.b.Logger().Error("engine fault", "what", what, "error", err)
}
