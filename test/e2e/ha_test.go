// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// move is where a rotation is when the cluster loses its leader, and how the rotation must end.
type move struct{ state, step, end string }

var moves = []move{
	{"accepting", "load", "done"},
	{"presenting", "switch", "done"},
	{"soaking", "soak", "done"},
	{"retiring", "load", "done"},
	{"reverting", "switch", "reverted"},
}

// TestHighAvailability kills the leader of a cluster of three in the middle of each move of a rotation under load, and
// starts it again as a follower; and makes leaders step down, which live on. In full length it does so three times.
func TestHighAvailability(t *testing.T) {
	size := small(true)
	size.Cluster = true
	w := start(t, size)
	rounds := 1
	if long() {
		rounds = 3
	}
	for range rounds {
		for _, at := range moves {
			w.loseLeader(at)
		}
		w.stepDownAndReturn()
	}
	w.conclude()
}

// loseLeader kills the leader while a rotation is in a move, and follows the rotation to its end.
func (w *world) loseLeader(at move) {
	w.t.Helper()
	id := w.lead(at)
	w.reach(id, at.state, at.step)
	leader, err := w.Cluster.KillLeader(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	killed := time.Now()
	next := w.leader()
	took := time.Since(killed)
	if err := leader.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	r := w.follow(id, at.end)
	if got := stateAt(r, killed); got != at.state {
		w.t.Errorf("the rotation was %s when the leader was killed, not %s", got, at.state)
	}
	w.t.Logf("killed in %s %s: %s followed %s after %s; the rotation took %s from then to its end", at.state, at.step,
		next.Addr, leader.Addr, took.Round(time.Millisecond), ended(r).Sub(killed).Round(time.Millisecond))
	w.onlyLeaderRunsPlugin()
}

// lead starts a rotation, and takes it back if it is to be reverted.
func (w *world) lead(at move) string {
	w.t.Helper()
	soak := "2s"
	if at.end == "reverted" {
		soak = "1h"
	}
	w.write("hyvve/config", map[string]any{"soak": soak, "observe": "1s"})
	id := w.begin("encryption-master-key", "agent-service-token")
	if at.end == "reverted" {
		w.reach(id, "soaking", "soak")
		if _, err := w.Engine.Revert(w.t.Context(), id); err != nil {
			w.t.Fatal(err)
		}
	}
	return id
}

// stepDownAndReturn makes the leader step down in the middle of a rotation, and the leaders after it until one leads that
// did so before. What that one had in memory is of the past by then: it has to read storage again.
func (w *world) stepDownAndReturn() {
	w.t.Helper()
	id := w.lead(move{end: "done"})
	w.reach(id, "presenting", "switch")
	first, now := w.stepDown()
	w.follow(id, "done")
	id = w.begin("jwt-secret")
	for led := map[*bed.Vault]bool{first: true}; !led[now]; {
		led[now] = true
		_, now = w.stepDown()
	}
	w.follow(id, "done")
	w.onlyLeaderRunsPlugin()
}

// stepDown is to be quick: Vault lets requests that block end first, and takes no other meanwhile.
func (w *world) stepDown() (before, after *bed.Vault) {
	w.t.Helper()
	begun := time.Now()
	before, after, err := w.Cluster.StepDown(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	took := time.Since(begun)
	w.t.Logf("stepped down: %s followed %s after %s", after.Addr, before.Addr, took.Round(time.Millisecond))
	if took > 15*time.Second {
		w.t.Errorf("stepping down took %s", took)
	}
	return before, after
}

// onlyLeaderRunsPlugin checks what the engine relies on: that it is not loaded where it must not write.
func (w *world) onlyLeaderRunsPlugin() {
	w.t.Helper()
	leader := w.leader()
	for _, v := range w.Cluster.Nodes {
		pids, err := v.Plugins()
		if err != nil {
			w.t.Fatal(err)
		}
		if want := v == leader; (len(pids) > 0) != want {
			w.t.Errorf("%s (leader: %v) runs %d processes of the plugin", v.Addr, want, len(pids))
		}
	}
}

func (w *world) leader() *bed.Vault {
	w.t.Helper()
	v, err := w.Cluster.Leader(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// stateAt returns the state of a rotation at a moment.
func stateAt(r api.Rotation, at time.Time) string {
	state := ""
	for _, e := range r.Timeline {
		if !e.Time.After(at) {
			state = e.State
		}
	}
	return state
}

func ended(r api.Rotation) time.Time { return r.Timeline[len(r.Timeline)-1].Time.Time }
