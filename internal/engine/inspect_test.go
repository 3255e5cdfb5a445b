// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// forgetful is a server that forgets its values, and tells.
type forgetful struct {
	partly error // what Restore says beside what it does
	*server
	problem  kind.Problem // in place of what it finds
	ahead    int
	down     error
	notes    []string
	kept     string   // more of what is kept
	refuses  error    // of Restore
	restored []string // with what was kept
}

func (*forgetful) Name() string { return "forgetful" }

func (f *forgetful) Inspect(_ context.Context, c kind.Change) (kind.Finding, error) {
	finding := kind.Finding{ServerVersion: f.ahead, Notes: f.notes}
	switch {
	case f.down != nil:
		return finding, f.down
	case f.problem.Text != "":
		finding.Problems = append(finding.Problems, f.problem)
	case !f.valid[c.To.Value.Reveal()]:
		finding.Problems = append(finding.Problems, kind.Problem{Text: "it has forgotten the user", Fixable: true})
	default:
		finding.Kept = "rights of " + c.Key.Name + f.kept
	}
	return finding, nil
}

func (f *forgetful) Verify(_ context.Context, c kind.Change) error {
	if !f.valid[c.To.Value.Reveal()] {
		return errors.New("login refused")
	}
	return nil
}

func (f *forgetful) Restore(_ context.Context, c kind.Change, dryRun bool) ([]string, error) {
	if f.refuses != nil {
		return nil, f.refuses
	}
	if !dryRun {
		f.restored = append(f.restored, c.Kept)
		f.valid[c.To.Value.Reveal()], f.problem = true, kind.Problem{}
	}
	return []string{"user made again"}, f.partly
}

func newForgetful(t *testing.T) (*harness, *forgetful) {
	h := newHarness(t)
	f := &forgetful{server: h.server}
	h.kinds = kind.List{f}
	h.open()
	h.key("cache", "forgetful")
	current := h.currentOf("cache")
	f.valid[current.Value.Reveal()] = true
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"cache": {Presents: true}}})
	h.round()
	return h, f
}

func (h *harness) currentOf(name string) key.Version {
	k, _ := h.engine.Key(name)
	current, _ := k.Current()
	return current
}

func (h *harness) problemsOf(name string) string {
	for _, s := range h.engine.Status() {
		if s.Key.Name == name {
			return strings.Join(s.Problems, "; ")
		}
	}
	return ""
}

// What can hurt nobody is restored by the regular check, from what was kept while the server was well, and journaled.
func TestCheckRestoresWhatIsForgotten(t *testing.T) {
	h, f := newForgetful(t)
	clear(f.valid)
	h.clock.advance(6 * time.Minute)
	h.round()
	if !f.valid[h.currentOf("cache").Value.Reveal()] || strings.Join(f.restored, ",") != "rights of cache" || h.problemsOf("cache") != "" {
		t.Errorf("restored with %q; problems: %s", f.restored, h.problemsOf("cache"))
	}
	page, err := h.engine.journal.IDs(t.Context())
	h.ok(err)
	last, _, err := h.engine.journal.Entry(t.Context(), page[len(page)-1])
	h.ok(err)
	current := h.currentOf("cache")
	if !strings.Contains(last.What, "user made again") || last.By != "hyvve" || last.Keys[0] != (journal.Key{Key: "cache", From: current.Number, To: current.Number, Fingerprint: current.Fingerprint}) {
		t.Errorf("the journal says %+v", last)
	}
}

// What needs an operator waits for one: status and the plan say what it is, and reconcile mends it.
func TestReconcileWhatNeedsAnOperator(t *testing.T) {
	h, f := newForgetful(t)
	f.problem = kind.Problem{Text: "the password was changed by hand", Remedy: "reconcile it"}
	h.clock.advance(6 * time.Minute)
	h.round()
	if got := h.problemsOf("cache"); got != "the password was changed by hand; reconcile it" || len(f.restored) != 0 {
		t.Fatalf("problems: %s; restored %d times", got, len(f.restored))
	}
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"cache"}, By: testActor, Trigger: rotation.ByOperator})
	h.ok(err)
	if !strings.Contains(strings.Join(plan.Blockers, "; "), "changed by hand") {
		t.Errorf("blockers: %v", plan.Blockers)
	}
	dry, err := h.engine.Reconcile(t.Context(), "cache", true, testActor)
	h.ok(err)
	if len(dry.Done) != 1 || len(f.restored) != 0 {
		t.Errorf("a dry run: %+v, restored %d times", dry, len(f.restored))
	}
	result, err := h.engine.Reconcile(t.Context(), "cache", false, testActor)
	h.ok(err)
	if len(result.Done) != 1 || len(result.Problems) != 0 || h.problemsOf("cache") != "" {
		t.Errorf("%+v; status: %s", result, h.problemsOf("cache"))
	}
}

