// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// An instance that does not follow a compromised rotation is cut. The rotation says so for good, also after a restart, and the
// instance is locked out until it has loaded something else.
func TestReceiptNamesWhoWasCut(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.readers["agents/agents-2"].deaf = true
	id := h.ask(Request{Keys: []string{"service-token"}, Compromised: true, Deadline: 5 * time.Second, Retain: new(time.Duration)})
	h.until(id, rotation.Done)
	h.open()
	view := h.view(id)
	if !view.WasCut() {
		t.Fatalf("nothing was cut: %+v", view.Receipt)
	}
	left := view.LeftBehind()
	if len(left) != 1 || left[0].Workload != "agents" || left[0].Names.Count != 1 || left[0].Names.List[0].ID != "agents-2" || left[0].Keys["service-token"].Value != 1 {
		t.Errorf("left behind: %+v", left)
	}
	const out = "presents version 1 of SERVICE_TOKEN, which is destroyed"
	want := []LockedOut{{"agents", "agents-2", out}}
	if all := h.engine.LockedOut("agents"); len(all) != 1 || all[0] != want[0] {
		t.Errorf("locked out: %+v, want %+v", all, want)
	}
	for _, part := range []string{
		"rotation " + id + " did not wait for: loaded of presenting switch", "without proof were left: agents: agents-2", "Locked out now: agents/agents-2, which " + out,
		"vault delete hyvve/workloads/agents/instances/agents-2", "vault read hyvve/rotations/" + id + "/receipt",
	} {
		if !strings.Contains(view.CutWarning(), part) {
			t.Errorf("the warning lacks %q: %s", part, view.CutWarning())
		}
	}
	if s := h.engine.Status()[0]; !strings.Contains(s.Cut, "agents: agents-2") {
		t.Errorf("the status says %q", s.Cut)
	}
	for _, s := range view.Receipt.Snapshots {
		for _, holders := range s.Holders {
			if holders.Proof == rotation.ProofReport && holders.Names.List[0].At.IsZero() {
				t.Errorf("%s %s: it is not said when %+v were proven", s.State, s.Step, holders)
			}
		}
	}

	r := h.readers["agents/agents-2"]
	r.deaf = false
	h.round()
	if all := h.engine.LockedOut("agents"); len(all) != 0 {
		t.Errorf("still locked out: %+v", all)
	}
	if text := h.view(id).CutWarning(); !strings.Contains(text, "No instance with a lease is locked out now") {
		t.Errorf("the warning says %s", text)
	}
	h.ok(h.engine.RemoveInstance(t.Context(), "agents", "agents-2", testActor))
	if text := h.view(id).CutWarning(); !strings.Contains(text, "locked out if its process still runs: agents/agents-2") {
		t.Errorf("the warning says %s", text)
	}
	h.clock.advance(25 * time.Hour)
	if s := h.engine.Status()[0]; s.Cut != "" {
		t.Errorf("a day later the status says %q", s.Cut)
	}
}

// An ordinary rotation cuts nobody, and keeps who held what, by which proof, for each step that gave them something else.
func TestReceiptOfAnOrdinaryRotation(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	h.until(id, rotation.Done)
	view := h.view(id)
	if view.WasCut() || view.CutWarning() != "" || len(view.LockedOut) > 0 || h.engine.Status()[0].Cut != "" {
		t.Errorf("something was cut: %s %+v", view.CutWarning(), view.LockedOut)
	}
	var held []string
	for _, s := range view.Receipt.Snapshots {
		for _, g := range s.Holders {
			k := g.Keys["service-token"]
			held = append(held, fmt.Sprintf("%s %s: %d of %s, %s: %d %v", s.State, s.Step, g.Names.Count, g.Workload, g.Proof, k.Value, k.Accepts))
		}
	}
	want := `accepting load: 2 of agents, report: 1 []
accepting load: 2 of api, report: 0 [2 1]
presenting switch: 2 of agents, report: 2 []
presenting switch: 2 of api, report: 0 [2 1]
soaking unused: 2 of agents, report: 2 []
soaking unused: 2 of api, report: 0 [2 1]
retiring load: 2 of agents, report: 2 []
retiring load: 2 of api, report: 0 [2]`
	if got := strings.Join(held, "\n"); got != want {
		t.Errorf("held:\n%s\nwant:\n%s", got, want)
	}
}

