// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// holding is what a process runs with, by environment name.
type holding struct {
	values  map[string]string
	accepts map[string][]string
}

// process is an instance: a process of a workload and its sidecar. It never lies unless it is a liar, and may vanish.
type process struct {
	w         *world
	workload  string
	id        string // empty: a reader that sends no name, such as Vault Agent
	reencrypt bool
	liar      bool // it reports anything at any time, and no process runs beside it
	smooth    bool // a liar who says that all is done at once, and well
	rows      bool // a liar who lies about rows, too: one is let, and more only where the engine looks itself
	extends   bool // its reports extend its lease, and it leaves by itself; others go by Vault's lease

	alive     bool // the pair exists
	running   bool // the workload runs, with holds
	holds     holding
	unhealthy bool

	token   fleet.Token
	secret  key.Value     // of a read of its predecessor
	stale   bool          // it has another login since its newest read
	spokeAt time.Duration // when the engine was last asked for something in its name

	reading    *engine.Reading // newest that it got
	loaded     string          // etag that the workload runs with
	unreported bool            // it has something to report
	renewAt    time.Duration   // by the world's uptime
	ends       time.Duration   // of its lease, as it knows
	losses     int             // replies lost in a row
	next       time.Duration   // when its sidecar acts again
	done       map[string]bool // work
	agent      *sidecar        // the real one; nil: a model of another one
}

func (p *process) name() string {
	if p.id == "" {
		return p.workload + "/?"
	}
	return p.workload + "/" + p.id
}

// lost draws whether a request or its reply is lost. Networks mend: never many in a row.
func (p *process) lost() (request, reply bool) {
	if p.w.calm || p.losses >= 3 {
		p.losses = 0
		return false, false
	}
	switch p.w.rng.IntN(24) {
	case 0:
		request = true
	case 1:
		reply = true
	default:
		p.losses = 0
		return false, false
	}
	p.losses++
	return request, reply
}

// act is one step of the sidecar.
func (p *process) act() {
	w := p.w
	if p.agent != nil {
		p.agent.act()
		return
	}
	switch {
	case p.reading != nil && p.loaded != p.reading.Bundle.Holding.Etag:
		p.load()
	case w.engine == nil:
		p.next = w.uptime + w.between(time.Second, 10*time.Second)
		return
	case p.reading == nil || p.stale || w.uptime >= p.ends:
		p.read()
	case w.uptime >= p.renewAt:
		p.renew()
	case p.id != "":
		p.watch()
	}
	p.next = w.uptime + p.pause()
}

// pause is how long until the sidecar acts again: soon, and now and then late.
func (p *process) pause() time.Duration {
	if p.id == "" && p.reading != nil { // Vault Agent and its like go by their lease alone, and are prompt
		return max(200*time.Millisecond, min(p.reading.TTL/4, p.w.between(200*time.Millisecond, 2*time.Second)))
	}
	if !p.w.calm && p.w.rng.IntN(30) == 0 {
		return p.w.between(3*time.Second, 10*time.Second)
	}
	return p.w.between(200*time.Millisecond, 3*time.Second)
}

func (p *process) read() {
	w := p.w
	request, reply := p.lost()
	if request {
		return
	}
	reading, err := p.ask(reply)
	if err != nil {
		w.expect(err, "read by "+p.name())
	}
	if reading == nil {
		return
	}
	p.reading, p.stale = reading, false
	p.renewAt, p.ends = w.uptime+reading.TTL/2, w.uptime+reading.TTL
	p.unreported = true
	if p.id == "" {
		p.load()
	}
}

// ask reads the bundle; nil: the answer is lost, perhaps with Vault.
func (p *process) ask(lost bool) (*engine.Reading, error) {
	w := p.w
	reading, err := w.engine.Read(context.Background(), fleet.Reader{
		Workload: p.workload, Instance: p.id, Token: p.token, Secret: p.proof(), Heartbeat: p.extends,
	}, time.Hour)
	if w.node.dead { // whatever the engine stored, Vault never registered a lease
		return nil, nil //nolint:nilnil // as it says
	}
	if err != nil {
		return nil, err
	}
	w.lease(p, reading)
	p.spoke()
	w.checkGroup(p, reading.Bundle.Holding.Keys)
	w.checkBundle(p, reading.Bundle.Holding.Keys)
	w.logf("%s reads %v%s", p.name(), reading.Bundle.Holding.Keys, lostWord(lost))
	if lost {
		return nil, nil //nolint:nilnil // as it says
	}
	return &reading, nil
}

func lostWord(lost bool) string {
	if lost {
		return ", and the reply is lost"
	}
	return ""
}

// load makes the workload run with what was read.
func (p *process) load() {
	if p.loaded = p.reading.Bundle.Holding.Etag; p.liar {
		return
	}
	p.unreported = true
	p.loadFrom(p.reading)
}

// loadFrom makes the workload run with what a reading holds.
func (p *process) loadFrom(r *engine.Reading) {
	p.holds, p.running, p.w.changed = holdingOf(r), true, true
	p.w.logf("%s loads %v", p.name(), r.Bundle.Holding.Keys)
}

func holdingOf(r *engine.Reading) holding {
	h := holding{map[string]string{}, map[string][]string{}}
	for env, v := range r.Bundle.Values {
		h.values[env] = v.Reveal()
	}
	for env, list := range r.Bundle.Accepts {
		for _, v := range list {
			h.accepts[env] = append(h.accepts[env], v.Reveal())
		}
	}
	return h
}

