// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var ctx = context.Background()

var (
	operator  = rotation.Actor{Name: "operator", Entity: "e-1"}
	colleague = rotation.Actor{Name: "colleague", Entity: "e-2"} // who confirms what the operator may not
)

func newWorld(seed uint64, log io.Writer) *world {
	w := &world{
		seed: seed, log: log, rng: rand.New(rand.NewPCG(seed, 0x68797676)),
		disk:   &disk{data: map[string][]byte{}},
		leases: map[leaseID]time.Time{}, leasesAt: map[leaseID]time.Duration{},
		serverKind: map[string]bool{}, edited: map[string]bool{}, cut: map[string]bool{}, groups: map[string][]rotation.Change{},
	}
	w.lying = w.chance(10)
	w.server = &server{w: w, valid: map[string]map[string]bool{}, ended: map[string]map[string]string{}, cuts: map[string]map[int]bool{}}
	w.issuer = &issuer{server: w.server, orders: map[string]string{}, late: map[string]string{}}
	w.db = &database{w: w, rows: map[string][]int{}, rank: map[string]int{}, flipped: map[string]bool{}, stray: map[string]bool{}}
	return w
}

// quiet hears nothing: what happens is in the records.
type quiet struct{ w *world }

func (q quiet) Moved(r rotation.Rotation, e rotation.Event) {
	q.w.checkProofs(r)
	q.w.regroup(r)
	q.w.logf("%s %v: %s %s: %s", r.ID[len(r.ID)-6:], r.KeyNames(), e.State, e.Step, e.Text)
}

func (q quiet) Fault(what string, err error) {
	// What a server has forgotten, and the faults of the check's own calls; what liars say of retired versions.
	if strings.HasPrefix(what, "check of ") || strings.HasPrefix(what, "tripwire of ") {
		q.w.logf("%s: %v", what, err)
		return
	}
	q.w.expect(err, what)
}

func (quiet) Journal(journal.Head) {}

func (w *world) options() engine.Options {
	return engine.Options{
		Store: w.node, Kinds: kind.List{token.Kind{}, w.server, w.issuer, eyes{token.Kind{}, w}}, Observer: quiet{w}, Now: w.now,
		Uptime: func() time.Duration { return w.uptime }, Random: source{w.rng}, Background: w.background,
	}
}

// source is the world's chance as a stream of bytes.
type source struct{ rng *rand.Rand }

func (s source) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.rng.Uint32())
	}
	return len(p), nil
}

// setUp makes a platform, without mishaps.
func (w *world) setUp() {
	w.calm = true
	w.open()
	c := catalog.DefaultConfig()
	c.LeaseTTL, c.Soak, c.Observe, c.CutAfter = leaseTTL, w.between(0, 10*time.Second), w.between(0, 10*time.Second), 20*time.Second
	c.LookEvery = w.between(20*time.Second, 2*time.Minute)
	if w.chance(50) {
		c.Deadline = w.between(10*time.Second, 2*time.Minute)
	}
	if w.chance(50) {
		c.OnFailure = rotation.FailureRevert
	}
	w.must(w.engine.PutFloor(ctx, catalog.Floor{Entries: 100}, operator))
	w.must(w.engine.PutConfig(ctx, c, operator))
	_, err := w.engine.PutConnection(ctx, kind.Connection{Name: eyesName, Kind: eyesName}, true, operator)
	w.must(err)
	for n := range 1 + w.rng.IntN(4) {
		w.makeKey(n)
	}
	w.makeWorkloads()
	w.requireProofs()
	for _, name := range w.workloads {
		for range w.rng.IntN(4) {
			w.spawn(name)
		}
	}
	w.people, w.mishap, w.writer = w.between(0, 30*time.Second), w.between(0, 30*time.Second), time.Second
	w.calm = false
}

func (w *world) must(err error) {
	if err != nil {
		w.violate("setting up: %v", err)
	}
}

