// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Bounds of a rotation of all keys.
const (
	fewRows = 5000 // of a key: their re-encryption holds the others up for about a minute, the first time
	maxKeys = 100  // keys of a rotation, so that its record stays within what storage takes
)

// selection is what a request for all keys comes to. The first batch is the main one, whose rotation keeps the rest.
type selection struct {
	batches []batch
	running []string // ids of rotations to escalate
	whole   rotation.Whole
}

// batch are keys that rotate together.
type batch struct {
	why  string // they have a rotation of their own; empty: nothing sets them apart
	keys []string
}

// rotateAll starts rotations of all keys that can be rotated, and escalates those that run, if the keys are compromised. It returns the
// main one. Killed in between, a repetition does the rest: it leaves alone what is compromised already.
func (l *locked) rotateAll(ctx context.Context, request Request) (view View, warnings []string, err error) {
	s, err := l.selectAll(request)
	if err != nil {
		return View{}, nil, err
	}
	ids, err := l.sortedIDs(len(s.batches))
	if err != nil {
		return View{}, nil, err
	}
	for _, id := range s.running {
		before, more := l.active[id], []string(nil)
		what := l.leakOf(before, request)
		if view, more, err = l.escalateAlone(ctx, id, what); err != nil { // no follower takes a key of a batch
			return View{}, nil, err
		}
		warnings = append(warnings, more...)
		s.whole.Join(id, escalatedText(before, view.Rotation, what, request))
	}
	for n, b := range slices.Backward(s.batches) { // the main one last, since it names the others
		asked, more := request, []string(nil)
		asked.Keys, asked.id = b.keys, ids[n]
		if n == 0 {
			asked.whole = &s.whole
		}
		if view, more, err = l.begin(ctx, asked); err != nil {
			return View{}, nil, err
		}
		warnings = append(warnings, more...)
		if n > 0 {
			s.whole.Join(view.ID, b.text())
		}
	}
	l.startFollowing(ctx, l.Now()) // of rotations whose escalation has ended them
	if len(s.batches) == 0 {
		if view, err = l.View(ctx, s.whole.With[0].ID); err != nil {
			return View{}, nil, err
		}
		view.Whole = &s.whole
		l.lock(func(m *memory) { view.Next = m.nextSteps(view.Rotation) })
	}
	return view, append(warnings, wholeWarnings(s.whole)...), nil
}

// looked returns a request for all keys with what was seen of servers just now. Keys that are compromised wait for nobody's look at rows
// before they rotate.
func (q Request) looked(ctx context.Context, e *Engine) Request {
	q.silent = inspection{Engine: e}.silent(ctx)
	if !q.Compromised {
		q.blind = e.blind(ctx)
	}
	return q
}

// selectAll finds out what can be rotated.
func (l *locked) selectAll(request Request) (selection, error) {
	var s selection
	if len(l.Keys) == 0 {
		return s, rotation.Refusef("keys=all: there is no key yet; define some with: vault write hyvve/presets/hyvve, or vault write hyvve/keys/NAME kind=…")
	}
	apart := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(l.Keys)) {
		if l.rotating[name] != "" {
			continue
		}
		if reason := l.cannotRotate(l.Keys[name], request); reason != "" {
			s.whole.Leave(name, reason)
			continue
		}
		why := l.apart(l.Keys[name], request)
		apart[why] = append(apart[why], name)
	}
	for _, why := range slices.Sorted(maps.Keys(apart)) {
		keys, err := l.withoutClashes(request, apart[why], &s.whole)
		if err != nil {
			return s, err
		}
		for _, some := range l.chunks(l.byWorkloads(keys)) {
			s.batches = append(s.batches, batch{why, some})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.active)) {
		l.selectRunning(&s, l.active[id], request)
	}
	slices.SortFunc(s.whole.LeftOut, func(a, b rotation.LeftOut) int { return strings.Compare(a.Key, b.Key) })
	if len(s.batches)+len(s.running)+len(s.whole.With) == 0 {
		reasons := make([]string, 0, len(s.whole.LeftOut))
		for _, left := range s.whole.LeftOut {
			reasons = append(reasons, left.Key+": "+left.Reason)
		}
		return s, rotation.Refusef("keys=all: no key can be rotated; nothing was changed; %s", strings.Join(reasons, " | "))
	}
	return s, nil
}