// holdsOf reports whether the workload runs with what a reading holds.
func (p *process) holdsOf(r *engine.Reading) bool {
	return r != nil && p.running && reflect.DeepEqual(p.holds, holdingOf(r))
}

func (p *process) renew() {
	w := p.w
	if p.extends {
		p.extend()
		return
	}
	request, reply := p.lost()
	if request {
		return
	}
	ttl, err := w.engine.Renew(p.workload, p.reading.Instance, p.reading.Epoch, time.Hour)
	if w.node.dead || reply && err == nil {
		if !w.node.dead {
			w.extend(p, ttl)
		}
		return
	}
	if err != nil {
		w.expect(err, "renewal by "+p.name())
		p.read()
		return
	}
	w.extend(p, ttl)
	p.renewAt, p.ends = w.uptime+ttl/2, w.uptime+ttl
}

// extend sends a sign of life. Vault's lease goes its own way.
func (p *process) extend() {
	w := p.w
	request, reply := p.lost()
	if request {
		return
	}
	extended, err := w.engine.Extend(p.workload, p.id, p.reading.Secret, time.Hour)
	if w.node.dead || reply {
		return
	}
	if err != nil || extended.Etag != p.reading.Bundle.Holding.Etag {
		if err != nil {
			w.expect(err, "extension by "+p.name())
		}
		p.read()
		return
	}
	p.renewAt, p.ends = w.uptime+extended.Lease/2, w.uptime+extended.Lease
}

func (p *process) watch() {
	w := p.w
	if !w.engine.SignOfLife(p.workload, p.id, p.token) {
		p.read()
		return
	}
	p.spoke()
	watched, err := w.engine.Watch(context.Background(), p.workload, p.id, p.reading.Bundle.Holding.Etag, 0)
	if err != nil {
		w.expect(err, "watch by "+p.name())
		return
	}
	if watched.Etag != p.reading.Bundle.Holding.Etag {
		p.read()
		return
	}
	if p.liar {
		p.lie()
		return
	}
	if p.unreported || p.reencrypt && len(p.reading.Bundle.Work) > 0 || w.rng.IntN(8) == 0 {
		p.report()
	}
}

func (p *process) report() {
	w := p.w
	report := engine.Report{
		Workload: p.workload, Instance: p.id, Secret: p.reading.Secret, Etag: p.loaded, Proof: w.proofOf(p.name()), Healthy: !p.unhealthy, Reason: "unhealthy",
	}
	report.Work = p.workReports()
	request, reply := p.lost()
	if request {
		return
	}
	etag, err := w.engine.Report(context.Background(), report)
	if w.node.dead || reply {
		return
	}
	if err != nil {
		w.expect(err, "report by "+p.name())
		p.read()
		return
	}
	for _, done := range report.Work {
		p.done[done.ID] = true
	}
	p.unreported = false
	if etag != p.loaded {
		p.next = w.uptime
	}
}

// workReports does the work that is asked, as far as it is not done, and returns what to say of it.
func (p *process) workReports() (all []workload.WorkReport) {
	for _, task := range p.reading.Bundle.Work {
		// A real sidecar repeats what it knows in each report, which matters where others say something else.
		if !p.done[task.ID] || task.Phase == workload.PhaseSweep || p.w.lying {
			all = append(all, p.w.db.work(task, p.reading.Bundle.Holding.Keys[task.Key].Accepts))
		}
	}
	return all
}

func refused(err error) bool {
	var refused *rotation.Refused
	return errors.As(err, &refused)
}

// expect takes a refusal or a simulated failure; any other error is a violation.
func (w *world) expect(err error, what string) {
	switch {
	case refused(err):
		w.logf("%s is refused: %v", what, err)
	case errors.Is(err, errCrashed), errors.Is(err, errStore), w.engine != nil && w.engine.Stale():
		w.logf("%s fails: %v", what, err)
	default:
		w.violate("%s: %v", what, err)
	}
}

// leaseID names a lease as Vault knows it.
type leaseID struct{ workload, instance, epoch string }

// lease registers what Vault would.
func (w *world) lease(p *process, r engine.Reading) {
	id := leaseID{p.workload, r.Instance, r.Epoch}
	if _, ok := w.leases[id]; !ok {
		w.leaseOrder = append(w.leaseOrder, id)
	}
	w.leases[id] = w.now().Add(r.TTL)
	w.leasesAt[id] = w.uptime + r.TTL
}

func (w *world) extend(p *process, ttl time.Duration) {
	id := leaseID{p.workload, p.reading.Instance, p.reading.Epoch}
	if _, ok := w.leases[id]; ok {
		w.leases[id] = w.now().Add(ttl)
		w.leasesAt[id] = w.uptime + ttl
	}
}

// expire revokes the leases whose time is over, as Vault's expiration manager does, again until it succeeds.
func (w *world) expire() {
	if w.engine == nil {
		return
	}
	kept := w.leaseOrder[:0]
	for n, id := range w.leaseOrder {
		if w.node.dead {
			kept = append(kept, w.leaseOrder[n:]...)
			break
		}
		if w.leasesAt[id] > w.uptime {
			kept = append(kept, id)
			continue
		}
		if err := w.engine.Revoke(context.Background(), id.workload, id.instance, id.epoch); err != nil {
			w.expect(err, fmt.Sprintf("revocation of %v", id))
			kept = append(kept, id)
			continue
		}
		w.logf("lease of %s/%s ended", id.workload, id.instance)
		delete(w.leases, id)
		delete(w.leasesAt, id)
	}
	w.leaseOrder = kept
}
