// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// CheckChange refuses what the key's kind knows to be impossible.
func (cat *Catalog) CheckChange(k key.Key, from, to key.Version) error {
	checker, ok := cat.KindOf(k).(kind.ChangeChecker)
	if !ok {
		return nil
	}
	connection, err := cat.ConnectionOf(k)
	if err != nil {
		return rotation.Refusef("%w", err)
	}
	if err := checker.CheckChange(kind.Change{Key: k, From: from, To: to, Connection: connection}); err != nil {
		return rotation.Refusef("key %s: %w; nothing was changed", k.Name, err)
	}
	return nil
}

// CheckParticipants refuses a rotation that nobody would carry out.
func (cat *Catalog) CheckParticipants(k key.Key) error {
	used, reencrypts := false, false
	for _, w := range cat.Workloads {
		role, ok := w.Keys[k.Name]
		used = used || ok
		reencrypts = reencrypts || w.Reencrypts && role.AcceptsBoth()
	}
	if !used {
		return rotation.Refusef("no workload uses key %s, so that nobody would take up a new version; add it to a workload with hyvve/workloads/:name", k.Name)
	}
	if len(k.Protects) > 0 && !reencrypts {
		return rotation.Refusef("key %s protects rows, and no workload that verifies it has reencrypts=true, so that nobody would re-encrypt them; set it on one that reaches the database", k.Name)
	}
	return nil
}

// CheckUpgrade refuses one where there is nothing to upgrade, or where it is not said to which key.
func (cat *Catalog) CheckUpgrade(r rotation.Rotation) error {
	if !r.Upgrade {
		return nil
	}
	c := r.Changes[0]
	for _, other := range cat.Keys {
		if other.Name != c.Key && slices.ContainsFunc(other.Protects, func(o key.Column) bool { return sharesColumn(o, c.Protects) }) {
			if len(r.Changes) > 1 {
				return rotation.Refusef("upgrade is for one key, and %d are named; rotate %s alone", len(r.Changes), c.Key)
			}
			return nil
		}
	}
	return rotation.Refusef("upgrade: no other key has rows in the columns that key %s protects; leave it out", c.Key)
}

// CheckNext refuses a value, to be imported, from which no rotation could go on: that of the administrator, say.
func (cat *Catalog) CheckNext(k key.Key, v key.Version) error {
	checker, checks := cat.KindOf(k).(kind.ChangeChecker)
	if _, makes := cat.KindOf(k).(kind.Generator); !checks || !makes {
		return nil
	}
	change, err := cat.NextChange(k, v)
	if err != nil {
		return err
	}
	if err := checker.CheckChange(change); err != nil {
		return rotation.Refusef("key %s: value: no rotation could follow it: %w; nothing was stored", k.Name, err)
	}
	return nil
}

// NextChange drafts the rotation that could follow a value which is to be imported. The key's kind is a Generator.
func (cat *Catalog) NextChange(k key.Key, v key.Version) (kind.Change, error) {
	connection, err := cat.ConnectionOf(k)
	if err != nil {
		return kind.Change{}, rotation.Refusef("key %s: %w", k.Name, err)
	}
	next, err := cat.Generate(k, v.Value)
	if err != nil {
		return kind.Change{}, err
	}
	v.State = key.Current
	k.Versions = []key.Version{v}
	return kind.Change{Key: k, From: v, To: key.Version{Number: v.Number + 1, Value: next, State: key.Staged}, Connection: connection}, nil
}

// Sampled reports whether a server can be asked who uses a rotation's old versions, and whether all such servers can be
// sampled densely.
func (cat *Catalog) Sampled(r rotation.Rotation) (sampled, dense bool) {
	dense = true
	for _, c := range r.Changes {
		server, ok := cat.KindOf(cat.Keys[c.Key]).(kind.Server)
		_, sampler := server.(kind.Sampler)
		sampled, dense = sampled || ok, dense && (!ok || sampler)
	}
	return sampled, sampled && dense
}

// NotBy returns the entity that must not confirm a rotation: that of the user who started it, or, where it starts by itself,
// of the user who last said when it does.
func (cat *Catalog) NotBy(r rotation.Rotation) string {
	switch {
	case r.ConfirmBy != rotation.ConfirmByOther:
		return ""
	case !r.Trigger.Automatic():
		return r.Entity
	}
	return cat.Keys[r.Changes[0].Key].PolicyBy // one that starts by itself has one key
}

// OtherValues are those under which rows in the columns of a change are not lost: of further keys that have rows of their own
// there and, of a revert, of the key's undeleted versions. Otherwise the rotation retires these, too, and a row under one of
// them would be lost.
func (cat *Catalog) OtherValues(r rotation.Rotation, change rotation.Change) (all []kind.RowValue) {
	for _, other := range cat.Keys {
		var layouts []key.Layout
		for _, c := range other.Protects {
			if sharesColumn(c, change.Protects) && !slices.Contains(layouts, c.Layout) {
				layouts = append(layouts, c.Layout)
			}
		}
		for _, v := range other.Versions {
			stays := other.Name != change.Key || v.State == key.Undeleted && r.State == rotation.Reverting
			if !v.State.Live() || !stays {
				continue
			}
			for _, layout := range layouts {
				all = append(all, kind.RowValue{Layout: layout, Value: v.Value})
			}
		}
	}
	return all
}

// WorkOf is what the rotation of a key asks of an instance.
func (cat *Catalog) WorkOf(r rotation.Rotation, keyName string, w workload.Workload, role workload.Role, i workload.Instance) (workload.Work, bool) {
	change, ok := r.Change(keyName)
	if !ok || !w.Reencrypts || !role.AcceptsBoth() || i.Anonymous {
		return workload.Work{}, false
	}
	task, ok := r.WorkFor(change)
	if !ok {
		return workload.Work{}, false
	}
	for _, other := range cat.Keys {
		if other.Name == keyName {
			continue
		}
		for _, c := range other.Protects {
			if o := (workload.Other{Env: other.Env, Layout: c.Layout}); sharesColumn(c, change.Protects) && !slices.Contains(task.Others, o) {
				task.Others = append(task.Others, o)
			}
		}
	}
	slices.SortFunc(task.Others, func(a, b workload.Other) int { return strings.Compare(a.Env, b.Env) })
	return task, true
}

// CountID names the count of a key's rows: another version, other columns or other rows of them are to be counted anew.
func CountID(k key.Key, version int) string {
	columns := fnv.New64a()
	for _, c := range k.Protects {
		columns.Write([]byte(c.Protected() + "\n"))
	}
	return fmt.Sprintf("%s%s/%d/%x", workload.CountPrefix, k.Name, version, columns.Sum64())
}

func sharesColumn(c key.Column, columns []key.Column) bool {
	return slices.ContainsFunc(columns, func(o key.Column) bool { return o.String() == c.String() })
}

// WithoutOrphans aborts staged versions that no rotation knows: a crash left them before anybody was told.
func WithoutOrphans(k key.Key) key.Key {
	current, _ := k.Current()
	for _, v := range k.Versions {
		if v.State != key.Staged {
			continue
		}
		if aborted, err := k.Reverted(current.Number, v.Number); err == nil {
			k = aborted
		}
	}
	return k
}