// cannotRotate says why a key is left out, and what to do; empty: it can be rotated.
func (l *locked) cannotRotate(k key.Key, request Request) string {
	if _, makes := l.KindOf(k).(kind.Generator); !makes {
		options := ""
		if request.Compromised {
			options = " compromised=true"
		}
		return fmt.Sprintf("its values come from elsewhere; give the new one with: vault write hyvve/rotate key=%s%s value=-", k.Name, options)
	}
	r := rotation.Rotation{Created: l.Now().UTC(), Compromised: request.Compromised}
	_, c, err := l.stage(r, k.Name, request)
	if err != nil {
		return err.Error()
	}
	r.Changes = []rotation.Change{c}
	r = mergePolicy(r, l.Defaults.Effective(k.Policy))
	if err := checkFourEyes(r, request); err != nil {
		return err.Error()
	}
	reasons := l.changing(r)
	if fault := request.blind[k.Env]; fault != "" {
		reasons = append(reasons, fault)
	}
	if len(c.Protects) == 0 && !c.MultiLine {
		return strings.Join(reasons, "; ")
	}
	f := l.facts(r)
	reasons = append(reasons, rotation.CheckMultiline(r, f)...)
	if !request.Compromised {
		reasons = append(reasons, unwitnessed(r, f)...)
	}
	return strings.Join(reasons, "; ")
}

// apart says why a key has to be in another rotation than most: it would hold up the others; empty: it would not.
func (l *locked) apart(k key.Key, request Request) (why string) {
	l.lock(func(m *memory) {
		last := m.counted[k.Name]
		current, _ := k.Current()
		rows := 0
		for _, c := range last.report.Columns {
			rows += c.Total
		}
		switch {
		case slices.Contains(request.silent, k.Options[kind.OptionConnection]):
			why = "connection " + k.Options[kind.OptionConnection] + " does not answer"
		case len(m.connectionProblems(k)) > 0:
			why = "connection " + k.Options[kind.OptionConnection] + " has a problem"
		case m.health[checksKey+k.Name].blocks():
			why = "a check at connection " + k.Options[kind.OptionConnection] + " has found a problem that its rotation would not mend"
		case m.Defaults.Effective(k.Policy).ConfirmBy == rotation.ConfirmByOther && request.ConfirmBy == "":
			why = "another user has to confirm its end (confirm_by=other)"
		case len(k.Protects) == 0:
		case last.report.ID != catalog.CountID(k, current.Number) || last.report.Error != "":
			why = "nobody has counted its rows yet"
		case rows > fewRows:
			why = fmt.Sprintf("it protects more than %d rows", fewRows)
		}
	})
	return why
}

// withoutClashes leaves out keys whose logins others use that do not rotate with them.
func (l *locked) withoutClashes(request Request, keys []string, whole *rotation.Whole) ([]string, error) {
	for len(keys) > 0 {
		request.Keys = keys
		r, staged, err := l.draft(request)
		if err != nil {
			return nil, err
		}
		left := len(keys)
		for n, c := range r.Changes {
			if clashes := l.clashesOf(r, staged, n); len(clashes) > 0 {
				whole.Leave(c.Key, strings.Join(clashes, "; "))
				keys = slices.DeleteFunc(slices.Clone(keys), func(name string) bool { return name == c.Key })
			}
		}
		if len(keys) == left {
			break
		}
	}
	return keys, nil
}

// byWorkloads returns keys in an order in which those of the same workloads are together.
func (l *locked) byWorkloads(keys []string) []string {
	var sorted []string
	for _, name := range slices.Sorted(maps.Keys(l.Workloads)) {
		for _, k := range keys {
			if l.Workloads[name].Uses(k) && !slices.Contains(sorted, k) {
				sorted = append(sorted, k)
			}
		}
	}
	if len(sorted) <= maxKeys { // one rotation, which names them as people look for them
		slices.Sort(sorted)
	}
	return sorted
}

// chunks splits keys into as many as a rotation takes. Those that share a login, which can only rotate together, stay together.
func (l *locked) chunks(keys []string) (all [][]string) {
	switch {
	case len(keys) == 0:
		return nil
	case len(keys) <= maxKeys:
		return [][]string{keys}
	}
	placed := map[string]bool{}
	for _, name := range keys {
		var group []string
		for next := []string{name}; len(next) > 0; next = next[1:] {
			if placed[next[0]] || !slices.Contains(keys, next[0]) {
				continue
			}
			placed[next[0]], group = true, append(group, next[0])
			current, _ := l.Keys[next[0]].Current()
			for _, with := range l.Sharers(l.Keys[next[0]], current.Value) {
				next = append(next, with.Key)
			}
		}
		if last := len(all) - 1; last >= 0 && len(all[last])+len(group) <= maxKeys {
			all[last] = append(all[last], group...)
		} else if len(group) > 0 {
			all = append(all, group)
		}
	}
	return all
}

