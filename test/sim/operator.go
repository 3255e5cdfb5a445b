// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// operate is what people do: they rotate, take back, and change their minds. In calm times they only unblock.
func (w *world) operate() {
	w.people = w.uptime + w.between(time.Second, 60*time.Second)
	if w.engine == nil {
		return
	}
	if w.calm {
		w.unblock()
		return
	}
	if w.chance(10) {
		w.tinker()
		return
	}
	if w.chance(25) {
		w.edit()
		return
	}
	if w.chance(85) && w.retireBesideARotation() || w.chance(40) && w.undelete() {
		return
	}
	if w.chance(5) {
		w.rotateAll()
		return
	}
	running := w.running()
	n := w.rng.IntN(20)
	if n < 9 || len(running) == 0 {
		w.rotate()
		return
	}
	id := running[w.rng.IntN(len(running))]
	if w.chance(25) {
		w.escalateOrTune(id)
		return
	}
	var err error
	what := ""
	switch {
	case n < 12:
		what = "revert"
		_, err = w.engine.Revert(ctx, id, operator, "second thoughts")
	case n < 14:
		what = "pause"
		_, err = w.engine.Pause(ctx, id, operator, "let me see")
	case n < 15:
		what = "accept-witness"
		if w.lying { // the word of one may be a lie
			return
		}
		_, err = w.engine.AcceptWitness(ctx, id, colleague, "it is only a simulation")
	case n < 17:
		what = "resume"
		_, err = w.engine.Resume(ctx, id, operator, "")
	default:
		what = "confirm"
		err = w.confirm(id, []rotation.Actor{operator, colleague}[w.rng.IntN(2)])
	}
	w.said(err, what+" of "+id)
}

// undelete brings a retired version back: its login, or that of rows which are restored from a backup. Or it ends one before
// its time.
func (w *world) undelete() bool {
	var resting []string
	for _, name := range w.keys {
		if k, _ := w.engine.Key(name); len(k.Retained())+len(k.Undeleted()) > 0 && !w.rotating(name) {
			resting = append(resting, name)
		}
	}
	if len(resting) == 0 {
		return false
	}
	name := resting[w.rng.IntN(len(resting))]
	k, _ := w.engine.Key(name)
	if undeleted := k.Undeleted(); len(undeleted) > 0 && w.chance(30) && w.db.rows[name] == nil {
		w.said(w.engine.RetireVersion(ctx, name, undeleted[0], w.chance(30), "", operator), fmt.Sprintf("end of version %d of %s", undeleted[0], name))
		return true
	}
	retained := k.Retained()
	if len(retained) == 0 {
		return false
	}
	u := engine.Undeletion{Key: name, Version: retained[w.rng.IntN(len(retained))], By: operator}
	rows := w.db.rows[name]
	if rows == nil {
		u.For = w.between(time.Second, []time.Duration{2 * time.Minute, 10 * time.Minute}[w.rng.IntN(2)])
	}
	_, _, err := w.engine.Undelete(ctx, u)
	w.said(err, fmt.Sprintf("undeletion of version %d of %s", u.Version, name))
	if err != nil {
		return true
	}
	w.stats.Undeleted++
	if w.serverKind[name] && !w.calm && w.chance(85) { // its rotation runs beside the undeleted login
		w.rotateAs(engine.Request{Compromised: w.chance(35)}, name)
	}
	for n := range rows {
		if w.chance(50) {
			rows[n], w.db.stray[name], w.changed = u.Version, true, true
			w.stats.Restored++
			w.logf("a row of %s comes back from a backup, under version %d", name, u.Version)
		}
	}
	return true
}

// retireBesideARotation ends the login of an undeleted version while a rotation of its key runs.
func (w *world) retireBesideARotation() bool {
	for _, name := range w.keys {
		k, _ := w.engine.Key(name)
		undeleted := k.Undeleted()
		if len(undeleted) == 0 || !w.serverKind[name] || !w.rotating(name) || w.cut[name] && w.chance(75) {
			continue // a rotation of a compromised key is to end it
		}
		number := undeleted[w.rng.IntN(len(undeleted))]
		err := w.engine.RetireVersion(ctx, name, number, w.chance(30), "", operator)
		w.said(err, fmt.Sprintf("end of version %d of %s, which is being rotated", number, name))
		if err == nil {
			w.stats.Beside++
		}
		return true
	}
	return false
}