// For how long each gate has held a rotation back is known afterwards, also where the engine was restarted meanwhile.
func TestReceiptSaysHowLongGatesHeld(t *testing.T) {
	for _, restart := range []bool{false, true} {
		h := newHarness(t)
		h.hyvve()
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "service-token", Kind: "token", Policy: key.Policy{Soak: 30 * time.Second, Retain: key.Inherit, Deadline: key.Inherit}}, testActor)
		h.ok(err)
		h.readers["agents/agents-1"].deaf = true
		id := h.rotate("service-token")
		for range 20 {
			h.round()
			h.clock.advance(time.Second)
		}
		if restart {
			h.open()
			h.engine.Tick(t.Context())
		}
		h.readers["agents/agents-1"].deaf = false
		h.until(id, rotation.Done)
		held := map[string]time.Duration{}
		for _, g := range h.view(id).Receipt.Gates {
			held[strings.TrimSpace(string(g.State)+" "+string(g.Step))+" "+g.Gate] = g.Held.Round(time.Second)
			if g.Reason == "" || g.Last.IsZero() {
				t.Errorf("%+v does not say why, or when", g)
			}
		}
		if load := held["presenting switch loaded"]; load < 17*time.Second || load > 23*time.Second {
			t.Errorf("restart %v: the gate loaded has held the rotation for %s: %v", restart, load, held)
		}
		if soak := held["soaking soak soak"]; soak < 29*time.Second || soak > 32*time.Second {
			t.Errorf("restart %v: the gate soak has held the rotation for %s: %v", restart, soak, held)
		}
	}
}

// A receipt also says when the engine was away, where nothing holds the rotation back when it comes back.
func TestReceiptSaysThatTheEngineWasAway(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.readers["agents/agents-1"].deaf = true
	id := h.rotate("service-token")
	for range 5 {
		h.round()
	}
	h.clock.advance(time.Minute)
	h.open()
	h.read(h.readers["agents/agents-1"]) // before the engine has looked
	h.readers["agents/agents-1"].deaf = false
	h.until(id, rotation.Done)
	for _, g := range h.view(id).Receipt.Gates {
		if g.State == rotation.Presenting && g.Gate == "unknown" && g.Held >= time.Minute {
			return
		}
	}
	t.Errorf("the minute is in none of %+v", h.view(id).Receipt.Gates)
}

// Who was seen with the old version at its server is known afterwards.
func TestReceiptSaysWhoWasSeen(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	h.server.inUse = 2
	id := h.rotate("db")
	view := h.until(id, rotation.Soaking)
	for range 10 {
		h.round()
		h.clock.advance(time.Second)
	}
	h.server.inUse = 0
	h.until(id, rotation.Done)
	view = h.view(id)
	if len(view.Receipt.Uses) != 1 {
		t.Fatalf("uses: %+v", view.Receipt.Uses)
	}
	if use := view.Receipt.Uses[0]; use.Text != "DB: version 1 is in use: sessions" || use.Times < 5 || use.Last.Sub(use.First) < 5*time.Second {
		t.Errorf("%+v", use)
	}
}

// The document has the journal's entries of its rotation, and the digest of what it has recorded is among them.
func TestDocument(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.key("other", "token")
	h.workload(workload.Workload{Name: "web", MinInstances: 1, Keys: map[string]workload.Role{"other": {Presents: true}}})
	h.join("web", "web-1")
	h.until(h.rotate("other"), rotation.Done)
	id := h.rotate("service-token")
	h.until(h.rotate("other"), rotation.Done)
	h.until(id, rotation.Done)
	h.open()
	d, err := h.engine.Document(t.Context(), id)
	h.ok(err)
	if len(d.Entries) != len(d.Timeline) || d.Missing != 0 || d.Head != h.engine.Journal().Head() {
		t.Errorf("%d entries of %d events, %d missing, head %v", len(d.Entries), len(d.Timeline), d.Missing, d.Head)
	}
	last := d.Entries[len(d.Entries)-1]
	if len(last.Changes) != 1 || last.Changes[0].Field != fieldReceipt || last.Changes[0].To != d.Digest || d.Digest == "" {
		t.Errorf("the digest is %s, and the journal says %+v", d.Digest, last.Changes)
	}
	if f := d.Fingerprints["service-token"]; f.From == "" || f.To == "" || f.From == f.To {
		t.Errorf("fingerprints: %+v", f)
	}
}
