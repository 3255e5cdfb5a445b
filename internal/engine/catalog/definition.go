// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Definition is what an operator writes of a key.
type Definition struct {
	Name          string
	Env           string // empty: made from the name
	Kind          string
	Options       kind.Options
	Protects      []key.Column
	IgnoreColumns []string // columns, as key.Column.String writes them
	Witness       string   // of rows: a connection, or WitnessNone
	Policy        key.Policy
}

// Check returns the key of a definition, without versions.
func (b *Base) Check(d Definition) (key.Key, error) {
	if err := key.ValidateName("key", d.Name); err != nil {
		return key.Key{}, rotation.Refusef("%w", err)
	}
	if d.Env == "" {
		d.Env = key.EnvFor(d.Name)
	}
	if err := key.ValidateEnv(d.Env); err != nil {
		return key.Key{}, rotation.Refusef("%w", err)
	}
	kd, err := b.Kinds.Get(d.Kind)
	if err != nil {
		return key.Key{}, rotation.Refusef("%w", err)
	}
	options, err := kd.Normalize(d.Options)
	if err != nil {
		return key.Key{}, rotation.Refusef("key %s: %w", d.Name, err)
	}
	for _, c := range d.Protects {
		if err := c.Validate(); err != nil {
			return key.Key{}, rotation.Refusef("key %s: %w", d.Name, err)
		}
	}
	var ignored []string // the definition's may be those of the stored key, which others read
	for _, text := range d.IgnoreColumns {
		c, err := key.ParseColumn(text)
		if err != nil {
			return key.Key{}, rotation.Refusef("key %s: ignore_columns: %w", d.Name, err)
		}
		ignored = append(ignored, c.String())
	}
	if err := CheckPolicy(d.Policy, b.Now()); err != nil {
		return key.Key{}, rotation.Refusef("key %s: %w", d.Name, err)
	}
	if _, ok := kd.(kind.Generator); !ok && (d.Policy.Period > 0 || d.Policy.Schedule != "") {
		return key.Key{}, rotation.Refusef("key %s: values of kind %s come from elsewhere, so that it cannot rotate by itself; leave out rotation_period and rotation_schedule", d.Name, d.Kind)
	}
	return key.Key{
		Name: d.Name, Env: d.Env, Kind: d.Kind, Options: options, Protects: d.Protects, IgnoreColumns: ignored, Witness: d.Witness, Policy: d.Policy,
		Created: b.Now().UTC(), Mount: b.Fingerprints.MountID(),
	}, nil
}

// CheckPolicy refuses a policy that no key can have.
func CheckPolicy(p key.Policy, now time.Time) error {
	switch {
	case p.Soak < 0 && p.Soak != key.Inherit:
		return fmt.Errorf("soak %s is negative; use 0s for no soak time", duration.Text(p.Soak))
	case p.Observe < 0 && p.Observe != key.Inherit:
		return fmt.Errorf("observe %s is negative; use 0s to look at servers for the soak time only", duration.Text(p.Observe))
	case p.Retain < 0 && p.Retain != key.Inherit:
		return fmt.Errorf("retain %s is negative; use 0s to erase the values of retired versions at once", duration.Text(p.Retain))
	case p.Deadline < 0 && p.Deadline != key.Inherit:
		return fmt.Errorf("deadline %s is negative; use 0s for none", duration.Text(p.Deadline))
	case p.OnFailure != "" && p.OnFailure != rotation.FailurePause && p.OnFailure != rotation.FailureRevert:
		return fmt.Errorf("on_failure %s is not known; use pause or revert", kind.Quote(p.OnFailure))
	case p.Confirm != "" && p.Confirm != rotation.ConfirmAuto && p.Confirm != rotation.ConfirmManual:
		return fmt.Errorf("confirm %s is not known; use auto or manual", kind.Quote(p.Confirm))
	case p.ConfirmBy != "" && p.ConfirmBy != rotation.ConfirmByAny && p.ConfirmBy != rotation.ConfirmByOther:
		return fmt.Errorf("confirm_by %s is not known; use any or other, or \"\" for that of hyvve/config", kind.Quote(p.ConfirmBy))
	case p.ConfirmBy == rotation.ConfirmByOther && p.Confirm == rotation.ConfirmAuto:
		return errors.New("confirm_by=other asks for another user's confirmation, and confirm=auto for none; write confirm=manual, or confirm_by=any")
	}
	return schedule.Check(p, now)
}