// makeKey makes a token, a credential of a server, or a key that encrypts rows.
func (w *world) makeKey(n int) {
	d := catalog.Definition{Name: fmt.Sprintf("key-%d", n), Kind: "token", Policy: w.policy()}
	switch w.rng.IntN(3) {
	case 0:
		if d.Kind = w.server.Name(); w.chance(40) {
			d.Kind = w.issuer.Name()
		}
		w.serverKind[d.Name] = true
	case 1:
		if n == 0 {
			d.Protects = []key.Column{{Table: "t", Column: "c", Layout: key.TagFirst}}
			w.db.rows[d.Name] = slices.Repeat([]int{1}, 1+w.rng.IntN(5))
			if w.chance(40) {
				d.Witness, w.looks = eyesName, true
			}
		}
	}
	_, err := w.engine.PutKey(ctx, d, operator)
	w.must(err)
	k, _, err := w.engine.First(ctx, d.Name, key.Value{}, operator)
	w.must(err)
	if current, ok := k.Current(); ok && w.serverKind[d.Name] {
		w.server.valid[d.Name] = map[string]bool{current.Value.Reveal(): true}
	}
	w.keys = append(w.keys, d.Name)
}

func (w *world) policy() key.Policy {
	p := key.Policy{Soak: key.Inherit, Observe: key.Inherit, Deadline: key.Inherit, Retain: key.Inherit}
	switch n := w.rng.IntN(10); {
	case n < 3:
		p.Period = w.between(30*time.Second, 5*time.Minute)
	case n < 4:
		p.Schedule = "*/2 * * * *"
		if w.chance(50) {
			p.Window = schedule.MinWindow
		}
	}
	switch n := w.rng.IntN(10); {
	case n < 2:
		p.Retain = 0
	case n < 7:
		p.Retain = w.between(time.Second, 3*time.Minute)
	}
	if w.chance(15) {
		p.Confirm = rotation.ConfirmManual
		if w.chance(50) {
			p.ConfirmBy = rotation.ConfirmByOther
		}
	}
	return p
}

// makeWorkloads makes the workloads, so that every key has at least one user.
func (w *world) makeWorkloads() {
	roles := make([]map[string]workload.Role, 1+w.rng.IntN(4))
	for n := range roles {
		roles[n] = map[string]workload.Role{}
	}
	for _, name := range w.keys {
		first := w.rng.IntN(len(roles))
		for n := range roles {
			if n != first && w.chance(50) {
				continue
			}
			role := workload.Role{Presents: w.chance(60), Verifies: w.chance(60)}
			if role.Verifies && w.db.rows[name] == nil && w.chance(5) {
				role.Single = true
				w.cut[name] = true // there will be gaps, and rotate says so
			}
			if w.serverKind[name] {
				role = workload.Role{Presents: true}
			} else if w.db.rows[name] != nil && n == first {
				role = workload.Role{Presents: w.chance(50), Verifies: true}
			}
			if role != (workload.Role{}) || n == first {
				if role == (workload.Role{}) {
					role.Presents = true
				}
				roles[n][name] = role
			}
		}
	}
	for n, keys := range roles {
		if len(keys) == 0 {
			continue
		}
		load := workload.Workload{
			Name: fmt.Sprintf("load-%d", n), Keys: keys, MinInstances: w.rng.IntN(3),
			MaxUnavailable: []string{"1", "34%", "50%", "100%"}[w.rng.IntN(4)],
		}
		for _, earlier := range w.workloads {
			if w.chance(30) {
				load.After = append(load.After, earlier)
			}
		}
		for _, name := range w.keys {
			load.Reencrypts = load.Reencrypts || w.db.rows[name] != nil && keys[name].Verifies
		}
		w.must(w.engine.PutWorkload(ctx, load, false, operator))
		w.workloads = append(w.workloads, load.Name)
	}
}

// spawn starts an instance of a workload, now and then under the name of one that has died.
func (w *world) spawn(name string) *process {
	w.born++
	p := &process{
		w: w, workload: name, id: fmt.Sprintf("i%d", w.born), alive: true, token: w.newToken(name),
		next: w.uptime + w.between(0, 2*time.Second), done: map[string]bool{},
	}
	load, _ := w.engine.Workload(name)
	p.reencrypt = load.Reencrypts
	presentsOnly := true
	for _, role := range load.Keys {
		presentsOnly = presentsOnly && !role.Verifies
	}
	if presentsOnly && w.chance(15) {
		p.id = ""
	}
	p.extends = p.id != "" && w.chance(50)
	if p.id != "" && w.chance(20) {
		var predecessor *process
		for _, old := range w.procs {
			if old.workload == name && !old.alive && old.id != "" && !w.livesAs(name, old.id) {
				predecessor = old
			}
		}
		if predecessor != nil {
			p.id = predecessor.id
			p.inherit(predecessor)
		}
	}
	if w.tempt(p); p.extends && !p.liar && w.chance(80) {
		p.agent = newSidecar(p)
	}
	w.procs = append(w.procs, p)
	w.logf("%s starts", p.name())
	return p
}

