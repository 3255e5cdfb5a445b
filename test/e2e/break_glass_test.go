// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// After an intrusion, one command rotates all keys of the platform under load: in one rotation, of which nobody notices anything. Each
// instance reloads at most once a step, nothing of before is valid any more, and the receipt has all of it.
func TestBreakGlassUnderLoad(t *testing.T) {
	w := start(t, small(true))
	w.revokesLogins()
	w.countsAllRows()
	var want []string
	for _, k := range facts.Keys(facts.Servers{Database: "main", Redis: "cache"}) {
		want = append(want, k.Name)
	}
	slices.Sort(want)
	w.write("hyvve/keys/partner-key", map[string]any{"kind": "external", "value": "canary-of-a-partner"})
	w.write("hyvve/workloads/auditor", map[string]any{"add_verifies": "partner-key"})
	asked := map[string]any{"keys": "all", "compromised": true, "detailed": true, "reason": "an intruder in the cluster"}
	for _, dry := range []bool{true, false} {
		asked["dry_run"] = dry
		answer := w.breakGlass(asked)
		if !slices.Equal(answer.Keys, want) || len(answer.With) > 0 || len(answer.LeftOut) != 1 || answer.LeftOut[0].Key != "partner-key" || !strings.Contains(answer.LeftOut[0].Reason, "compromised=true value=-") {
			t.Fatalf("dry run %v: %+v", dry, answer)
		}
	}
	begun := time.Now()
	r := w.follow("latest", "done")
	t.Logf("%d keys in %s", len(r.Keys), r.Since.Sub(r.Created.Time).Round(time.Millisecond))
	if r.Outcome != "done" || time.Since(begun) > time.Minute {
		t.Errorf("%s: %+v", r.Outcome, r.Cuts)
	}
	w.reloadedOnceAStep(r)
	for env, initial := range w.Initial {
		if now := w.newest()[env]; now.Empty() || now.Equal(initial) {
			t.Errorf("%s has its initial value", env)
		}
	}
	run := commands{t: t, vault: w.Vault}
	for _, step := range r.NextSteps {
		run.ok(strings.TrimPrefix(step, "vault "), "last_root_rotation")
	}
	if left, err := w.Engine.Rotation(t.Context(), r.ID); err != nil || len(r.NextSteps) != 3 || len(left.NextSteps) > 0 {
		t.Errorf("after %q, %q is left to do (%v)", r.NextSteps, left.NextSteps, err)
	}
	w.hasAll(w.receipt(r.ID), want)
	w.journalIsWhole()
	w.conclude()
}

// answered is an answer to a rotation of all keys, or its plan.
type answered struct {
	Keys []string `json:"keys"`
	api.AllKeys
}

func (w *world) breakGlass(asked map[string]any) (a answered) {
	w.t.Helper()
	secret, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), bed.Mount+"/rotate", asked)
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := json.Marshal(secret.Data)
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// revokesLogins ends all tokens that anybody has logged in for as a workload, as docs/incident.md says, and waits until all sidecars have
// logged in again.
func (w *world) revokesLogins() {
	w.t.Helper()
	run := commands{t: w.t, vault: w.Vault}
	began := time.Now()
	run.ok("lease revoke -prefix auth/approle/login", "successfully")
	kit.Until(w.t, "all sidecars have logged in again", func() bool {
		back := 0
		for _, name := range []string{"api", "agents"} {
			secret, err := w.Server.Client.Logical().ReadWithDataWithContext(w.t.Context(), "hyvve/workloads/"+name, map[string][]string{"detailed": {"true"}})
			if err != nil {
				w.t.Fatal(err)
			}
			instances, _ := secret.Data["instances"].([]any)
			for _, i := range instances {
				instance, _ := i.(map[string]any)
				joined, err := time.Parse(time.RFC3339Nano, fmt.Sprint(instance["seen"]))
				if err == nil && joined.After(began) && instance["healthy"] == true {
					back++
				}
			}
		}
		return back == len(w.Sidecars)
	}, func() string { return w.Sidecars["api-1"].Tail() })
	w.t.Logf("all sidecars have logged in again after %s", time.Since(began).Round(time.Millisecond))
}

