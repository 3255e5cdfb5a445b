// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Bounds of what a refused write leaves in the journal. Nobody can push older entries out by writing what is refused.
const (
	mostChanges   = 32
	mostName      = 100 // bytes
	mostReason    = 500 // bytes
	sameRefusal   = 10 * time.Minute
	refusalsSpan  = time.Hour
	mostRefusals  = 20  // of one caller in a span
	mostTogether  = 200 // of all callers in a span
	mostCallers   = 1000
	mostDifferent = 500
)

// refusals counts refused writes, so that few of many are journaled.
type refusals struct {
	mu      sync.Mutex
	begun   time.Duration
	last    map[string]time.Duration // when a refusal was journaled, by what it was
	callers map[string]int           // entries in this span, by caller
	entries int                      // in this span
}

// admit reports whether a refusal is journaled now. full reports that it is the last of its caller for some time.
func (r *refusals) admit(now time.Duration, caller, what string) (ok, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || now-r.begun >= refusalsSpan {
		r.begun, r.last, r.callers, r.entries = now, map[string]time.Duration{}, map[string]int{}, 0
	}
	at, seen := r.last[what]
	_, known := r.callers[caller]
	switch {
	case seen && now-at < sameRefusal,
		r.callers[caller] >= mostRefusals, r.entries >= mostTogether,
		!known && len(r.callers) >= mostCallers, !seen && len(r.last) >= mostDifferent:
		return false, false
	}
	r.last[what] = now
	r.callers[caller]++
	r.entries++
	return true, r.callers[caller] == mostRefusals || r.entries == mostTogether
}

// JournalAttempt adds an entry on a write that came to nothing: err says whether it was refused, or has failed and may have
// taken effect or not. The same attempt is journaled once in ten minutes, and at most 20 of a caller in an hour.
func (e *Engine) JournalAttempt(ctx context.Context, err error, n journal.Entry) {
	var refused *rotation.Refused
	if errors.As(err, &refused) {
		n.What += " was refused"
		n.Refused = kind.CutText(refused.Error(), mostReason)
	} else {
		n.What += " failed"
		n.Failed = kind.CutText(err.Error(), mostReason)
	}
	n.Connection, n.Reason = kind.CutText(n.Connection, mostName), kind.CutText(n.Reason, mostReason)
	n.Workload, n.Rotation = kind.CutText(n.Workload, mostName), kind.CutText(n.Rotation, mostName)
	n.What = kind.CutText(n.What, mostReason)
	n.Changes = n.Changes[:min(len(n.Changes), mostChanges)]
	n.Keys = n.Keys[:min(len(n.Keys), mostChanges)]
	for i := range n.Keys {
		n.Keys[i].Key = kind.CutText(n.Keys[i].Key, mostName)
	}
	subject := fmt.Sprint(n.What, n.Entity, n.By, n.Connection, n.Workload, n.Rotation, n.Keys, n.Changes, n.Refused, n.Failed)
	ok, full := e.refusals.admit(e.Uptime(), n.Entity+"/"+n.By, subject)
	if !ok {
		return
	}
	if full {
		n.What += fmt.Sprintf(" (more attempts of this caller are not journaled until at most %s from now)", refusalsSpan)
	}
	l, release := e.acquire()
	defer release()
	if err := l.journal.Add(ctx, n); err != nil {
		e.Observer.Fault("a refused write could not be journaled", err)
	}
}

// underWay is the refusal of what cannot be done while a key is being rotated.
func (l *locked) underWay(name string, r rotation.Rotation) error {
	return rotation.Refusef("key %s is being rotated by %s (%s); %s", name, r.ID, r.State, l.endHint(r))
}

// endHint says how a rotation ends that is in the way, and what it waits for.
func (l *locked) endHint(r rotation.Rotation) string {
	hint := "wait until it has ended, or revert it with: vault write -f hyvve/rotations/" + r.ID + "/revert"
	if !r.Revertible() {
		hint = "wait until it has ended: it cannot be reverted"
		if r.State == rotation.Retiring {
			hint += " any more"
		}
	}
	results, _ := rotation.Gates(r, l.facts(r))
	if text := rotation.Waits(results); text != "" {
		hint += "; it waits for: " + text
	}
	return hint
}
