// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// server is a kind whose values a server verifies: the credentials that are valid there, by key name.
type server struct {
	token.Kind
	w     *world
	valid map[string]map[string]bool
	// cuts are the versions whose sessions were ended when they were retired last, by key name and number.
	cuts map[string]map[int]bool
	// ended are the compromised rotations that have retired a credential, by key name and value.
	ended map[string]map[string]string
}

var (
	_ kind.Undeleter = (*server)(nil)
	_ kind.Inspector = (*server)(nil)
)

// Name implements kind.Kind.
func (s *server) Name() string { return "server" }

func (s *server) call(what string, c kind.Change, do func()) error {
	n := s.w.node
	if c.From.Value.Empty() && c.From.Number > 0 || c.To.Value.Empty() {
		s.w.violate("key %s: %s is called without values", c.Key.Name, what)
	}
	if n.dead {
		return errCrashed
	}
	f := s.w.fault()
	s.w.logf("server: %s %s %d → %d %s", what, c.Key.Name, c.From.Number, c.To.Number, f)
	if f == noFault || f == crashAfter || f == failAfter {
		do()
	}
	switch f {
	case crashBefore, crashAfter:
		n.dead = true
		return errCrashed
	case failBefore, failAfter:
		return errors.New("simulated: the server did not answer")
	case noFault:
	}
	return nil
}

func (s *server) of(c kind.Change) map[string]bool {
	if s.valid[c.Key.Name] == nil {
		s.valid[c.Key.Name] = map[string]bool{}
	}
	return s.valid[c.Key.Name]
}

// Stage implements kind.Server.
func (s *server) Stage(_ context.Context, c kind.Change) error {
	if stored, ok := s.w.engine.Key(c.Key.Name); ok {
		if v, ok := stored.Version(c.To.Number); !ok || !v.Value.Equal(c.To.Value) {
			s.w.violate("key %s: the server hears of version %d before it is stored", c.Key.Name, c.To.Number)
		}
	}
	return s.call("stage", c, func() { s.of(c)[c.To.Value.Reveal()] = true })
}

// Verify implements kind.Server.
func (s *server) Verify(_ context.Context, c kind.Change) error {
	valid := false
	if err := s.call("verify", c, func() { valid = s.of(c)[c.To.Value.Reveal()] }); err != nil {
		return err
	}
	if !valid {
		return errors.New("simulated: login refused")
	}
	return nil
}

// InUse implements kind.Server.
func (s *server) InUse(_ context.Context, c kind.Change) (int, string, error) {
	sessions := 0
	err := s.call("in-use", c, func() { sessions = s.w.sessions(c.Key.Env, c.From.Value.Reveal()) })
	return sessions, fmt.Sprintf("%d sessions", sessions), err
}

// Retire implements kind.Server.
func (s *server) Retire(_ context.Context, c kind.Change) error {
	if n := s.w.sessions(c.Key.Env, c.From.Value.Reveal()); n > 0 && !s.w.cut[c.Key.Name] {
		s.w.violate("key %s: version %d is retired at the server with %d sessions", c.Key.Name, c.From.Number, n)
	}
	id := s.leaked(c.Key.Name)
	err := s.call("retire", c, func() {
		delete(s.of(c), c.From.Value.Reveal())
		if s.cuts[c.Key.Name] == nil {
			s.cuts[c.Key.Name] = map[int]bool{}
		}
		s.cuts[c.Key.Name][c.From.Number] = c.Cut
		if id != "" {
			s.end(c, id)
		}
	})
	if id == "" || err != nil || s.w.calm || s.w.chance(70) {
		return err
	}
	if s.w.chance(50) {
		s.w.logf("Vault is killed before it hears that version %d of %s is retired", c.From.Number, c.Key.Name)
		s.w.node.dead = true
		return errCrashed
	}
	return errors.New("simulated: the server did not answer in time")
}

// end notes that a compromised rotation has retired a credential.
func (s *server) end(c kind.Change, id string) {
	if s.ended[c.Key.Name] == nil {
		s.ended[c.Key.Name] = map[string]string{}
	}
	s.ended[c.Key.Name][c.From.Value.Reveal()] = id
	if c.From.State == key.Undeleted {
		s.w.stats.Leaked++
	}
}

// leaked returns the compromised rotation of a key that is at the step in which it ends credentials of the key, or behind it.
func (s *server) leaked(name string) (id string) {
	for _, status := range s.w.engine.Status() {
		if r := status.Rotation; status.Key.Name == name && r != nil && r.Compromised && r.State == rotation.Retiring {
			id = r.ID
		}
	}
	return id
}

