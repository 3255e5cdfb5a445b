// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (l *locked) loadFollowing(ctx context.Context) error {
	return l.each(ctx, pathFollowing, func(data []byte) error {
		n, err := decodeFollowing(data)
		l.following[n.ID] = n
		return err
	})
}

// putFollowing stores a rotation that follows.
func (l *locked) putFollowing(ctx context.Context, n following) error {
	if err := l.put(ctx, pathFollowing+n.ID, n); err != nil {
		return err
	}
	l.lock(func(m *memory) { m.following[n.ID] = n })
	return nil
}

// dropFollowing forgets a rotation that follows: it was started, or is not needed any more.
func (l *locked) dropFollowing(ctx context.Context, id string) error {
	if err := l.remove(ctx, pathFollowing+id); err != nil {
		return err
	}
	l.lock(func(m *memory) { delete(m.following, id) })
	return nil
}

// replaced takes keys out of a rotation that follows, since it is not needed for them any more.
func (l *locked) replaced(ctx context.Context, n following, names []string, why string) error {
	left := slices.DeleteFunc(slices.Clone(n.Keys), func(name string) bool { return slices.Contains(names, name) })
	if len(left) == len(n.Keys) {
		return nil
	}
	entry := journal.Entry{By: n.By, Entity: n.Entity, Rotation: n.ID}
	for _, name := range n.Keys {
		if !slices.Contains(left, name) {
			entry.Keys = append(entry.Keys, journal.Key{Key: name})
		}
	}
	entry.Rotation, entry.What = "", fmt.Sprintf("rotation %s, which was to follow %s, is not started for the key: %s", n.ID, n.Follows, why)
	if err := l.journal.Add(ctx, entry); err != nil {
		return err
	}
	if len(left) == 0 {
		return l.dropFollowing(ctx, n.ID)
	}
	n.Keys, n.fault = left, schedule.Fault{}
	return l.putFollowing(ctx, n)
}

// started forgets intents that a rotation fulfils: its own, and those of the same keys.
func (l *locked) started(ctx context.Context, r rotation.Rotation) error {
	for _, id := range slices.Sorted(maps.Keys(l.following)) {
		n := l.following[id]
		err := error(nil)
		if id == r.ID {
			err = l.dropFollowing(ctx, id)
		} else {
			err = l.replaced(ctx, n, r.KeyNames(), "rotation "+r.ID+" replaces the version")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// retryFollowing makes rotations that follow and could not start due now: something of a key was changed.
func (l *locked) retryFollowing(name string) {
	for id, n := range l.following {
		if slices.Contains(n.Keys, name) && n.fault.Attempts > 0 {
			n.fault.Next = l.Now()
			l.lock(func(m *memory) { m.following[id] = n })
		}
	}
}

// unstarted says of a rotation that is to follow another why it is not there yet; empty: there is no such rotation.
func (rs *records) unstarted(id string) string {
	if n, ok := rs.following[id]; ok {
		return fmt.Sprintf("rotation %s, which follows %s, has not started yet%s", id, n.Follows, n.faultText())
	}
	for _, r := range rs.active {
		if r.Follow != nil && r.Follow.ID == id {
			return fmt.Sprintf("rotation %s starts when rotation %s has ended, which is %s; look at that one with: vault read hyvve/rotations/%s", id, r.ID, strings.TrimSpace(string(r.State)+" "+string(r.Step)), r.ID)
		}
	}
	return ""
}

// followsKey returns the rotation that is to follow, of a key.
func (rs *records) followsKey(name string) (following, bool) {
	for _, id := range slices.Sorted(maps.Keys(rs.following)) {
		if slices.Contains(rs.following[id].Keys, name) {
			return rs.following[id], true
		}
	}
	return following{}, false
}
