// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// sortedIDs returns ids of rotations, the newest first.
func (l *locked) sortedIDs(n int) ([]string, error) {
	var ids []string
	for range n {
		id, err := l.NewID()
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids, nil
}

// settle saves a rotation that has changed, as far on as it goes now: steps that it only passes through need no record
// of their own.
func (l *locked) settle(ctx context.Context, r rotation.Rotation) error {
	f := l.facts(r)
	if next, _, changed := rotation.Further(r, f); changed {
		if thaw, ok := l.freeze(f); ok {
			defer thaw()
			return l.save(ctx, next)
		}
	}
	return l.save(ctx, r)
}

// move saves a rotation that moves on from these facts, or does nothing where they do not hold any more: then the caller
// gathers them again.
func (l *locked) move(ctx context.Context, r rotation.Rotation, f rotation.Facts) error {
	thaw, ok := l.freeze(f)
	if !ok {
		return nil
	}
	defer thaw()
	return l.save(ctx, r)
}

// save persists a rotation that has changed, swaps it in, and adds its new events to the journal. Killed between the
// record and the journal, the record tells at the next Begin what the journal lacks, so that it neither lacks nor
// repeats an event.
func (l *locked) save(ctx context.Context, r rotation.Rotation) error {
	before, had := l.active[r.ID]
	known := before.EventCount()
	r.Journaled, r.JournalSeq = known, l.journal.End().Count
	if !had {
		r.JournalFrom = r.JournalSeq
	}
	r, notes := r.Noting(before, get(l.state, func(m *memory) rotation.Notes { return m.notes[r.ID] }), l.Now())
	path := pathActive + r.ID
	if r.Finished() {
		path = pathRotations + r.ID
	}
	if err := l.put(ctx, path, r); err != nil {
		return err
	}
	l.lock(func(m *memory) {
		m.active[r.ID], m.notes[r.ID] = r, notes
		m.showing(r.ID).stored++
		for _, c := range r.Changes {
			m.rotating[c.Key] = r.ID
			m.agenda.Set(c.Key, never)
		}
	})
	l.needsRetention = true
	if !had || before.State != r.State || before.Step != r.Step || !maps.Equal(before.Stages, r.Stages) {
		l.markDirty(r.KeyNames()...)
	}
	if err := l.journalEvents(ctx, r, known); err != nil {
		return err
	}
	if r.Finished() {
		if err := l.leave(ctx, r); err != nil {
			return err
		}
		l.announceHead()
	}
	for _, event := range r.Timeline[known-r.Omitted:] {
		l.Observer.Moved(r, event)
	}
	return nil
}

// leave takes an ended rotation, whose record is under rotations/, out of active/. Before that it stores the rotation that follows.
func (l *locked) leave(ctx context.Context, r rotation.Rotation) error {
	if r.Follow != nil {
		if err := l.putFollowing(ctx, following{Schema: followingSchema, Follow: *r.Follow, Follows: r.ID, Keys: r.KeyNames()}); err != nil {
			return err
		}
		defer l.nudge()
	}
	if err := l.remove(ctx, pathActive+r.ID); err != nil {
		return err
	}
	l.lock(func(m *memory) {
		delete(m.active, r.ID)
		delete(m.observed, r.ID)
		delete(m.notes, r.ID)
		m.noteEnd(r)
		m.endShown(r.ID)
		for _, c := range r.Changes {
			delete(m.rotating, c.Key)
			delete(m.starts, c.Key)
			delete(m.progress, r.WorkID(c))
			delete(m.looks, r.WorkID(c))
		}
	})
	for _, c := range r.Changes {
		l.plan(c.Key, l.Now())
		l.checkSoon(c.Key, l.Now())
	}
	l.markDirty(r.KeyNames()...)
	return nil
}

// retryRotations makes rotations whose last try at a connection's server failed due now.
func (l *locked) retryRotations(ctx context.Context, connection string) error {
	defer l.nudge()
	l.lookNow(connection)
	for _, id := range slices.Sorted(maps.Keys(l.active)) {
		r := l.active[id]
		uses := slices.ContainsFunc(r.Changes, func(c rotation.Change) bool { return l.Keys[c.Key].Options[kind.OptionConnection] == connection })
		if !uses || r.Fault == "" || l.busy[id] {
			continue
		}
		if err := l.save(ctx, r.Retried(l.Now())); err != nil {
			return err
		}
	}
	return nil
}

// lookNow makes looks by a connection that have failed due now: somebody has mended it.
func (l *locked) lookNow(connection string) {
	for _, r := range l.active {
		for _, c := range r.Changes {
			if l.Keys[c.Key].Witness == connection {
				l.lock(func(m *memory) {
					if look, ok := m.looks[r.WorkID(c)]; ok && !look.Running {
						look.RetryAt, look.Attempts = l.Now(), 1
						m.looks[r.WorkID(c)] = look
					}
				})
			}
		}
	}
}

// putKey persists a key, after its values are known to identify, and its tripwires are armed: killed in between, one more is known
// than there is.
func (l *locked) putKey(ctx context.Context, k key.Key) error {
	if err := l.issued.Add(ctx, l.WithoutOrders(k)); err != nil {
		return err
	}
	if err := l.armTripwires(ctx, k); err != nil {
		return err
	}
	return l.put(ctx, pathKeys+k.Name, k)
}

// swapKey persists a key and swaps it in.
func (l *locked) swapKey(ctx context.Context, k key.Key) error {
	if err := l.putKey(ctx, k); err != nil {
		return err
	}
	l.lock(func(m *memory) {
		m.Keys[k.Name] = k
		delete(m.starts, k.Name)
	})
	l.plan(k.Name, l.Now())
	l.checkSoon(k.Name, l.Now())
	l.retryFollowing(k.Name)
	l.markDirty(k.Name)
	return nil
}

// storeVersion journals what is done to a version, and stores its key.
func (l *locked) storeVersion(ctx context.Context, k key.Key, v key.Version, what string, by rotation.Actor, reason string, changes ...rotation.EntryChange) error {
	err := l.journal.Add(ctx, journal.Entry{
		What: what, By: by.Name, Entity: by.Entity, Reason: reason, Changes: changes,
		Keys: []journal.Key{{Key: k.Name, To: v.Number, Fingerprint: v.Fingerprint}},
	})
	if err != nil {
		return err
	}
	if err := l.putKey(ctx, k); err != nil {
		return err
	}
	l.lock(func(m *memory) { m.Keys[k.Name] = k })
	l.planLapse(k.Name)
	l.markDirty(k.Name)
	return nil
}

// eraseVersion erases a retained value. The entry is written before, so that no value goes without one: killed in between,
// it is erased, and journaled, once more.
func (l *locked) eraseVersion(ctx context.Context, k key.Key, v key.Version, what string, by rotation.Actor, reason string) error {
	changed, err := k.WithErased(v.Number)
	if err != nil {
		return err
	}
	return l.storeVersion(ctx, changed, v, what, by, reason)
}