// CheckUndelete implements kind.Undeleter.
func (*server) CheckUndelete(kind.Change) error { return nil }

// Inspect implements kind.Inspector. It finds nothing, so that undeleted versions are tried; at times the server has forgotten
// one.
func (s *server) Inspect(_ context.Context, c kind.Change) (kind.Finding, error) {
	err := s.call("inspect", c, func() {})
	for _, number := range c.Key.Undeleted() {
		if v, _ := c.Key.Version(number); s.w.chance(20) && s.of(c)[v.Value.Reveal()] {
			s.w.logf("the server forgets version %d of %s", number, c.Key.Name)
			delete(s.of(c), v.Value.Reveal())
		}
	}
	return kind.Finding{}, err
}

// Undelete implements kind.Undeleter.
func (s *server) Undelete(_ context.Context, c kind.Change) error {
	if stored, ok := s.w.engine.Key(c.Key.Name); ok {
		if v, _ := stored.Version(c.To.Number); !v.State.Live() || v.Ending {
			s.w.violate("key %s: the server gets version %d, which is %s, ending: %v", c.Key.Name, c.To.Number, v.State, v.Ending)
		}
	}
	if id := s.ended[c.Key.Name][c.To.Value.Reveal()]; id != "" && id == s.leaked(c.Key.Name) {
		s.w.violate("key %s: the server gets version %d, which rotation %s of a compromised key has retired there", c.Key.Name, c.To.Number, id)
	}
	return s.call("undelete", c, func() { s.of(c)[c.To.Value.Reveal()] = true })
}

// Unstage implements kind.Server.
func (s *server) Unstage(_ context.Context, c kind.Change) error {
	if n := s.w.sessions(c.Key.Env, c.To.Value.Reveal()); n > 0 && !s.w.cut[c.Key.Name] {
		s.w.violate("key %s: version %d is taken back at the server with %d sessions", c.Key.Name, c.To.Number, n)
	}
	return s.call("unstage", c, func() { delete(s.of(c), c.To.Value.Reveal()) })
}

// sessions counts the live processes that present a value.
func (w *world) sessions(env, value string) int {
	n := 0
	for _, p := range w.procs {
		if p.running && p.holds.values[env] == value {
			n++
		}
	}
	return n
}

// database has rows that a key encrypts, each the number of the version whose value opens it, by key name. It keeps
// what the real worker keeps in its side schema: how far the work of each rotation is, so that a late worker cannot do
// what the rotation has gone back on (sidecar/reencrypt).
type database struct {
	w    *world
	rows map[string][]int
	rank map[string]int // of the newest work, by rotation and key

	flipped map[string]bool // rotations and keys of which some rows were under the new version
	stray   map[string]bool // keys with a row that nobody who is left has written, or of a backup; it need not open everywhere
}

// work does a piece of work and counts.
func (d *database) work(task workload.Work, accepts []int) workload.WorkReport {
	job := task.Rotation + "/" + task.Key
	report := workload.WorkReport{ID: task.ID, Done: true}
	if task.Rank() < d.rank[job] {
		return workload.WorkReport{ID: task.ID, Error: "the rotation has gone on"}
	}
	d.commitLate(task, accepts)
	d.rank[job] = max(d.rank[job], task.Rank())
	rows := d.rows[task.Key]
	to := task.To
	d.flipped[job] = d.flipped[job] || task.Phase == workload.PhaseFlip
	if task.Phase == workload.PhaseRevert || task.Phase == workload.PhaseCheck && accepts[0] == task.From {
		to = task.From
	}
	count := workload.ColumnReport{Column: "t.c", Total: len(rows)}
	for n, version := range rows {
		if version != to && slices.Contains(accepts, version) && replaces[task.Phase] { // those of undeleted versions, too
			rows[n] = to
		}
		switch {
		case rows[n] == to:
			count.Rotated++
		case task.Phase == workload.PhaseCheck && slices.Contains(accepts, rows[n]):
			count.Other++
		case task.Phase == workload.PhaseCheck: // it opens under nothing that is at hand
			count.Bad++
		default:
			count.Left++
		}
	}
	if replaces[task.Phase] {
		delete(d.stray, task.Key)
	}
	if task.Phase != workload.PhaseWipe {
		report.Columns, report.Place = []workload.ColumnReport{count}, place(1)
	}
	d.w.changed = true
	d.w.logf("%s of %s: %d rows, %d left", task.Phase, task.Key, count.Total, count.Left+count.Bad)
	if replaces[task.Phase] || task.Phase == workload.PhaseWipe { // what it has just made sure of, somebody may undo
		d.w.writeSoon()
	}
	return report
}