// rotating reports whether a rotation of a key has not ended.
func (w *world) rotating(name string) bool {
	for _, id := range w.running() {
		view, err := w.engine.View(ctx, id)
		if _, ok := view.Change(name); err != nil || ok {
			return true
		}
	}
	return false
}

func (w *world) said(err error, what string) {
	if err != nil {
		w.expect(err, what)
	} else {
		w.logf("%s", what)
	}
	w.tick = w.uptime
}

// needless reports whether in truth no row needs the version that a rotation is about to erase.
func (w *world) needless(view engine.View) bool {
	for _, c := range view.Changes {
		leaving := c.From
		if view.State == rotation.Reverting {
			leaving = c.To
		}
		if slices.Contains(w.db.rows[c.Key], leaving) {
			return false
		}
	}
	return true
}

func (w *world) rotate() {
	names := slices.Clone(w.keys)
	w.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	w.rotateAs(engine.Request{Compromised: w.chance(15)}, names[:1+w.rng.IntN(min(2, len(names)))]...)
}

func (w *world) rotateAs(request engine.Request, names ...string) {
	request.Keys, request.By, request.Trigger = names, operator, rotation.ByOperator
	if w.chance(20) {
		request.OnFailure = []string{rotation.FailurePause, rotation.FailureRevert}[w.rng.IntN(2)]
	}
	if w.chance(10) {
		request.Retain = new(time.Duration)
	}
	if w.chance(20) {
		before := w.writes()
		if _, _, err := w.engine.Plan(ctx, request); err != nil {
			w.expect(err, "plan")
		}
		if w.writes() != before {
			w.violate("a plan has written to storage")
		}
	}
	escalated := w.rotatingWith(names)
	view, _, err := w.engine.Rotate(ctx, request)
	if request.Compromised && (err == nil || w.engine.Stale()) {
		for _, name := range append(escalated, names...) { // instances that do not follow in time are cut off, as the operator has asked
			w.cut[name] = true
		}
	}
	if err == nil {
		w.stats.Rotations++
		if len(names) > 1 {
			w.groups[view.ID] = view.Changes
		}
		w.logf("rotate %v: %s", names, view.ID)
	} else {
		w.expect(err, "rotate")
	}
	w.tick = w.uptime
}

// confirm lets somebody confirm a rotation.
func (w *world) confirm(id string, by rotation.Actor) error {
	view, err := w.engine.Confirm(ctx, id, by, "")
	if err == nil && view.ConfirmBy == rotation.ConfirmByOther && by == answerable(view) {
		w.violate("%s was confirmed by %s, who started it, or has changed it since", id, by)
	}
	return err
}

// bringOver rotates the keys of which rows may be under an undeleted version.
func (w *world) bringOver() {
	for _, name := range w.keys {
		if k, _ := w.engine.Key(name); w.db.rows[name] != nil && len(k.Undeleted()) > 0 {
			_, _, err := w.engine.Rotate(ctx, engine.Request{Keys: []string{name}, By: operator, Trigger: rotation.ByOperator, Deadline: time.Hour})
			w.said(err, "rotation of "+name+", of which a version is undeleted")
		}
	}
}

// running returns the ids of rotations that have not ended, oldest first.
func (w *world) running() []string {
	ids, err := w.node.List(ctx, "active/")
	if err != nil {
		w.expect(err, "list of rotations")
	}
	return ids
}

