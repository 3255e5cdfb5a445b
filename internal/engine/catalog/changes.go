// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// maxKeyName bounds what a refused write leaves of a name, in bytes.
const maxKeyName = 100

// SecretGiven stands for a secret in an EntryChange.
const SecretGiven = "(given)"

// Fields are what an operator has defined, as text.
type Fields map[string]string

// Changes returns the fields that differ, sorted by name, as a journal may keep them.
func (old Fields) Changes(now Fields) []rotation.EntryChange {
	return old.changesAs(now, kind.PublicText, kind.PublicText)
}

// changesAs is changes, with what makes the old and the new text of a field public.
func (old Fields) changesAs(now Fields, was, is func(name, text string) string) []rotation.EntryChange {
	names := map[string]bool{}
	for name := range old {
		names[name] = true
	}
	for name := range now {
		names[name] = true
	}
	var all []rotation.EntryChange
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if old[name] != now[name] {
			all = append(all, rotation.EntryChange{Field: name, From: was(name, old[name]), To: is(name, now[name])})
		}
	}
	return all
}

// listChanges returns the members that a list has gained and lost, each of them a change: a long list would be cut.
func listChanges(field string, old, now []string) []rotation.EntryChange {
	var all []rotation.EntryChange
	for _, member := range old {
		if !slices.Contains(now, member) {
			all = append(all, rotation.EntryChange{Field: field, From: kind.PublicText(field, member)})
		}
	}
	for _, member := range now {
		if !slices.Contains(old, member) {
			all = append(all, rotation.EntryChange{Field: field, To: kind.PublicText(field, member)})
		}
	}
	return all
}

// OptionChanges returns the options that differ, each as the kind that it is an option of lets a journal keep it.
func OptionChanges(old, now kind.Options, was, is []kind.Field) []rotation.EntryChange {
	as := func(fields []kind.Field) func(name, text string) string {
		return func(name, text string) string { return kind.PublicOption(fields, name, text) }
	}
	return Fields(old).changesAs(Fields(now), as(was), as(is))
}

// keyFields returns the options of keys of a kind, none if it is not known.
func (b *Base) keyFields(kindName string) []kind.Field {
	k, err := b.Kinds.Get(kindName)
	if err != nil {
		return nil
	}
	return k.Fields()
}

// ConnectionFields returns those of connections of a kind, none if it is not known or has no connections.
func (b *Base) ConnectionFields(kindName string) []kind.Field {
	connector, err := b.Connector(kindName)
	if err != nil {
		return nil
	}
	return connector.ConnectionFields()
}

// Fields returns the mount-wide defaults by the names that an operator writes them with.
func (c Config) Fields() Fields {
	return Fields{
		"lease_ttl": duration.Text(c.LeaseTTL), "takeover_after": duration.Text(c.TakeoverAfter), "max_instances_per_login": strconv.Itoa(c.LoginInstances),
		"soak": duration.Text(c.Soak), "observe": duration.Text(c.Observe), "deadline": duration.Text(c.Deadline),
		"on_failure": c.OnFailure, "confirm": c.Confirm, "confirm_by": c.ConfirmBy, "look_every": duration.Text(c.LookEvery), "compromised_deadline": duration.Text(c.CutAfter),
		"retain": duration.Text(c.Retain), "retain_rows": duration.Text(c.RetainRows), "tripwire_retention": duration.Text(c.Tripwires),
		"journal_max_entries": strconv.Itoa(c.JournalEntries), "journal_max_age": duration.Text(c.JournalAge),
	}
}

// Fields returns the floor by the names that an operator writes it with.
func (f Floor) Fields() Fields {
	return Fields{"min_entries": strconv.Itoa(f.Entries), "min_age": duration.Text(f.Age)}
}

// WorkloadChanges returns what differs between two definitions of a workload.
func WorkloadChanges(old, w workload.Workload) []rotation.EntryChange {
	settings := func(w workload.Workload) Fields {
		if w.Name == "" {
			return nil
		}
		return Fields{
			"min_instances": strconv.Itoa(w.MinInstances), "max_instances": strconv.Itoa(w.InstanceLimit()), "max_unavailable": w.MaxUnavailable, "reencrypts": strconv.FormatBool(w.Reencrypts),
			"require_proof": w.RequireProof.String(),
		}
	}
	all := append(settings(old).Changes(settings(w)), listChanges("after", old.After, w.After)...)
	names := maps.Clone(old.Keys)
	if names == nil {
		names = map[string]workload.Role{}
	}
	maps.Copy(names, w.Keys)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if from, to := roleText(old.Keys[name]), roleText(w.Keys[name]); from != to {
			all = append(all, rotation.EntryChange{Field: "keys." + kind.CutText(name, maxKeyName), From: from, To: to})
		}
	}
	if len(old.After) == len(w.After) && !slices.Equal(old.After, w.After) && len(listChanges("after", old.After, w.After)) == 0 {
		all = append(all, rotation.EntryChange{Field: "after", From: strings.Join(old.After, ", "), To: strings.Join(w.After, ", ")})
	}
	return all
}

