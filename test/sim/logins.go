// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// newToken is a login that nobody has had. Those of a workload are mostly of one entity, as pods of a service account are.
func (w *world) newToken(workload string) fleet.Token {
	w.tokens++
	id := fmt.Sprintf("t%d", w.tokens)
	entity := "e-" + workload
	if w.chance(10) {
		entity = "e-" + id
	}
	return fleet.Token{ID: id, Accessor: "a-" + id, Entity: entity, Name: id}
}

// inherit lets a process that takes the name of one that has died have what it may of it: the secret, as where it was kept
// on a disk; the token, as where that is in a file; or nothing, as in a new pod.
func (p *process) inherit(old *process) {
	switch p.w.rng.IntN(3) {
	case 0:
		if old.extends && old.reading != nil {
			p.extends, p.secret = true, old.reading.Secret
		}
	case 1:
		p.token = old.token
	}
}

// proof is what a process shows when it reads. Sidecars of earlier releases show nothing.
func (p *process) proof() key.Value {
	switch {
	case !p.extends:
		return key.Value{}
	case p.reading != nil:
		return p.reading.Secret
	}
	return p.secret
}

// relogin logs a process in again. It reads its bundle then, and does nothing else until it was let.
func (p *process) relogin() {
	if p.liar { // two logins would be two witnesses
		return
	}
	p.token, p.stale = p.w.newToken(p.workload), true
	if p.agent != nil {
		p.agent.revoked = true
	}
	p.w.logf("%s logs in again, as %s", p.name(), p.token.Name)
}

// spoke notes that a request of the process, as itself, has come to the engine.
func (p *process) spoke() { p.spokeAt = p.w.uptime }

// impostor reads under the name of an instance that lives and was heard of. It must not be let, and do no harm.
func (w *world) impostor(p *process) {
	i, ok := w.engine.Instance(p.workload, p.id)
	if !ok || p.id == "" || p.stale || i.Login.Name != p.token.Name || p.spokeAt == 0 {
		return
	}
	silent := w.uptime - p.spokeAt
	if silent >= w.engine.Config().TakeoverAfter-time.Second || i.Lease <= 0 || i.FreeIn == 0 {
		return
	}
	token := w.newToken(p.workload)
	_, err := w.engine.Read(ctx, fleet.Reader{Workload: p.workload, Instance: p.id, Token: token, Heartbeat: true}, time.Hour)
	if err == nil && !w.node.dead {
		w.violate("%s took over %s, which was heard of %s ago", token.Name, p.name(), silent)
		return
	}
	w.logf("an impostor of %s: %v", p.name(), err)
}

// cleanUp removes an instance that has ended, as an operator does who knows it.
func (w *world) cleanUp() {
	for _, p := range w.procs {
		if p.alive || p.id == "" || w.livesAs(p.workload, p.id) {
			continue
		}
		if _, ok := w.engine.Instance(p.workload, p.id); ok {
			w.said(w.engine.RemoveInstance(ctx, p.workload, p.id, operator), "removal of "+p.name())
			return
		}
	}
}
