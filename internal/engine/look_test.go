// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// watched is a platform whose key has the connection main as its witness, and whose rotation waits at the end for it and for one
// instance.
func (h *harness) watched(look *eyes, state rotation.State) (id string, one *reader) {
	h.t.Helper()
	h.kinds = kind.List{look}
	h.open()
	one = h.rows()
	h.mend()
	h.witness("main")
	look.report = workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{good}}
	id = h.rotate("master")
	if state == rotation.Reverting {
		h.until(id, rotation.Soaking)
		_, err := h.engine.Revert(h.t.Context(), id, testActor, "")
		h.ok(err)
	}
	look.report.Place = elsewhere()
	h.reach(id, state, rotation.StepErase)
	h.settle()
	return id, one
}

// mend writes the connection main.
func (h *harness) mend() {
	h.t.Helper()
	_, err := h.engine.PutConnection(h.t.Context(), kind.Connection{Name: "main", Kind: "eyes"}, true, testActor)
	h.ok(err)
}

// A witness that has looked at the wrong database looks again once its connection was mended, and what it saw before counts no more.
func TestMendedWitnessLooksAgain(t *testing.T) {
	for state, end := range map[rotation.State]rotation.State{rotation.Retiring: rotation.Done, rotation.Reverting: rotation.Reverted} {
		look := &eyes{server: &server{}}
		h := newHarness(t)
		id, one := h.watched(look, state)
		h.saw(one, here(), good)
		h.kept(id, "the witnesses of its rows have looked at different databases")
		look.report.Place = here()
		before := len(look.looks)
		h.rounds(3)
		if len(look.looks) != before {
			t.Error("it looks again although nothing was mended")
		}
		h.mend()
		h.kept(id, "the engine has opened all rows itself, too, by connection main")
		h.open()
		h.until(id, end)
	}
}

// A look that was under way while its connection was changed says nothing.
func TestLookByAChangedConnection(t *testing.T) {
	look := &eyes{server: &server{}}
	h := newHarness(t)
	id, one := h.watched(look, rotation.Retiring)
	look.report.Place = here()
	h.mend()
	h.saw(one, here(), good)
	if view := h.view(id); !view.Finished() {
		t.Fatalf("%s: %s", view.State, view.Waits())
	}

	h = newHarness(t)
	id, _ = h.watched(look, rotation.Retiring)
	h.mend()
	h.engine.Tick(t.Context())
	if len(h.calls) == 0 { // a regular check of the connection may be another one
		t.Fatal("no look is under way")
	}
	h.mend()
	h.settle()
	if all := h.view(id).WitnessesOf(h.view(id).Changes[0]); len(all) != 1 {
		t.Errorf("witnesses are %+v", all)
	}
	for _, e := range h.view(id).WitnessesOf(h.view(id).Changes[0]) {
		if c, _ := h.engine.Connection("main"); e.Revision == c.Revision {
			t.Error("a look by the connection as it was counts as one by it as it is")
		}
	}
}

// What was seen by a connection that was changed since is not a word that can be accepted.
func TestOutdatedLookIsNotAccepted(t *testing.T) {
	h := newHarness(t)
	id, _ := h.watched(&eyes{server: &server{}}, rotation.Retiring)
	h.mend()
	_, err := h.engine.AcceptWitness(t.Context(), id, testActor, "counted by hand")
	if !refused(err) || !strings.Contains(err.Error(), "no witness has opened every row yet") {
		t.Errorf("%v", err)
	}
}

// Each read of a connection waits for its check, also for one that another read has begun.
func TestReadsOfAConnectionWaitForItsCheck(t *testing.T) {
	h := newHarness(t)
	h.kinds = kind.List{&eyes{server: &server{}}}
	h.open()
	h.mend()
	h.clock.advance(time.Minute)
	look := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return h.engine.LookAtConnection(ctx, "main")
	}
	for n := range 2 {
		if look() || len(h.calls) != 1 {
			t.Errorf("read %d has a result before there is one, with %d checks", n+1, len(h.calls))
		}
	}
	h.settle()
	if !look() || len(h.calls) != 0 {
		t.Error("a read does not take the result of the last moments")
	}
}