// roleText says what a workload does with a key, by the names of the lists that it is written in.
func roleText(r workload.Role) string {
	var words []string
	for _, is := range []struct {
		so   bool
		word string
	}{{r.Presents, "presents"}, {r.Verifies, "verifies"}, {r.Single, "single_value"}} {
		if is.so {
			words = append(words, is.word)
		}
	}
	return strings.Join(words, ", ")
}

// PublicValue says of a value that it was given, and where it is a URL that logs in at a connection's server, where it
// leads to and as whom.
func (b *Base) PublicValue(k key.Key, value key.Value) string {
	kd, err := b.Kinds.Get(k.Kind)
	if err != nil {
		return SecretGiven
	}
	_, connects := kd.(kind.Connector)
	_, wrong := kd.Check(k.Options, value)
	if text := value.Reveal(); connects && wrong == nil && strings.Contains(text, "://") && strings.Contains(text, "@") {
		return kind.PublicText("url", text)
	}
	return SecretGiven
}

// DefinitionChanges returns what a definition changes of a key; old is the zero key where there is none, and so is d where
// the key is deleted.
func (b *Base) DefinitionChanges(old key.Key, d Definition) []rotation.EntryChange {
	settings := func(name, kindName, env string, p key.Policy) Fields {
		if name == "" {
			return nil
		}
		return Fields{
			"kind": kindName, "env": env,
			"rotation_period": duration.Text(p.Period), "rotation_schedule": p.Schedule, "rotation_window": duration.Text(p.Window),
			"disable_automated_rotation": strconv.FormatBool(p.Disabled), "soak": inherited(p.Soak), "observe": inherited(p.Observe),
			"deadline": inherited(p.Deadline), "on_failure": p.OnFailure, "confirm": p.Confirm, "confirm_by": p.ConfirmBy, "retain": inherited(p.Retain),
		}
	}
	all := settings(old.Name, old.Kind, old.Env, old.Policy).Changes(settings(d.Name, d.Kind, d.Env, d.Policy))
	all = append(all, OptionChanges(old.Options, d.Options, b.keyFields(old.Kind), b.keyFields(d.Kind))...)
	all = append(all, listChanges("protects", protected(old.Protects), protected(d.Protects))...)
	all = append(all, Fields{"witness": old.Witness}.Changes(Fields{"witness": d.Witness})...)
	return append(all, listChanges("ignore_columns", old.IgnoreColumns, d.IgnoreColumns)...)
}

func protected(columns []key.Column) []string {
	texts := make([]string, 0, len(columns))
	for _, c := range columns {
		texts = append(texts, c.Protected())
	}
	return texts
}

func inherited(d time.Duration) string {
	if d == key.Inherit {
		return "inherited"
	}
	return duration.Text(d)
}

// ConnectionChanges says what differs, without secrets.
func (b *Base) ConnectionChanges(old, c, written kind.Connection) []rotation.EntryChange {
	var all []rotation.EntryChange
	if old.Kind != c.Kind && c.Kind != "" {
		all = append(all, rotation.EntryChange{Field: "kind", From: old.Kind, To: c.Kind})
	}
	all = append(all, OptionChanges(old.Options, c.Options, b.ConnectionFields(old.Kind), b.ConnectionFields(cmp.Or(c.Kind, old.Kind)))...)
	for _, name := range slices.Sorted(maps.Keys(written.Secrets)) {
		all = append(all, rotation.EntryChange{Field: name, To: SecretGiven})
	}
	if !c.Secrets[kind.FieldPassword].Equal(old.Secrets[kind.FieldPassword]) && written.Secrets[kind.FieldPassword].Empty() {
		all = append(all, rotation.EntryChange{Field: kind.FieldPassword, To: SecretGiven}) // in the URL
	}
	return all
}