// place is a database; 1 is the only one that there is.
func place(system int) *workload.Place {
	return &workload.Place{System: strconv.Itoa(system), Database: "hyvve", OID: 5, Primary: true, Tables: []workload.PlaceTable{{Column: "t.c", OID: 7}}}
}

// commitLate commits a transaction, now and then, that an instance which is gone had begun: between the last pass over the
// rows and the end of the version that goes, a row is under it again. No such transaction outlasts the version.
func (d *database) commitLate(task workload.Work, accepts []int) {
	rows := d.rows[task.Key]
	flipped := d.flipped[task.Rotation+"/"+task.Key]
	if task.Phase != workload.PhaseWipe || d.w.calm || !flipped || len(accepts) == 0 || !d.w.chance(25) {
		return
	}
	leaving := task.From + task.To - accepts[0]
	if d.w.engine != nil {
		k, _ := d.w.engine.Key(task.Key)
		if v, _ := k.Version(leaving); v.Value.Empty() {
			return // the rotation has ended: a worker is late, which another one has done the work of
		}
	}
	rows[d.w.rng.IntN(len(rows))], d.stray[task.Key] = leaving, true
	d.w.logf("a late transaction writes a row of %s under version %d", task.Key, leaving)
}

// replaces are the phases that bring rows from one version to the other.
var replaces = map[workload.Phase]bool{workload.PhaseFlip: true, workload.PhaseSweep: true, workload.PhaseRevert: true}

// newToken is a login that nobody has had. Those of a workload are mostly of one entity, as pods of a service account are.
func (w *world) newToken(workload string) fleet.Token {
	w.tokens++
	id := fmt.Sprintf("t%d", w.tokens)
	entity := "e-" + workload
	if w.chance(10) {
		entity = "e-" + id
	}
	return fleet.Token{ID: id, Accessor: "a-" + id, Entity: entity, Name: id}
}

// inherit lets a process that takes the name of one that has died have what it may of it: the secret, as where it was kept
// on a disk; the token, as where that is in a file; or nothing, as in a new pod.
func (p *process) inherit(old *process) {
	switch p.w.rng.IntN(3) {
	case 0:
		if old.extends && old.reading != nil {
			p.extends, p.secret = true, old.reading.Secret
		}
	case 1:
		p.token = old.token
	}
}

// proof is what a process shows when it reads. Sidecars of earlier releases show nothing.
func (p *process) proof() key.Value {
	switch {
	case !p.extends:
		return key.Value{}
	case p.reading != nil:
		return p.reading.Secret
	}
	return p.secret
}

// relogin logs a process in again. It reads its bundle then, and does nothing else until it was let.
func (p *process) relogin() {
	if p.liar { // two logins would be two witnesses
		return
	}
	p.token, p.stale = p.w.newToken(p.workload), true
	if p.agent != nil {
		p.agent.revoked = true
	}
	p.w.logf("%s logs in again, as %s", p.name(), p.token.Name)
}

// spoke notes that a request of the process, as itself, has come to the engine.
func (p *process) spoke() { p.spokeAt = p.w.uptime }

// impostor reads under the name of an instance that lives and was heard of. It must not be let, and do no harm.
func (w *world) impostor(p *process) {
	i, ok := w.engine.Instance(p.workload, p.id)
	if !ok || p.id == "" || p.stale || i.Login.Name != p.token.Name || p.spokeAt == 0 {
		return
	}
	silent := w.uptime - p.spokeAt
	if silent >= w.engine.Config().TakeoverAfter-time.Second || i.Lease <= 0 || i.FreeIn == 0 {
		return
	}
	token := w.newToken(p.workload)
	_, err := w.engine.Read(ctx, fleet.Reader{Workload: p.workload, Instance: p.id, Token: token, Heartbeat: true}, time.Hour)
	if err == nil && !w.node.dead {
		w.violate("%s took over %s, which was heard of %s ago", token.Name, p.name(), silent)
		return
	}
	w.logf("an impostor of %s: %v", p.name(), err)
}

// cleanUp removes an instance that has ended, as an operator does who knows it.
func (w *world) cleanUp() {
	for _, p := range w.procs {
		if p.alive || p.id == "" || w.livesAs(p.workload, p.id) {
			continue
		}
		if _, ok := w.engine.Instance(p.workload, p.id); ok {
			w.said(w.engine.RemoveInstance(ctx, p.workload, p.id, operator), "removal of "+p.name())
			return
		}
	}
}
