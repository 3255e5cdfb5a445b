// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// parting returns the keys that leave a rotation because of a fault, and may: those of the same connection, and those that share a
// login with one of them. None: nobody would gain by it, or it is the first fault.
func (l *locked) parting(r rotation.Rotation, what rotation.Action, fault error, again bool) []string {
	var f keyFault
	if !r.Parts(what) || !errors.As(fault, &f) || errors.As(fault, new(inUse)) || !f.slow && !again {
		return nil
	}
	connection := l.Keys[f.key].Options[kind.OptionConnection]
	leaves := map[string]bool{f.key: true}
	for _, c := range r.Changes {
		if connection != "" && l.Keys[c.Key].Options[kind.OptionConnection] == connection {
			leaves[c.Key] = true
		}
	}
	for next := slices.Sorted(maps.Keys(leaves)); len(next) > 0; next = next[1:] {
		for _, v := range l.Keys[next[0]].Versions {
			for _, with := range l.Sharers(l.Keys[next[0]], v.Value) {
				if _, ours := r.Change(with.Key); ours && !leaves[with.Key] {
					leaves[with.Key] = true
					next = append(next, with.Key)
				}
			}
		}
	}
	protects := func(c rotation.Change) bool { return leaves[c.Key] && len(c.Protects) > 0 } // whose rows are worked on under this id
	if len(leaves) == len(r.Changes) || slices.ContainsFunc(r.Changes, protects) {
		return nil
	}
	return slices.Sorted(maps.Keys(leaves))
}

// part lets keys continue in a rotation of their own, of which it returns the id. Killed between the records, catchUp does the rest.
func (l *locked) part(ctx context.Context, r rotation.Rotation, what rotation.Action, names []string, fault error) (string, error) {
	ids, err := l.sortedIDs(2)
	if err != nil {
		return "", err
	}
	why := untrusted.Reason(fault.Error())
	_, parted := rotation.Part(r, names, ids[0], ids[1], why, l.Now())
	for _, c := range parted.Changes {
		l.checkSoon(c.Key, l.Now())
	}
	if what != rotation.ActSample {
		parted.Fault, parted.Attempts = why, r.Attempts+1
		parted.RetryAt = l.Now().Add(retryAfter(parted.Attempts, fault))
	}
	if err := l.save(ctx, parted); err != nil {
		return "", err
	}
	return parted.ID, l.takeOver(ctx, parted, why)
}

// takeOver lets a rotation have its keys for itself that was part of another.
func (l *locked) takeOver(ctx context.Context, parted rotation.Rotation, why string) error {
	whole, ok := l.active[parted.PartOf]
	if !ok || !slices.ContainsFunc(whole.KeyNames(), func(name string) bool { return slices.Contains(parted.KeyNames(), name) }) {
		return nil
	}
	for _, c := range parted.Changes {
		k, changed := l.Keys[c.Key].WithRotation(c.To, parted.ID)
		if !changed {
			continue
		}
		if err := l.putKey(ctx, k); err != nil {
			return err
		}
		l.lock(func(m *memory) { m.Keys[k.Name] = k })
	}
	left, _ := rotation.Part(whole, parted.KeyNames(), parted.ID, "", why, l.Now())
	return l.save(ctx, left)
}

// takeOvers does what a crash has interrupted of part.
func (l *locked) takeOvers(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(l.active)) {
		if err := l.takeOver(ctx, l.active[id], cmp.Or(l.active[id].Fault, "its server has failed")); err != nil {
			return err
		}
	}
	return nil
}