// unblock does what is left to people: they start instances that are missing, and heal what is unhealthy.
func (w *world) unblock() {
	w.people = w.uptime + 10*time.Second
	for _, name := range w.keys { // what rotates by itself would never end
		if k, ok := w.engine.Key(name); ok && !k.Policy.Disabled {
			d := catalog.Definition{Name: k.Name, Env: k.Env, Kind: k.Kind, Options: k.Options, Protects: k.Protects, Witness: k.Witness, Policy: k.Policy}
			d.Policy.Disabled = true
			_, err := w.engine.PutKey(ctx, d, operator)
			w.said(err, "no more rotations of "+name)
		}
	}
	for w.backups < 3 && w.undelete() { // when all else has ended, there is more to bring back
		w.backups++
	}
	w.bringOver()
	for _, id := range w.running() {
		if view, err := w.engine.View(ctx, id); err == nil {
			if view.Paused != nil {
				if view.Deadline > 0 && view.Deadline < time.Minute { // somebody has set less than a step takes
					_, err = w.engine.Tune(ctx, id, rotation.Tuning{Deadline: new(time.Minute), By: operator})
					w.said(err, "longer deadline of "+id)
				}
				_, err = w.engine.Resume(ctx, id, operator, "")
				w.said(err, "resume of "+id)
			} else if view.Confirm && view.Confirmed == "" && view.State == rotation.Soaking {
				by := colleague
				if answerable(view) == colleague {
					by = operator
				}
				err = w.confirm(id, by)
				w.said(err, "confirm of "+id)
			}
			if w.lying && view.Step == rotation.StepErase && w.needless(view) { // a liar has said that it re-encrypted elsewhere, and somebody has looked
				_, err = w.engine.AcceptWitness(ctx, id, colleague, "I have looked")
				w.said(err, "acceptance of a witness of "+id)
			}
		}
	}
	for _, p := range w.procs {
		if p.unhealthy {
			p.unhealthy, p.unreported = false, true
		}
	}
	for _, name := range w.workloads {
		load, _ := w.engine.Workload(name)
		alive := 0
		for _, p := range w.procs {
			if p.alive && p.workload == name && p.id != "" {
				alive++
			}
		}
		missing := load.MinInstances - alive
		if load.Reencrypts { // two have to see that no row is left
			missing = max(missing, 2-alive)
		}
		for range missing {
			p := w.spawn(name)
			p.id, p.token = fmt.Sprintf("calm-%d", w.born), w.newToken(name) // one that both had is no second witness
		}
	}
}

// A liar is one instance of a workload, with its own login and the secret of its own reads. What it says has nothing to do with
// what is: of its bundle, its health, the rows, and whom its proxy has seen. docs/security.md says what rests on its honesty.

// tempt makes a process a liar, where its workload may have one and has none. One that comes after another has the same login.
func (w *world) tempt(p *process) {
	if !w.lying || w.calm || p.id == "" {
		return
	}
	var last *process
	rows := true // it may lie about rows
	load, _ := w.engine.Workload(p.workload)
	for _, old := range w.procs {
		if old.liar && old.workload == p.workload {
			last = old
		}
		rows = rows && (!old.rows || old.workload == p.workload)
	}
	if last != nil && last.alive {
		return
	}
	if last != nil {
		p.token = last.token
	}
	p.liar, p.smooth, p.rows = true, w.chance(50), load.Reencrypts && (rows || w.looks)
}

// silence ends the liars: rotations need not end while somebody says that rows are left, or that he is unhealthy.
func (w *world) silence() {
	for _, p := range w.procs {
		if p.alive && p.liar {
			p.alive, w.changed = false, true
			w.logf("%s is found out, and stopped", p.name())
		}
	}
}