// A server that is away is shown; a server that is ahead of Vault raises the numbers of the versions to come.
func TestCheckOfAServerThatIsAwayOrAhead(t *testing.T) {
	h, f := newForgetful(t)
	f.down = errors.New("connection refused")
	h.clock.advance(6 * time.Minute)
	h.round()
	if got := h.problemsOf("cache"); !strings.Contains(got, "connection refused") {
		t.Errorf("problems: %s", got)
	}
	f.down, f.ahead = nil, 7
	h.clock.advance(6 * time.Minute)
	h.round()
	h.open() // it is stored
	id := h.rotate("cache")
	h.until(id, rotation.Done)
	if got := h.currentOf("cache").Number; got != 8 {
		t.Errorf("the new version is %d, want 8", got)
	}
}

// inspecting marks a key as being checked.
func (h *harness) inspecting(name string) {
	h.t.Helper()
	h.ok(h.engine.update(func(l *locked) error {
		_, _, err := l.inspected(name)
		return err
	}))
}

// A key without a version is nothing to worry about, and neither is one that is being checked already.
func TestCheckWithoutReason(t *testing.T) {
	h, _ := newForgetful(t)
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "later", Kind: "forgetful"}, testActor)
	h.ok(err)
	h.inspecting("cache")
	h.clock.advance(6 * time.Minute)
	h.round()
	for _, name := range []string{"cache", "later"} {
		if got := h.problemsOf(name); got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
	h.engine.lock(func(m *memory) { delete(m.restoring, "cache") })
}

// A check under way is no blocker of a plan; what the last one has found is.
func TestPlanBesideACheck(t *testing.T) {
	h, f := newForgetful(t)
	f.problem = kind.Problem{Text: "the user is another one"}
	h.clock.advance(6 * time.Minute)
	h.round()
	h.inspecting("cache")
	defer h.engine.lock(func(m *memory) { delete(m.restoring, "cache") })
	blockers, _, _ := inspection{h.engine, mendNothing, rotation.Itself}.all(t.Context(), []string{"cache"})
	if got := strings.Join(summed(blockers), "; "); !strings.Contains(got, "the user is another one") || strings.Contains(got, "being checked") {
		t.Errorf("blockers beside a check: %s", got)
	}
}

// What stops several keys, and is found by several checks, is said once.
func TestPlanSaysOnceWhatIsWrong(t *testing.T) {
	h, f := newForgetful(t)
	h.key("queue", "forgetful")
	h.workload(workload.Workload{Name: "worker", Keys: map[string]workload.Role{"queue": {Presents: true}}})
	f.down = errors.New("read tcp 127.0.0.1:50001->127.0.0.1:6379: connection refused")
	f.fail["preflight"] = errors.New("read tcp 127.0.0.1:50002->127.0.0.1:6379: connection refused")
	p, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"cache", "queue"}, By: testActor})
	h.ok(err)
	if got := strings.Join(p.Blockers, "; "); strings.Count(got, "connection refused") != 1 || !strings.Contains(got, "CACHE, QUEUE: read tcp") {
		t.Errorf("blockers: %s", got)
	}
}

// What is to be restored is journaled before it is.
func TestRestoreIsJournaledFirst(t *testing.T) {
	h, f := newForgetful(t)
	clear(f.valid)
	h.store.mu.Lock()
	h.store.failAt = h.store.writes + 1
	h.store.mu.Unlock()
	if _, err := h.engine.Reconcile(t.Context(), "cache", false, testActor); err == nil || len(f.restored) != 0 {
		t.Errorf("restored %d times although the journal could not be written (%v)", len(f.restored), err)
	}
}

// What cannot be mended does not hold up what can, and a check that fails again and again says so in the journal once.
func TestRestoreOfAPart(t *testing.T) {
	h, f := newForgetful(t)
	f.partly = errors.New("node b has another user")
	clear(f.valid)
	if _, err := h.engine.Reconcile(t.Context(), "cache", false, testActor); err == nil || len(f.restored) != 1 {
		t.Errorf("restored %d times, %v, want once and the error", len(f.restored), err)
	}
	before := h.engine.journal.End().Count
	for range 3 {
		clear(f.valid)
		h.clock.advance(6 * time.Minute)
		h.round()
	}
	if len(f.restored) != 4 || h.engine.journal.End().Count > before {
		t.Errorf("restored %d times, and %d entries more of the same", len(f.restored), h.engine.journal.End().Count-before)
	}
}

// A rotation does not act at a server while a check may be restoring there.
func TestCheckAndRotationTakeTurns(t *testing.T) {
	h, _ := newForgetful(t)
	h.inspecting("cache")
	id := h.rotate("cache")
	h.round()
	if view := h.view(id); view.Step != rotation.StepStage || view.Acted {
		t.Errorf("%s %s while the key is being checked", view.State, view.Step)
	}
	if _, err := h.engine.Reconcile(t.Context(), "cache", false, testActor); !Passing(err) {
		t.Errorf("two checks of a key at the same time: %v", err)
	}
	h.engine.lock(func(m *memory) { delete(m.restoring, "cache") })
	h.until(id, rotation.Done)
}

