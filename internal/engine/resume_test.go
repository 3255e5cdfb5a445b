// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Somebody who has mended a server need not wait for the next attempt, and the gate says so.
func TestResumeTriesAgainAtOnce(t *testing.T) {
	h := newHarness(t)
	h.key("database", "server")
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"database": {Presents: true, Verifies: true}}})
	h.join("api", "api-1")
	h.server.fail["stage"] = errors.New("permission denied to create role")
	id := h.rotate("database")
	h.rounds(200)
	if waits := h.view(id).Waits(); !strings.Contains(waits, "permission denied to create role; to try again at once: vault write -f hyvve/rotations/"+id+"/resume") {
		t.Errorf("it waits for: %s", waits)
	}
	delete(h.server.fail, "stage")
	h.rounds(1)
	if view := h.view(id); view.Step != rotation.StepStage {
		t.Fatalf("it has not waited: %s", view.Step)
	}
	view, err := h.engine.Resume(t.Context(), id, testActor, "granted")
	h.ok(err)
	if last := view.Timeline[len(view.Timeline)-1]; last.Text != "tried again at once" || last.By != testActor.Name || last.Reason != "granted" {
		t.Errorf("the timeline ends with %+v", last)
	}
	h.round()
	if view := h.view(id); view.Step == rotation.StepStage {
		t.Fatalf("it was not tried: %s", view.Waits())
	}
	_, err = h.engine.Resume(t.Context(), id, testActor, "")
	h.refuses("is not paused", err)
	h.until(id, rotation.Done)
}

// So it is with the engine's own look at rows.
func TestResumeLooksAgainAtOnce(t *testing.T) {
	h := newHarness(t)
	look := &eyes{server: &server{}}
	id, one := h.watched(look, rotation.Retiring)
	look.fault = errors.New("role hyvve may not read column c")
	h.mend()
	h.saw(one, here(), good)
	h.rounds(200)
	h.kept(id, "may not read column c; to try again at once: vault write -f hyvve/rotations/"+id+"/resume")
	look.fault, look.report.Place = nil, here()
	h.rounds(1)
	h.kept(id, "may not read column c")
	_, err := h.engine.Resume(t.Context(), id, testActor, "granted")
	h.ok(err)
	h.round()
	if view := h.view(id); view.State != rotation.Done {
		t.Errorf("%s: %s", view.State, view.Waits())
	}
}