// selectRunning finds out what becomes of a running rotation.
func (l *locked) selectRunning(s *selection, r rotation.Rotation, request Request) {
	switch {
	case !request.Compromised:
		for _, name := range r.KeyNames() {
			s.whole.Leave(name, l.underWay(name, r).Error())
		}
		return
	case r.Compromised && r.State == rotation.Reverting && !l.makes(r): // nothing can follow by itself
		for _, name := range r.KeyNames() {
			s.whole.Leave(name, fmt.Sprintf("rotation %s goes back to a version that is compromised; when it has ended, give the new one with: vault write hyvve/rotate key=%s compromised=true value=-", r.ID, name))
		}
		return
	case r.Compromised && r.Paused == nil && (r.State != rotation.Reverting || r.Follow != nil && r.Follow.Compromised):
		s.whole.Join(r.ID, fmt.Sprintf("of %s, is compromised already, and continues; %s", strings.Join(r.KeyNames(), ", "), cmp.Or(r.FollowNote(), newLeaked(r))))
		return
	}
	what := l.leakOf(r, request)
	request.Retain = nil // which is no reason to let it go on as before
	if err := l.mayEscalate(r, request); err != nil {
		for _, name := range r.KeyNames() {
			s.whole.Leave(name, err.Error()+" which="+what.Which)
		}
		return
	}
	if _, err := l.escalated(r, l.facts(r), what); err != nil {
		for _, name := range r.KeyNames() {
			s.whole.Leave(name, err.Error())
		}
		return
	}
	s.running = append(s.running, r.ID)
}

// leakOf is the escalation of a running rotation by a request for all keys: who knows the old version may know the new one, too.
// One that is compromised already is resumed, unless it goes back to the old version.
func (l *locked) leakOf(r rotation.Rotation, request Request) rotation.Escalation {
	what := escalationOf(request)
	if !r.Compromised || r.State == rotation.Reverting {
		what.Which = rotation.LeakedBoth
	}
	return what
}

// text says of a rotation beside the main one why there is one.
func (b batch) text() string {
	if b.why == "" {
		return fmt.Sprintf("of %d more keys, since a rotation takes %d at most", len(b.keys), maxKeys)
	}
	return fmt.Sprintf("of %s, does not hold up the others: %s", strings.Join(b.keys, ", "), b.why)
}

// planCommand shows the plan of keys that rotate apart.
func planCommand(keys []string, request Request) string {
	command := "vault write hyvve/rotate " + keysField(keys)
	if request.Compromised {
		command += " compromised=true"
	}
	return command + " dry_run=true"
}

// escalatedText says what becomes of a rotation that is escalated.
func escalatedText(before, r rotation.Rotation, what rotation.Escalation, request Request) string {
	text := fmt.Sprintf("of %s, was running, and is escalated: what is left is cut", strings.Join(r.KeyNames(), ", "))
	switch {
	case r.Follow != nil:
		text += "; " + r.FollowNote()
	case what.Which == rotation.LeakedBoth:
		text += "; " + r.NextNote(before, what)
	default:
		text += "; " + newLeaked(r)
	}
	if request.Retain != nil {
		text += "; retain= is not about it: erase what it retains with: vault write hyvve/keys/NAME/erase version=N"
	}
	return text
}

// newLeaked says what to do where the new version of a rotation of compromised keys may be known as well.
func newLeaked(r rotation.Rotation) string {
	return fmt.Sprintf("if the new version may have leaked, too: vault write hyvve/rotations/%s/compromised which=both", r.ID)
}

// wholeWarnings say what a request for all keys has left out, and which other rotations there are.
func wholeWarnings(w rotation.Whole) (warnings []string) {
	if text := w.LeftOutText(); text != "" {
		warnings = append(warnings, text+"; left_out says why, and what to do")
	}
	if text := w.WithText(); text != "" {
		warnings = append(warnings, text+"; with says why: follow them, too")
	}
	return warnings
}
