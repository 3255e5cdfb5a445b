// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// EntryChange is a field that a write has changed, or would have changed. It holds no secret.
type EntryChange struct {
	Field string `json:"field"`
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
}

// secretGiven stands for a secret in an EntryChange.
const secretGiven = "(given)"

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

// JournalRefusal adds an entry on a write that was refused with err, and does nothing where err is of another sort. The same
// refusal is journaled once in ten minutes, and at most 20 of a caller in an hour. The turn must not be held.
func (e *Engine) JournalRefusal(ctx context.Context, err error, n Entry) {
	var refused *Refused
	if !errors.As(err, &refused) {
		return
	}
	n.Refused = kind.CutText(refused.Error(), mostReason)
	n.Connection, n.Reason = kind.CutText(n.Connection, mostName), kind.CutText(n.Reason, mostReason)
	n.Changes = n.Changes[:min(len(n.Changes), mostChanges)]
	n.Keys = n.Keys[:min(len(n.Keys), mostChanges)]
	for i := range n.Keys {
		n.Keys[i].Key = kind.CutText(n.Keys[i].Key, mostName)
	}
	ok, full := e.refusals.admit(e.Uptime(), n.Entity+"/"+n.By, fmt.Sprint(n.What, n.Entity, n.By, n.Connection, n.Keys, n.Changes, n.Refused))
	if !ok {
		return
	}
	if full {
		n.Refused += fmt.Sprintf(" (more refusals of this caller are not journaled until at most %s from now)", refusalsSpan)
	}
	defer e.takeTurn()()
	if err := e.journal(ctx, n); err != nil {
		e.Observer.Fault("a refused write could not be journaled", err)
	}
}

// optionChanges says which options differ, as a journal may keep them.
func optionChanges(old, changed kind.Options) []EntryChange {
	var all []EntryChange
	names := maps.Clone(old)
	if names == nil {
		names = kind.Options{}
	}
	maps.Copy(names, changed)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if old[name] != changed[name] {
			all = append(all, EntryChange{name, kind.PublicText(name, old[name]), kind.PublicText(name, changed[name])})
		}
	}
	return all
}

// KeyChanges says what a definition, with a value where there is one, changes of a key. Nothing of the value is in it but,
// where it is a URL that logs in at a connection's server, where it leads to and as whom.
func (e *Engine) KeyChanges(d Definition, value key.Value) []EntryChange {
	old, _ := e.Key(d.Name)
	changes := definitionChanges(old, d)
	if !value.Empty() {
		changes = append(changes, EntryChange{Field: "value", To: e.PublicValue(key.Key{Kind: d.Kind, Options: d.Options}, value)})
	}
	return changes
}

// PublicValue says of a value that it was given, and where it is a URL that logs in at a connection's server, where it
// leads to and as whom.
func (e *Engine) PublicValue(k key.Key, value key.Value) string {
	kd, err := e.Kinds.Get(k.Kind)
	if err != nil {
		return secretGiven
	}
	_, connects := kd.(kind.Connector)
	_, wrong := kd.Check(k.Options, value)
	if text := value.Reveal(); connects && wrong == nil && strings.Contains(text, "://") && strings.Contains(text, "@") {
		return kind.PublicText("url", text)
	}
	return secretGiven
}

func definitionChanges(old key.Key, d Definition) []EntryChange {
	var all []EntryChange
	differ := func(field, from, to string) {
		if from != to {
			all = append(all, EntryChange{field, kind.PublicText(field, from), kind.PublicText(field, to)})
		}
	}
	differ("kind", old.Kind, d.Kind)
	differ("env", old.Env, d.Env)
	all = append(all, optionChanges(old.Options, d.Options)...)
	protected := func(columns []key.Column) string {
		var texts []string
		for _, c := range columns {
			texts = append(texts, c.Protected())
		}
		return strings.Join(texts, ", ")
	}
	differ("protects", protected(old.Protects), protected(d.Protects))
	differ("waives", strings.Join(old.Waives, ", "), strings.Join(d.Waives, ", "))
	differ("rotation_period", duration(old.Policy.Period), duration(d.Policy.Period))
	differ("rotation_schedule", old.Policy.Schedule, d.Policy.Schedule)
	differ("rotation_window", duration(old.Policy.Window), duration(d.Policy.Window))
	differ("disable_automated_rotation", fmt.Sprint(old.Policy.Disabled), fmt.Sprint(d.Policy.Disabled))
	differ("soak", duration(old.Policy.Soak), duration(d.Policy.Soak))
	differ("deadline", duration(old.Policy.Deadline), duration(d.Policy.Deadline))
	differ("on_failure", old.Policy.OnFailure, d.Policy.OnFailure)
	differ("confirm", old.Policy.Confirm, d.Policy.Confirm)
	return all
}

func duration(d time.Duration) string {
	if d == key.Inherit {
		return "inherited"
	}
	return d.String()
}
