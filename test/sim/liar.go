// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

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
		Workload: p.workload, Instance: p.id, Secret: p.reading.Secret, Healthy: p.smooth || w.chance(70), Reason: "so it says",
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
		}
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