// lie reports anything, on work that is asked, on work of earlier places, and on none.
func (p *process) lie() {
	w := p.w
	report := engine.Report{
		Workload: p.workload, Instance: p.id, Secret: p.reading.Secret, Proof: proofs[w.rng.IntN(len(proofs))], Healthy: p.smooth || w.chance(70), Reason: "so it says",
		Etag: []string{p.reading.Bundle.Holding.Etag, p.reading.Bundle.Holding.Etag, "", "0123456789abcdef0123456789abcdef"}[w.rng.IntN(4)],
	}
	if p.smooth {
		report.Etag = p.reading.Bundle.Holding.Etag
	}
	for _, task := range p.reading.Bundle.Work {
		if p.rows && (p.smooth || w.chance(80)) {
			report.Work = append(report.Work, p.lieOf(task))
		}
	}
	if !p.smooth && w.chance(5) {
		for env, version := range p.reading.Bundle.Versions {
			report.Sightings = append(report.Sightings, workload.Sighting{Env: env, Version: max(1, version-w.rng.IntN(2)), Count: 1 + w.rng.IntN(5), Last: w.now()})
			report.Trips = append(report.Trips, workload.Trip{Env: env, Version: max(1, version-w.rng.IntN(4)), Run: "liar", Count: 1 + w.rng.IntN(500), Last: w.now(), From: []string{"192.0.2.1"}})
		}
		slices.SortFunc(report.Trips, func(a, b workload.Trip) int { return slices.Compare([]byte(a.Env), []byte(b.Env)) })
		slices.SortFunc(report.Sightings, func(a, b workload.Sighting) int { return slices.Compare([]byte(a.Env), []byte(b.Env)) })
	}
	_, err := w.engine.Report(context.Background(), report)
	if w.node.dead {
		return
	}
	if err != nil {
		w.expect(err, "report by "+p.name())
		p.read()
		return
	}
	w.stats.Lies++
	w.changed = true
}

func (p *process) lieOf(task workload.Work) workload.WorkReport {
	w := p.w
	report := workload.WorkReport{ID: task.ID, Done: true}
	count := workload.ColumnReport{Column: "t.c", Total: w.rng.IntN(6)}
	count.Rotated = count.Total
	if p.smooth { // all is done at once, and well
		report.Columns, report.Place = []workload.ColumnReport{count}, place(1)
		return report
	}
	report.Done = w.chance(90)
	switch w.rng.IntN(20) {
	case 0:
		count.Left = 1 + w.rng.IntN(3)
	case 1:
		count.Bad = 1 + w.rng.IntN(3)
	case 2:
		report.Done, report.Error = false, "no route to the database"
	}
	if w.chance(90) {
		report.Columns = []workload.ColumnReport{count}
	}
	if w.chance(90) {
		report.Place = place(1 + w.rng.IntN(8)/7)
	}
	w.logf("%s says of %s of %s: done %v, %d left, %d bad %s", p.name(), task.Phase, task.Key, report.Done, count.Left, count.Bad, report.Error)
	return report
}

// eyesName names a kind, and the connection of it by which the engine looks at rows itself.
const eyesName = "eyes"

// eyes is that kind.
type eyes struct {
	token.Kind
	w *world
}

var (
	_ kind.Connector = eyes{}
	_ kind.RowLooker = eyes{}
)

func (eyes) Name() string                                                       { return eyesName }
func (eyes) ConnectionFields() []kind.Field                                     { return nil }
func (eyes) RotateRoot(context.Context, kind.Connection) error                  { return nil }
func (eyes) NormalizeConnection(c kind.Connection) (kind.Connection, error)     { return c, nil }
func (eyes) CheckConnection(context.Context, kind.Connection) ([]string, error) { return nil, nil }

// LookAtRows opens rows under a value, and fails now and then.
func (e eyes) LookAtRows(_ context.Context, _ kind.Connection, look kind.RowLook) (workload.WorkReport, error) {
	w := e.w
	if !w.calm && w.chance(20) {
		return workload.WorkReport{}, errors.New("simulated: the server does not answer")
	}
	count := workload.ColumnReport{Column: "t.c"}
	for _, name := range w.keys {
		k, _ := w.engine.Key(name)
		for _, row := range w.db.rows[name] {
			count.Total++
			v, _ := k.Version(row)
			switch {
			case sameValue(v, look.Value):
				count.Rotated++
			case slices.ContainsFunc(look.Others, func(o kind.RowValue) bool { return sameValue(v, o.Value) }):
				count.Other++
			default:
				count.Bad++
			}
		}
	}
	w.logf("the engine looks: %d rows, %d bad", count.Total, count.Bad)
	return workload.WorkReport{Done: true, Columns: []workload.ColumnReport{count}, Place: place(1)}, nil
}

func sameValue(v key.Version, value key.Value) bool { return !v.Value.Empty() && v.Value.Equal(value) }
