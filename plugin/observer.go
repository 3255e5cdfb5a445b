// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// observer logs what the engine does, and sends events where the edition of Vault has them. Events wait for nobody: Vault
// is asked beside the engine's work, and when it does not keep up they are dropped, which is logged. The journal has all.
type observer struct {
	b      *backend
	events chan event
	ended  *sync.Once
	done   chan struct{}
}

type event struct{ rotation, state, step string }

var _ engine.Observer = observer{}

// pending is how many events may wait.
const pending = 256

func newObserver(b *backend) observer {
	o := observer{b: b, events: make(chan event, pending), ended: &sync.Once{}, done: make(chan struct{})}
	go o.send()
	return o
}

func (o observer) close() { o.ended.Do(func() { close(o.done) }) }

func (o observer) send() {
	for {
		select {
		case <-o.done:
			return
		case e := <-o.events:
			err := logical.SendEvent(context.Background(), o.b, "hyvve/rotation",
				"rotation", e.rotation, "state", e.state, "step", e.step, "modified", "true")
			if err != nil && !errors.Is(err, framework.ErrNoEvents) {
				o.b.Logger().Warn("event not sent", "rotation", e.rotation, "error", err)
			}
		}
	}
}

// Moved implements rotation.Observer.
func (o observer) Moved(r rotation.Rotation, e rotation.Event) {
	o.b.Logger().Info("rotation moved", "rotation", r.ID, "keys", r.KeyNames(), "state", e.State, "step", e.Step, "text", e.Text, "reason", e.Reason)
	select {
	case o.events <- event{r.ID, string(e.State), string(e.Step)}:
	default:
		o.b.Logger().Warn("event dropped: Vault does not keep up", "rotation", r.ID)
	}
}

// Journal implements rotation.Observer. A copy of the log elsewhere can be compared with hyvve/journal/verify later.
func (o observer) Journal(h journal.Head) {
	o.b.Logger().Info("journal head", "count", h.Count, "head", h.Hash)
}

// Fault implements rotation.Observer.
func (o observer) Fault(what string, err error) {
	o.b.Logger().Error("engine fault", "what", what, "error", err)
}