// CheckValue is Check of a kind. A newline at the end of a value is named as the cause, and what else is wrong beside it. Where a
// value has several lines it is not: a PEM ends with one.
func CheckValue(k kind.Kind, options kind.Options, value key.Value) (warnings []string, err error) {
	warnings, err = k.Check(options, value)
	line := strings.TrimRight(value.Reveal(), "\r\n")
	if err == nil || !strings.HasSuffix(value.Reveal(), "\n") || strings.Contains(line, "\n") {
		return warnings, err
	}
	const newline = "value ends with a newline, as echo, openssl and files add one; take it off, as in: … | tr -d '\\n' | vault write … value=-"
	if _, err := k.Check(options, key.NewValue(line)); err != nil {
		return nil, fmt.Errorf("%s; besides: %w", newline, err)
	}
	return nil, errors.New(newline)
}

// CheckNames refuses names that another key has, and those that are none.
func (cat *Catalog) CheckNames(k key.Key) error {
	own := cat.Names(k)
	var before []string // a key of an earlier release keeps its names: nobody could pause it or change its schedule otherwise
	if old, ok := cat.Keys[k.Name]; ok {
		before = cat.Names(old)
	}
	for n, name := range own {
		if err := key.ValidateEnv(name); err != nil {
			return rotation.Refusef("key %s: %w", k.Name, err)
		}
		if err := key.CheckReserved(name, before); err != nil {
			return rotation.Refusef("key %s: %w; give it another one, such as env=APP_%s, and let the workload's own configuration say what it is used for", k.Name, err, name)
		}
		if slices.Contains(own[:n], name) {
			return rotation.Refusef("key %s has the name %s twice", k.Name, name)
		}
		for _, other := range cat.Keys {
			if other.Name != k.Name && slices.Contains(cat.Names(other), name) {
				return rotation.Refusef("env %s is that of key %s already; give key %s another one", name, other.Name, k.Name)
			}
		}
	}
	return nil
}

// CheckWitness refuses a witness that is no connection by which the engine can look at rows.
func (cat *Catalog) CheckWitness(k key.Key) error {
	if k.Witness == "" || k.Witness == rotation.WitnessNone {
		return nil
	}
	if len(k.Protects) == 0 {
		return rotation.Refusef("key %s: witness: the key protects no rows; give witness=\"\" with that", k.Name)
	}
	if _, _, err := cat.Looker(k.Witness); err != nil {
		return rotation.Refusef("key %s: witness: %w", k.Name, err)
	}
	return nil
}

// CheckAfter refuses unknown names and circles.
func (cat *Catalog) CheckAfter(w workload.Workload) error {
	var walk func(name string, path []string) error
	walk = func(name string, path []string) error {
		after := cat.Workloads[name].After
		if name == w.Name {
			after = w.After
		}
		for _, next := range after {
			if next == w.Name {
				return rotation.Refusef("after: workloads wait for each other in a circle: %s", strings.Join(append(path, next), " after "))
			}
			if _, ok := cat.Workloads[next]; !ok {
				return rotation.Refusef("after: workload %q is not known; write hyvve/workloads/%s first", next, next)
			}
			if err := walk(next, append(path, next)); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(w.Name, []string{w.Name})
}

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
	remedy := "vault list hyvve/workloads"
	for _, name := range slices.Sorted(maps.Keys(cat.Workloads)) {
		w := cat.Workloads[name]
		role, ok := w.Keys[k.Name]
		used = used || ok
		reencrypts = reencrypts || w.Reencrypts && role.AcceptsBoth()
		if role.AcceptsBoth() {
			remedy = "vault write hyvve/workloads/" + name + " reencrypts=true"
		}
	}
	if !used {
		return rotation.Refusef("no workload uses key %[1]s, so that nobody would load a new version. Write a workload that does: vault write hyvve/workloads/WORKLOAD add_presents=%[1]s (or add_verifies=; list them with: vault list hyvve/workloads)", k.Name)
	}
	if len(k.Protects) > 0 && !reencrypts {
		return rotation.Refusef("key %s protects rows, and no workload that verifies it has reencrypts=true, so that nobody would re-encrypt them. Set it on one that reaches the database: %s", k.Name, remedy)
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
		if _, none := server.(kind.Sessionless); none {
			ok = false
		}
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

// CountID names the count of a key's rows: another version, other columns or other rows of them are to be counted again.
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

// WithoutOrphans aborts staged versions that no rotation knows: a crash left them before anybody knew of them.
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