// countsAllRows waits until a plan has all keys in one rotation: that is so when their rows have been counted.
func (w *world) countsAllRows() {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		plan := w.breakGlass(map[string]any{"keys": "all", "compromised": true, "dry_run": true, "detailed": true})
		if len(plan.With) == 0 {
			return
		}
		select {
		case <-deadline:
			w.t.Fatalf("%+v", plan.With)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// reloadedOnceAStep checks by the logs of the sidecars that no instance was reloaded twice in a step of a rotation.
func (w *world) reloadedOnceAStep(r api.Rotation) {
	w.t.Helper()
	for name, p := range w.Sidecars {
		log, err := os.ReadFile(p.LogPath)
		if err != nil {
			w.t.Fatal(err)
		}
		times := map[string]int{}
		for line := range strings.Lines(string(log)) {
			var said struct {
				Time    time.Time `json:"time"`
				Message string    `json:"msg"`
			}
			if json.Unmarshal([]byte(line), &said) == nil && said.Message == "workload was made to reload" && said.Time.After(r.Created.Time) {
				times[stepAt(r, said.Time)]++
			}
		}
		w.t.Logf("%s was reloaded in %v", name, times)
		if len(times) == 0 || slices.Max(slices.Collect(maps.Values(times))) > 1 {
			w.t.Errorf("%s was reloaded in %v", name, times)
		}
	}
}

// stepAt is where a rotation was at a time.
func stepAt(r api.Rotation, at time.Time) (step string) {
	for _, e := range r.Timeline {
		if !e.Time.After(at) {
			step = e.State + " " + e.Step
		}
	}
	return step
}

var receiptLine = regexp.MustCompile(`(?m)^line_\d+`)

// hasAll checks that a receipt is complete: all keys with their fingerprints, what all instances held at the end of each step in which
// they changed, both witnesses of the rows, the key that was left out, and the journal. The text has it, too.
func (w *world) hasAll(receipt api.Receipt, keys []string) {
	w.t.Helper()
	run := commands{t: w.t, vault: w.Vault}
	words := []string{"left out: key partner-key: its values come from elsewhere", "reason: an intruder in the cluster", "the request set keys to all", "gates that were cut, since the key is compromised: none"}
	var seen []string
	for _, k := range receipt.Keys {
		seen = append(seen, k.Key)
		if k.FromFingerprint == "" || k.ToFingerprint == "" {
			w.t.Errorf("key %s has no fingerprints", k.Key)
		}
		words = append(words, "key "+k.Key)
	}
	if !receipt.Finished || !receipt.Compromised || !slices.Equal(seen, keys) || len(receipt.LeftOut) != 1 || receipt.JournalMissing > 0 || len(receipt.Journal) < len(receipt.Timeline) {
		w.t.Errorf("the receipt is %+v", receipt)
	}
	for _, step := range []string{"accepting load", "presenting switch", "retiring load"} {
		proven := map[string]bool{}
		for _, p := range receipt.Proofs {
			for _, i := range p.Instances {
				proven[i.Instance] = proven[i.Instance] || p.State+" "+p.Step == step && p.Proof == "report"
			}
		}
		for name := range w.Sidecars {
			if !proven[name] {
				w.t.Errorf("%s: %s has proved nothing: %v", step, name, proven)
			}
		}
	}
	for _, name := range []string{"better-auth-secret", "encryption-master-key"} {
		if len(receipt.Witnesses[name]) < 2 || len(receipt.Rows[name].Columns) == 0 {
			w.t.Errorf("rows of %s: %+v, seen by %+v", name, receipt.Rows[name], receipt.Witnesses[name])
		}
		words = append(words, "witness of the rows of "+name)
	}
	text, err := run.run("read hyvve/rotations/" + receipt.ID + "/receipt")
	text = strings.Join(strings.Fields(receiptLine.ReplaceAllString(text, "")), " ")
	for _, word := range words {
		if err != nil || !strings.Contains(text, word) {
			w.t.Errorf("the text of the receipt lacks %q (%v): %s", word, err, text)
		}
	}
}
