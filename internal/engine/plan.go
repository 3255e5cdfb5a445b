// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Rows is what is known of the rows that a key protects.
type Rows struct {
	Key     string
	Known   bool // from a count of a sidecar's, or an earlier rotation
	At      time.Time
	Columns []workload.ColumnReport
}

// Plan is what a rotation would do.
type Plan struct {
	Rotation rotation.Rotation // as it would start; it does not exist
	Next     []string          // commands that would be left to write
	Moves    []rotation.Move
	Rows     []Rows
	Gaps     []Gap
	Blockers []string      // what would hold it back now
	Notes    []string      // what an operator should know of the evidence that there can be
	Expected time.Duration // of the whole; 0: not known
	History  int           // how many earlier rotations that goes by
}

// Plan tells what a request would do, and changes nothing.
func (e *Engine) Plan(ctx context.Context, request Request) (Plan, []string, error) {
	if err := request.check(); err != nil {
		return Plan{}, nil, err
	}
	var warnings []string
	if !request.Value.Empty() {
		var err error
		if warnings, err = e.CheckValue(request.Keys[0], request.Value); err != nil {
			return Plan{}, nil, err
		}
	}
	if request.All {
		var a allPreview
		request = request.looked(ctx, e)
		err := e.update(func(l *locked) (err error) {
			a, err = l.previewAll(ctx, request)
			return err
		})
		if err != nil {
			return Plan{}, nil, err
		}
		return a.plan(ctx, e)
	}
	var p Plan
	var escalates bool
	err := e.update(func(l *locked) (err error) {
		var more []string
		p, more, escalates, err = l.previewEscalation(ctx, request)
		warnings = append(warnings, more...)
		return err
	})
	if err != nil || escalates {
		return p, warnings, err
	}
	p, err = e.planOf(ctx, request)
	return p, warnings, err
}

