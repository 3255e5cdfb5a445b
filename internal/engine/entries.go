// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// tellEvery is how often the observer gets the head of a journal that has grown, in addition to the end of each rotation.
const tellEvery = 10 * time.Minute

// announceHead tells the observer where the journal ends.
func (l *locked) announceHead() {
	if h := l.journal.End(); l.announced != h.Count {
		l.announced, l.announceAt = h.Count, l.Uptime()+tellEvery
		l.Observer.Journal(h)
	}
}

// journalDamage journals what was found wrong with the journal.
func (l *locked) journalDamage(ctx context.Context) error {
	damage, err := l.journal.Begin(ctx)
	if err != nil {
		return err
	}
	for _, text := range damage {
		l.Observer.Fault("the journal was changed behind the engine's back", errors.New(text))
		if err := l.journal.Add(ctx, journal.Entry{What: "the journal was found damaged: " + text, By: rotation.Itself.Name}); err != nil {
			return err
		}
	}
	return nil
}

// fieldReceipt is the field of the entry on a rotation's end that has the digest of the rotation's receipt.
const fieldReceipt = "receipt_sha256"

// eventEntry is the entry of the nth event of a rotation.
func (l *locked) eventEntry(r rotation.Rotation, n int) journal.Entry {
	event := r.Timeline[n-r.Omitted]
	entry := journal.Entry{
		At: event.At, What: event.Text, By: event.By, Entity: event.Entity, Reason: event.Reason,
		Rotation: r.ID, Event: n + 1, State: event.State, Step: event.Step,
	}
	if entry.By == "" {
		entry.By, entry.Entity = r.By, r.Entity
	}
	if entry.Reason == "" {
		entry.Reason = r.Reason
	}
	entry.Changes = event.Changes
	if n == 0 {
		entry.Changes = r.Asked
	}
	if r.Finished() && n == r.EventCount()-1 { // so that nobody changes the receipt unseen
		sum, _ := r.Receipt.Digest()
		entry.Changes = append(slices.Clone(entry.Changes), rotation.EntryChange{Field: fieldReceipt, To: sum})
	}
	for _, c := range r.Changes {
		v, _ := l.Keys[c.Key].Version(c.To)
		entry.Keys = append(entry.Keys, journal.Key{Key: c.Key, From: c.From, To: c.To, Fingerprint: v.Fingerprint})
	}
	return entry
}

// journalEvents adds the events of a stored rotation from the nth on.
func (l *locked) journalEvents(ctx context.Context, r rotation.Rotation, n int) error {
	if n >= r.EventCount() {
		return nil
	}
	for ; n < r.EventCount(); n++ {
		if err := l.journal.Append(ctx, l.eventEntry(r, n)); err != nil {
			return err
		}
	}
	return l.journal.SaveHead(ctx)
}

// journaled finds which events of a rotation beyond those that its record knows of are in the journal: killed between
// the record and the journal, an event lacks there.
func (l *locked) journaled(ctx context.Context, r rotation.Rotation) (int, error) {
	known := r.Journaled
	for seq := r.JournalSeq + 1; seq <= l.journal.End().Count && known < r.EventCount(); seq++ {
		entry, ok, err := l.journal.Entry(ctx, journal.ID(seq))
		if err != nil {
			return 0, err
		}
		if ok && entry.Rotation == r.ID {
			known = max(known, entry.Event)
		}
	}
	return known, nil
}

// JournalAttempt adds an entry on a write that came to nothing: err says whether it was refused, or has failed and may have
// taken effect or not. The same attempt is journaled once in ten minutes, and at most 20 of a caller in an hour.
func (e *Engine) JournalAttempt(ctx context.Context, err error, n journal.Entry) {
	var refused *rotation.Refused
	if errors.As(err, &refused) {
		n.What += " was refused"
		n.Refused = kind.CutText(refused.Error(), maxReason)
	} else {
		n.What += " failed"
		n.Failed = kind.CutText(err.Error(), maxReason)
	}
	n.Connection, n.Reason = kind.CutText(n.Connection, maxName), kind.CutText(n.Reason, maxReason)
	n.Workload, n.Rotation = kind.CutText(n.Workload, maxName), kind.CutText(n.Rotation, maxName)
	n.What = kind.CutText(n.What, maxReason)
	n.Changes = n.Changes[:min(len(n.Changes), maxChanges)]
	n.Keys = n.Keys[:min(len(n.Keys), maxChanges)]
	for i := range n.Keys {
		n.Keys[i].Key = kind.CutText(n.Keys[i].Key, maxName)
	}
	subject := fmt.Sprint(n.What, n.Entity, n.By, n.Connection, n.Workload, n.Rotation, n.Keys, n.Changes, n.Refused, n.Failed)
	ok, full := e.refusals.admit(e.Uptime(), n.Entity+"/"+n.By, subject)
	if !ok {
		return
	}
	if full {
		n.What += fmt.Sprintf(" (more attempts of this caller are not journaled until at most %s from now)", duration.Text(refusalsSpan))
	}
	l, release := e.acquire()
	defer release()
	if err := l.journal.Add(ctx, n); err != nil {
		e.Observer.Fault("a refused write could not be journaled", err)
	}
}
