// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// issuerKind is a kind whose server makes the values. Its orders are order:NONCE/ATTEMPT.
type issuerKind struct {
	token.Kind
	mu    sync.Mutex
	made  int
	valid map[string]string // values, by id
	names map[string]string // orders, by id
	lose  int               // so many answers to Issue are lost
}

func (*issuerKind) Name() string { return "issuing" }
func (*issuerKind) Sessionless() {}

func (*issuerKind) Generate(random io.Reader, _ key.Key, _ key.Value) (key.Value, error) {
	nonce := make([]byte, 8)
	_, err := io.ReadFull(random, nonce)
	return key.NewValue(fmt.Sprintf("order:%x/0", nonce)), err
}

func (*issuerKind) Check(kind.Options, key.Value) ([]string, error) { return nil, nil }

func (*issuerKind) Attempt(v key.Value) (key.Value, bool) {
	name, attempt, ok := strings.Cut(v.Reveal(), "/")
	n, err := strconv.Atoi(attempt)
	if !ok || err != nil || !strings.HasPrefix(name, "order:") {
		return key.Value{}, false
	}
	return key.NewValue(fmt.Sprintf("%s/%d", name, n+1)), true
}

func (i *issuerKind) Issue(_ context.Context, c kind.Change) (kind.Issued, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	name, _, _ := strings.Cut(c.To.Value.Reveal(), "/")
	for id, of := range i.names {
		if strings.HasPrefix(of, name+"/") && of != c.To.Value.Reveal() {
			i.revoke(id)
		}
	}
	i.made++
	id := fmt.Sprintf("id-%d", i.made)
	i.valid[id], i.names[id] = fmt.Sprintf("made-by-the-server-%d", i.made), c.To.Value.Reveal()
	if i.lose > 0 {
		i.lose--
		return kind.Issued{}, errors.New("no answer in time")
	}
	return kind.Issued{Value: key.NewValue(i.valid[id]), Handle: name + " " + id}, nil
}

func (i *issuerKind) revoke(id string) {
	delete(i.valid, id)
	delete(i.names, id)
}

// end revokes a version, with what was lost of it.
func (i *issuerKind) end(v key.Version, keep bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	name, id, _ := strings.Cut(v.Handle, " ")
	if order, _, ordered := strings.Cut(v.Value.Reveal(), "/"); ordered {
		name, id = order, ""
	}
	for of, label := range i.names {
		if name != "" && strings.HasPrefix(label, name+"/") && (of != id || !keep) {
			i.revoke(of)
		}
	}
	return nil
}

func (i *issuerKind) Stage(_ context.Context, c kind.Change) error { return i.end(c.To, true) }

func (i *issuerKind) Verify(_ context.Context, c kind.Change) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !slices.Contains(slices.Collect(maps.Values(i.valid)), c.To.Value.Reveal()) {
		return errors.New("refused")
	}
	return nil
}

func (*issuerKind) InUse(context.Context, kind.Change) (int, string, error) {
	return 0, "", errors.New("it was said that nobody asks")
}

func (i *issuerKind) Retire(_ context.Context, c kind.Change) error  { return i.end(c.From, false) }
func (i *issuerKind) Unstage(_ context.Context, c kind.Change) error { return i.end(c.To, false) }

// newIssuing is a harness with a key whose server makes the values, and an instance that presents them.
func newIssuing(t *testing.T) (*harness, *issuerKind) {
	i := &issuerKind{valid: map[string]string{}, names: map[string]string{}}
	h := newHarness(t)
	h.kinds = kind.List{i}
	h.open()
	h.key("deploy", "issuing")
	h.workload(workload.Workload{Name: "ci", MinInstances: 1, Keys: map[string]workload.Role{"deploy": {Presents: true, Verifies: true}}})
	h.join("ci", "ci-1")
	return h, i
}

