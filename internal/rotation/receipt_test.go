// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Of 3000 instances, all that were cut are named, and of the others a sample; the receipt stays within its bound, and so does
// the one of a fleet that is larger than that.
func TestReceiptOfALargeFleet(t *testing.T) {
	for _, c := range []struct {
		instances, cut int
		all            bool
	}{{3000, 0, true}, {3000, 700, true}, {3000, 3000, true}, {8000, 8000, false}} {
		at := time.Date(2026, 11, 30, 1, 2, 3, 456789, time.UTC)
		w := workload.Workload{Name: "agents", Keys: map[string]workload.Role{"service-token": {Presents: true}}}
		r := Rotation{ID: "r", Changes: []Change{{Key: "service-token", Env: "SERVICE_TOKEN", From: 1, To: 2}}, Compromised: true, State: Presenting, Step: StepSwitch}
		fact := WorkloadFact{Workload: w}
		for n := range c.instances {
			i := workload.Instance{Workload: "agents", ID: fmt.Sprintf("agents-7d9c5b6f4-%06d", n), Healthy: n%2 == 0}
			stage := stagePresent
			if n < c.cut {
				stage = stageOld
			}
			i = i.Given(workload.Holding{Keys: r.expected(w, stage)}).Proved(at.Add(time.Duration(n)))
			fact.Instances = append(fact.Instances, i)
		}
		f := Facts{Now: at, Workloads: []WorkloadFact{fact}}
		cutAll := []GateResult{{Name: string(gateLoaded), Holds: true, Reason: "cut"}, {Name: string(gateHealthy), Holds: true, Reason: "cut"}, {Name: string(gateUnused), Holds: true, Reason: "cut"}}
		for _, p := range table {
			if p.revert != (transition{}) || p.state == Retiring && p.name == StepLoad {
				r.State, r.Step = p.state, p.name
				r = r.recorded(f, cutAll)
			}
		}
		if size := encodedSize(r.Receipt); size > maxReceipt {
			t.Errorf("%d instances, %d cut: the receipt has %d bytes", c.instances, c.cut, size)
		} else {
			t.Logf("%d instances, %d cut: %d bytes", c.instances, c.cut, size)
		}
		count, listed, digests := 0, 0, 0
		for _, h := range r.LeftBehind() {
			count, listed = count+h.Names.Count, listed+len(h.Names.List)
			if h.Names.Digest != "" {
				digests++
			}
		}
		if count != c.cut || c.all != (listed == c.cut) || c.all == (digests > 0) {
			t.Errorf("%d instances, %d cut: %d are counted, %d named, with %d digests", c.instances, c.cut, count, listed, digests)
		}
		last := r.Receipt.Snapshots[len(r.Receipt.Snapshots)-1]
		proven := Names{}
		for _, h := range last.Holders {
			if h.Proof == ProofReport {
				proven = h.Names
			}
		}
		if proven.Count != c.instances-c.cut || proven.Count > 0 && (len(proven.List) != sampledNames || len(proven.Digest) != 64) {
			t.Errorf("proven: %d, %d named, digest %q", proven.Count, len(proven.List), proven.Digest)
		}
	}
}

// The digest is of what is stored, so that it is the same when the record is read again, and says when anything was changed.
func TestReceiptDigestOutlivesStorage(t *testing.T) {
	at := time.Date(2026, 11, 30, 1, 2, 3, 456789, time.FixedZone("", 3600))
	r := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2}}, State: Soaking, Step: StepUnused, Created: at.Add(-time.Hour)}
	w := workload.Workload{Name: "w", Keys: map[string]workload.Role{"k": {Presents: true, Verifies: true}}}
	i := workload.Instance{Workload: "w", ID: "w-1", Sightings: []workload.Sighting{{Env: "K", Version: 1, Count: 3, Last: at, From: "10.0.0.7"}}}
	f := Facts{Now: at, Workloads: []WorkloadFact{{Workload: w, Instances: []workload.Instance{
		i.Given(workload.Holding{Keys: r.expected(w, stagePresent)}).Proved(at), {Workload: "w", ID: "lease-1", Anonymous: true},
	}}}}
	r = r.recorded(f, []GateResult{{Name: string(gateObserved), Holds: true, Reason: "cut <&>: 2 sessions"}})
	r, _ = r.Noting(r, Notes{At: at}.Looked(r, []GateResult{{Name: "soak", Reason: "1s left"}}, at).Looked(r, nil, at.Add(time.Second)).Seen("psql", at), at.Add(2*time.Second))
	sum, stored := r.Receipt.Digest()
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	sumAgain, storedAgain := again.Receipt.Digest()
	if sum != sumAgain || len(again.Receipt.Uses) != 2 || len(again.Receipt.Cuts) != 1 || len(again.Receipt.Snapshots) != 1 || again.Receipt.Gates[0].Held != time.Second {
		t.Errorf("stored:\n%s\nread again:\n%s", stored, storedAgain)
	}
	again.Receipt.Cuts = nil
	if other, _ := again.Receipt.Digest(); other == sum {
		t.Error("a receipt without its cut has the same digest")
	}
}

// What a proxy has seen is counted once, in however many steps it is looked at.
func TestReceiptCountsASightingOnce(t *testing.T) {
	at := time.Date(2026, 11, 30, 1, 2, 3, 0, time.UTC)
	r := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2}}, Created: at.Add(-time.Hour), State: Soaking}
	seen := func(step Step, count int, from string) {
		r.Step = step
		i := workload.Instance{Workload: "w", ID: "w-1", Sightings: []workload.Sighting{{Env: "K", Version: 1, Count: count, Last: at, From: from}}}
		r = r.recorded(Facts{Now: at, Workloads: []WorkloadFact{{Workload: workload.Workload{Name: "w"}, Instances: []workload.Instance{i}}}}, nil)
	}
	for _, c := range []struct {
		count int
		from  string
		want  string
	}{{3, "10.0.0.7", "3"}, {5, "10.0.0.7", "5"}, {6, "10.0.0.8", "5 1"}, {2, "10.0.0.8", "5 3"}} { // in the end, by a proxy that was restarted
		at = at.Add(time.Minute)
		seen(StepSoak, c.count, c.from)
		seen(StepUnused, c.count, c.from)
		var times []string
		for _, u := range r.Receipt.Uses {
			times = append(times, fmt.Sprint(u.Times))
		}
		if got := strings.Join(times, " "); got != c.want {
			t.Fatalf("%d by %s: %s times, want %s", c.count, c.from, got, c.want)
		}
	}
}

// Uses are few, however many there were: the first ones and the newest.
func TestReceiptKeepsFewUses(t *testing.T) {
	var all []Use
	for n := range 100 {
		all = withUse(all, Use{Text: fmt.Sprint(n), Times: 1})
		all = withUse(all, Use{Text: fmt.Sprint(n), Times: 1})
	}
	if len(all) != maxUses || all[0].Text != "0" || all[firstUses].Text != "92" || all[maxUses-1].Text != "99" || all[maxUses-1].Times != 2 {
		t.Errorf("%+v", all)
	}
}