// plan is [Engine.Plan] for all keys. The plan is that of the main rotation, with what would hold back the others.
func (a allPreview) plan(ctx context.Context, e *Engine) (Plan, []string, error) {
	p, plans, errs := a.running, make([]Plan, len(a.requests)), make([]error, len(a.requests))
	var group sync.WaitGroup
	for n, asked := range a.requests {
		group.Go(func() { plans[n], errs[n] = e.planOf(ctx, asked) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return Plan{}, nil, err
	}
	for n, other := range plans {
		if n == 0 {
			p = other
			continue
		}
		for _, text := range other.Blockers {
			a.blockers = append(a.blockers, remark{someOf(other.Rotation.KeyNames()), text})
		}
	}
	for _, text := range summed(a.blockers) {
		p.Blockers = append(p.Blockers, "beside this rotation, that of "+text)
	}
	return p, wholeWarnings(*a.whole), nil
}

// planOf makes the plan of a request to start a rotation, and looks at its servers.
func (e *Engine) planOf(ctx context.Context, request Request) (p Plan, err error) {
	var of []remark
	var changes []preflightCall
	preview := func(l *locked) (err error) {
		p, of, changes, err = l.preview(ctx, request)
		return err
	}
	if err := e.update(preview); err != nil {
		return Plan{}, err
	}
	names, mute := e.answering(p.Rotation.KeyNames(), request.silent)
	blockers, notes, seen := inspection{e, mendNothing, rotation.Itself}.all(ctx, names)
	if seen { // the new versions have other numbers, as those of the rotation will
		if err := e.update(preview); err != nil {
			return Plan{}, err
		}
	}
	changes = slices.DeleteFunc(changes, func(c preflightCall) bool { return !slices.Contains(names, c.change.Key.Name) })
	also, more := preflight(ctx, changes)
	blind := e.try(ctx, e.witnessTries(names))
	p.Blockers, p.Notes = append(p.Blockers, summed(mute, blockers, also, blind)...), summed(of, notes, more)
	return p, nil
}

// answering returns the keys whose servers are worth asking, and says of the others that their connections are silent: nobody who
// needs the plan of all keys should wait for these once more.
func (s *state) answering(names, silent []string) (answer []string, mute []remark) {
	s.lock(func(m *memory) {
		for _, name := range names {
			k := m.Keys[name]
			if at := k.Options[kind.OptionConnection]; slices.Contains(silent, at) {
				mute = append(mute, remark{k.Env, "connection " + at + " does not answer"})
			} else {
				answer = append(answer, name)
			}
		}
	})
	return answer, mute
}

// preview makes the plan of a request but for its notes, and returns these and the changes that kinds can check at their
// servers.
func (l *locked) preview(ctx context.Context, request Request) (Plan, []remark, []preflightCall, error) {
	r, staged, err := l.draft(request)
	if err != nil {
		return Plan{}, nil, nil, err
	}
	calls, err := l.preflightCalls(r, staged)
	if err != nil {
		return Plan{}, nil, nil, err
	}
	clashes := l.clashes(r, staged)
	r.ID = ""
	f := l.facts(r)
	past, err := l.history(ctx, r.KeyNames())
	if err != nil {
		return Plan{}, nil, nil, err
	}
	p := Plan{
		Rotation: r, History: len(past), Gaps: l.gaps(r), Blockers: rotation.Blockers(r, f),
		Moves: rotation.Moves(r, f, past), Expected: rotation.Expected(past),
	}
	l.lock(func(m *memory) { p.Next = m.nextSteps(r) })
	if r.Compromised { // earlier rotations have soaked
		p.Expected = expectedOf(p.Moves)
	}
	p.Blockers = append(p.Blockers, clashes...)
	notes := l.notes(r)
	if text := rotation.EmptyText(f); text != "" {
		notes = append(notes, remark{r.EnvNames(), text + ": the gates about its instances hold without one"})
	}
	for _, c := range r.Changes {
		if len(c.Protects) == 0 {
			continue
		}
		idle := rotation.NobodyReencrypts(c, f)
		if idle != "" {
			p.Blockers = append(p.Blockers, c.Env+": "+idle)
		}
		note, missing := rotation.WitnessNote(c, f)
		switch {
		case missing == "":
			notes = append(notes, remark{c.Env, note})
		case idle == "" || !rotation.ByConnection(f.Witness[c.Key]): // which would say the same
			p.Blockers = append(p.Blockers, c.Env+": "+missing)
		}
		rows := rowsOf(c, past)
		l.lock(func(m *memory) {
			last := m.counted[c.Key]
			if last.report.ID == catalog.CountID(m.Keys[c.Key], c.From) && !last.at.Before(rows.At) {
				if last.report.Error != "" {
					p.Blockers = append(p.Blockers, fmt.Sprintf("%s: %s could not look at its rows: %s", c.Env, last.instance, last.report.Error))
				} else {
					rows = Rows{Key: c.Key, Known: true, At: last.at, Columns: last.report.Columns}
				}
			}
		})
		p.Rows = append(p.Rows, rows)
	}
	for n := range p.Gaps {
		p.Gaps[n].Expected = rotation.LongestSwitch(past)
	}
	return p, notes, calls, nil
}

// previewEscalation makes the plan of a request for compromised keys that a running rotation is about; escalates: it is.
func (l *locked) previewEscalation(ctx context.Context, request Request) (p Plan, warnings []string, escalates bool, err error) {
	if !request.Compromised {
		return Plan{}, nil, false, nil
	}
	id, err := l.toEscalate(request)
	if err != nil || id == "" {
		return Plan{}, nil, false, err
	}
	before := l.active[id]
	r, err := l.escalated(before, l.facts(before), escalationOf(request))
	if err == nil {
		p, err = l.planOfRunning(ctx, r)
	}
	return p, []string{insteadNote(r)}, err == nil, err
}

// allPreview is what a request for all keys would start and escalate.
type allPreview struct {
	whole    *rotation.Whole
	requests []Request // for rotations that would be started, the main one first
	running  Plan      // of the main rotation, where none would be started
	blockers []remark  // of other rotations that are escalated, or continue
}

// previewAll returns what a request for all keys would do.
func (l *locked) previewAll(ctx context.Context, request Request) (a allPreview, err error) {
	s, err := l.selectAll(request)
	if err != nil {
		return a, err
	}
	var left []rotation.Rotation
	for _, with := range s.whole.With {
		left = append(left, l.active[with.ID])
	}
	for _, id := range s.running {
		what := l.leakOf(l.active[id], request)
		r, err := l.escalated(l.active[id], l.facts(l.active[id]), what)
		if err != nil {
			return a, err
		}
		left = append(left, r)
		s.whole.Join(id, escalatedText(l.active[id], r, what, request))
	}
	a.whole = &s.whole
	for n, b := range s.batches {
		asked := request
		asked.Keys = b.keys
		if n == 0 {
			asked.whole = &s.whole
		} else {
			s.whole.Join("", b.text()+"; its plan: "+planCommand(b.keys, request))
		}
		a.requests = append(a.requests, asked)
	}
	if len(s.batches) == 0 {
		a.running, err = l.planOfRunning(ctx, left[0])
		a.running.Rotation.Whole = &s.whole
		l.lock(func(m *memory) { a.running.Next = m.nextSteps(a.running.Rotation) })
		left = left[1:]
	}
	for _, r := range left {
		for _, text := range rotation.Blockers(r, l.facts(r)) {
			a.blockers = append(a.blockers, remark{someOf(r.KeyNames()), text})
		}
	}
	return a, err
}

// planOfRunning says what is left of a rotation, stored or not.
func (l *locked) planOfRunning(ctx context.Context, r rotation.Rotation) (p Plan, err error) {
	past, err := l.history(ctx, r.KeyNames())
	if err != nil {
		return Plan{}, err
	}
	f := l.facts(r)
	p = Plan{Rotation: r, History: len(past), Blockers: rotation.Blockers(r, f), Moves: rotation.Moves(r, f, past), Notes: summed(l.notes(r))}
	p.Expected = expectedOf(p.Moves)
	if r.Follow != nil {
		p.Notes = append(p.Notes, "when it has ended, another rotation replaces the version that is current then")
	}
	for _, c := range r.Changes {
		if len(c.Protects) > 0 {
			p.Rows = append(p.Rows, rowsOf(c, append([]rotation.Rotation{r}, past...)))
		}
	}
	return p, nil
}

// notes say what the evidence rests on where no server has any, and what was found of the servers.
func (l *locked) notes(r rotation.Rotation) []remark {
	all := l.undeletedLogins(r)
	for _, c := range r.Changes {
		k := l.Keys[c.Key]
		for _, text := range l.ReservedNames(k) {
			all = append(all, remark{c.Env, strings.TrimPrefix(text, "key "+k.Name+": ")})
		}
		_, served := l.KindOf(k).(kind.Server)
		if _, none := l.KindOf(k).(kind.Sessionless); none || !served {
			all = append(all, remark{c.Env, "no server says whether the old value is in use; that it is not rests on leases and reports"})
		} else if !r.Compromised {
			all = append(all, remark{c.Env, fmt.Sprintf("the server is sampled for use of the old version until nobody was seen for %s; a client that logs in more rarely is not seen and is locked out: for a daily job, vault write hyvve/keys/%s observe=25h", duration.Text(r.Window()), c.Key)})
		}
		if note := r.FourEyesNote(); note != "" {
			all = append(all, remark{c.Env, note})
		}
		all = append(all, remark{c.Env, l.RetentionNote(r, k, c)})
		for _, number := range c.Also {
			all = append(all, remark{c.Env, fmt.Sprintf("version %d, which is undeleted, is accepted until the end, and then retired with version %d", number, c.From)})
		}
		if connection, err := l.ConnectionOf(k); err == nil {
			for _, note := range connection.Notes {
				all = append(all, remark{c.Env, fmt.Sprintf("connection %s: %s", connection.Name, note)})
			}
		}
	}
	return all
}

func rowsOf(c rotation.Change, past []rotation.Rotation) Rows {
	for _, r := range past { // the newest first
		if old, ok := r.Change(c.Key); ok {
			if report, ok := r.LastRows(old); ok {
				return Rows{Key: c.Key, Known: true, At: r.Created, Columns: report.Columns}
			}
		}
	}
	return Rows{Key: c.Key}
}

// expectedOf is how long all moves may take.
func expectedOf(moves []rotation.Move) (sum time.Duration) {
	for _, m := range moves {
		sum += m.Expected
	}
	return sum
}