// expectValid wants one value to be valid at the server, that of the current version.
func (i *issuerKind) expectValid(h *harness, when string) {
	h.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	k, _ := h.engine.Key("deploy")
	current, _ := k.Current()
	if all := slices.Collect(maps.Values(i.valid)); len(all) != 1 || all[0] != current.Value.Reveal() {
		h.t.Errorf("%s: valid at the server are %d values, and the current version's is one of them: %t", when, len(all), slices.Contains(all, current.Value.Reveal()))
	}
}

func TestServerMakesTheValue(t *testing.T) {
	h, i := newIssuing(t)
	i.expectValid(h, "after the first version")
	i.lose = 2
	id := h.rotate("deploy")
	k, _ := h.engine.Key("deploy")
	if v, _ := k.Version(2); v.State != key.Staged || !strings.HasPrefix(v.Value.Reveal(), "order:") {
		t.Errorf("before the server is asked version 2 is %s", v.State)
	}
	h.until(id, rotation.Done)
	i.expectValid(h, "after a rotation")
	k, _ = h.engine.Key("deploy")
	current, _ := k.Current()
	if i.made != 4 || current.Handle == "" || current.Fingerprint != h.engine.base.Fingerprints.Of("deploy", current.Value) {
		t.Errorf("%d values were made; the handle is %q", i.made, current.Handle)
	}
	if found, err := h.engine.Identify(t.Context(), current.Value, "", testActor); err != nil || len(found) != 1 || found[0].Number != 2 {
		t.Errorf("the value is identified as %v (%v)", found, err)
	}
	if got := h.readers["ci/ci-1"].reading.Bundle.Values["DEPLOY"]; !got.Equal(current.Value) {
		t.Error("the instance has another value")
	}
	h.expectWholeJournal("after a rotation")
}

// Killed before or after any write, a rotation ends, and at the server there is the current value and no other.
func TestCrashAtEveryWriteOfAnIssuer(t *testing.T) {
	for _, revert := range []bool{false, true} {
		atEveryWrite(t, 12, func(at int, after bool) bool { return crashIssuing(t, at, after, revert) })
	}
}

func crashIssuing(t *testing.T, at int, after, revert bool) bool {
	h, i := newIssuing(t)
	h.failAt(at, after)
	id, reverted := "", false
	crashed := h.throughCrash(time.Minute, func() {
		if id == "" {
			view, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"deploy"}, By: testActor, Trigger: rotation.ByOperator})
			if err == nil {
				id = view.ID
			} else if ids, err := h.engine.RotationIDs(t.Context()); err == nil && len(ids) > 0 {
				id = ids[0]
			}
		}
		view, err := h.engine.View(t.Context(), id)
		if err == nil && revert && !reverted && view.State == rotation.Accepting {
			_, err := h.engine.Revert(t.Context(), id, testActor, "")
			reverted = err == nil
		}
	})
	when := fmt.Sprintf("crash at write %d (after %v, revert %v)", at, after, revert)
	if view := h.view(id); !view.Finished() {
		t.Errorf("%s: %s %s: %s", when, view.State, view.Step, view.Waits())
	}
	i.expectValid(h, when)
	h.expectWholeJournal(when)
	return crashed
}

// A first version that the server makes is found again after a crash.
func TestFirstVersionOfAnIssuerIsLost(t *testing.T) {
	i := &issuerKind{valid: map[string]string{}, names: map[string]string{}, lose: 1}
	h := newHarness(t)
	h.kinds = kind.List{i}
	h.open()
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "deploy", Kind: "issuing"}, testActor)
	h.ok(err)
	if _, _, err := h.engine.First(t.Context(), "deploy", key.Value{}, testActor); err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Fatalf("a lost answer: %v", err)
	}
	h.open()
	_, _, err = h.engine.First(t.Context(), "deploy", key.Value{}, testActor)
	h.ok(err)
	i.expectValid(h, "after a first version whose answer was lost")
}