// What a rotation mends is no blocker of one: the plan says it among its notes, and status says it once, whether Restore can
// mend it or not.
func TestPlanOfWhatARotationMends(t *testing.T) {
	h, f := newForgetful(t)
	f.problem = kind.Problem{Text: "the password was changed by hand", Remedy: "rotate the key", Rotates: true}
	f.refuses = errors.New("the password was changed by hand; rotate the key")
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"cache"}, By: testActor, Trigger: rotation.ByOperator})
	h.ok(err)
	if len(plan.Blockers) != 0 || !strings.Contains(strings.Join(plan.Notes, "\n"), "CACHE: the password was changed by hand; rotate the key") {
		t.Errorf("blockers %q, notes %q", plan.Blockers, plan.Notes)
	}
	if got := h.problemsOf("cache"); got != "the password was changed by hand; rotate the key" {
		t.Errorf("status: %s", got)
	}

	f.problem, f.refuses, f.notes = kind.Problem{}, nil, []string{"a password that Vault does not know"}
	plan, _, err = h.engine.Plan(t.Context(), Request{Keys: []string{"cache"}, By: testActor, Trigger: rotation.ByOperator})
	h.ok(err)
	if got := strings.Join(plan.Notes, "\n"); strings.Count(got, "a password that Vault does not know") != 1 {
		t.Errorf("notes of the plan: %s", got)
	}
	if got := h.engine.Status()[0].Notes; strings.Join(got, ";") != "a password that Vault does not know" {
		t.Errorf("notes of status: %q", got)
	}
}

// A plan has the numbers that the rotation will have: a server that is ahead has just told of others.
func TestPlanTakesNumbersThatAServerTells(t *testing.T) {
	h, f := newForgetful(t)
	f.ahead = 7
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"cache"}, By: testActor, Trigger: rotation.ByOperator})
	h.ok(err)
	if to := plan.Rotation.Changes[0].To; to != 8 {
		t.Errorf("the plan makes version %d, want 8", to)
	}
}

// telling is a forgetful server that remembers who tried a retired version.
type telling struct {
	*forgetful
	count int
}

func (s *telling) Refusals(context.Context, kind.Change, string, time.Duration) (int, string, error) {
	return s.count, "by user app, 12s ago", nil
}

// One attempt long ago is no use that continues: the warning says how often there was one, and when.
func TestWarningOfARetiredVersion(t *testing.T) {
	h := newHarness(t)
	s := &telling{forgetful: &forgetful{server: h.server}}
	h.kinds = kind.List{s}
	h.open()
	k := key.Key{Name: "cache", Kind: "forgetful", Versions: []key.Version{{Number: 5, State: key.Destroyed, Login: "app", Retired: h.engine.Now()}}}
	for count, want := range map[int]string{
		0: "",
		1: "version 5, which is retired, was tried once, and refused: by user app, 12s ago",
		7: "version 5, which is retired, was tried 7 times, and refused: by user app, 12s ago",
	} {
		s.count = count
		if got := h.engine.whoStillTries(t.Context(), kind.Change{Key: k}); got != want {
			t.Errorf("%d attempts: %q", count, got)
		}
	}
}

// A check restores no login that a revert has taken back: its rotation may wait for rows of another key, and its value goes then.
func TestCheckRestoresNothingThatWasTakenBack(t *testing.T) {
	h, f := newForgetful(t)
	h.key("master", "token", key.Column{Table: "t", Column: "c", Layout: key.TagFirst})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Reencrypts: true, Keys: map[string]workload.Role{"cache": {Presents: true}, "master": {Presents: true, Verifies: true}}})
	h.join("api", "api-1")
	old := h.currentOf("cache").Value.Reveal()
	id := h.rotate("cache", "master")
	h.reach(id, rotation.Soaking, rotation.StepUnused)
	taken := h.currentOf("cache").Value.Reveal()
	_, err := h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	h.reach(id, rotation.Reverting, rotation.StepErase)
	if f.valid[taken] || taken == old || !f.valid[old] {
		t.Fatalf("the new login is valid: %v, the old one: %v", f.valid[taken], f.valid[old])
	}
	delete(f.valid, old)
	h.clock.advance(6 * time.Minute)
	h.round()
	if view := h.view(id); view.Step != rotation.StepErase || f.valid[taken] || !f.valid[old] {
		t.Errorf("%s %s: the new login is valid: %v, the old one: %v", view.State, view.Step, f.valid[taken], f.valid[old])
	}
	for _, r := range h.readers {
		r.works = true
		h.read(r)
	}
	h.until(id, rotation.Reverted)
	if len(f.valid) != 1 {
		t.Errorf("%d logins are valid at the end", len(f.valid))
	}
}