func (w *world) livesAs(name, id string) bool {
	return slices.ContainsFunc(w.procs, func(p *process) bool { return p.alive && p.workload == name && p.id == id })
}

// misfortune happens to instances, to Vault and to clocks.
func (w *world) misfortune() {
	w.mishap = w.uptime + w.between(2*time.Second, 40*time.Second)
	var alive []*process
	for _, p := range w.procs {
		if p.alive {
			alive = append(alive, p)
		}
	}
	if w.engine == nil {
		return
	}
	if w.storm {
		w.storm = false
		w.logf("Vault is killed again")
		w.node.dead = true
		return
	}
	switch n := w.rng.IntN(13); {
	case n == 10 && len(alive) > 0:
		alive[w.rng.IntN(len(alive))].relogin()
	case n > 10 && len(alive) > 0:
		w.impostor(alive[w.rng.IntN(len(alive))])
	case n < 3 || len(alive) == 0:
		if len(w.procs) < 40 {
			w.spawn(w.workloads[w.rng.IntN(len(w.workloads))])
		}
	case n < 5:
		w.end(alive[w.rng.IntN(len(alive))])
	case n < 7:
		p := alive[w.rng.IntN(len(alive))]
		p.unhealthy, p.unreported = !p.unhealthy, true
		w.logf("%s unhealthy: %v", p.name(), p.unhealthy)
	case n < 8:
		w.skew += w.between(-time.Minute, 5*time.Minute)
		w.logf("the clock jumps: %s", w.skew)
	default:
		w.logf("Vault is killed")
		w.node.dead = true
		if w.chance(40) { // and again soon after it has come back
			w.kills = 1 + w.rng.IntN(3)
		}
	}
}

// again kills Vault once more while those that have lost it are still coming back.
func (w *world) again() {
	if w.kills > 0 && !w.calm {
		w.kills--
		w.mishap, w.storm = w.uptime+w.between(100*time.Millisecond, 15*time.Second), true
	}
}

// straggle makes some instances come back late to a Vault that has been away: within the minute that the engine gives
// them, and so that they run with what they had until then.
func (w *world) straggle() {
	if w.calm {
		return
	}
	for _, p := range w.procs {
		if p.alive && w.chance(25) {
			p.next = max(p.next, w.back+w.between(0, 50*time.Second))
		}
	}
}

// end ends an instance: without a word, or with its lease revoked.
func (w *world) end(p *process) {
	p.alive, p.running, w.changed = false, false, true
	if w.chance(50) || p.reading == nil {
		w.logf("%s vanishes", p.name())
		return
	}
	w.logf("%s leaves", p.name())
	if p.extends {
		if err := w.engine.Leave(ctx, p.workload, p.id, p.reading.Secret); err != nil {
			w.expect(err, "leave of "+p.name())
		}
		return
	}
	id := leaseID{p.workload, p.reading.Instance, p.reading.Epoch}
	if _, ok := w.leases[id]; ok {
		w.leasesAt[id], w.leases[id] = w.uptime, w.now()
	}
}

// write lets the application write a row with what it presents.
func (w *world) write() {
	w.writer = w.uptime + w.between(500*time.Millisecond, 8*time.Second)
	if w.engine == nil {
		return
	}
	for _, name := range w.keys {
		rows := w.db.rows[name]
		if len(rows) == 0 {
			continue
		}
		k, _ := w.engine.Key(name)
		for _, p := range w.procs {
			if !p.running || p.liar || !w.chance(40) {
				continue
			}
			for _, v := range k.Versions {
				if value := p.holds.values[k.Env]; value != "" && value == v.Value.Reveal() {
					rows[w.rng.IntN(len(rows))] = v.Number
					w.changed = true
				}
			}
		}
	}
}

// writeSoon lets the application write before much else happens: between two passes over its rows, and between the last
// one and the end of a version.
func (w *world) writeSoon() {
	if w.chance(50) {
		w.writer = min(w.writer, w.uptime+w.between(time.Millisecond, 500*time.Millisecond))
	}
}
