// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// imports stores the first value of a key without versions.
func (h *harness) imports(name, value string) {
	h.t.Helper()
	_, _, err := h.engine.First(h.t.Context(), name, key.NewValue(value), testActor)
	h.ok(err)
}

// replaces imports a value once more.
func (h *harness) replaces(name, value string) error {
	h.t.Helper()
	_, _, err := h.engine.Replace(h.t.Context(), name, key.NewValue(value), testActor)
	return err
}

// nowHas is the current value of a key.
func (h *harness) nowHas(name string) string {
	k, _ := h.engine.Key(name)
	v, _ := k.Current()
	return v.Value.Reveal()
}

// A first value that nobody was given can be replaced, also after a restart and more than once, imported or made. The next rotation
// goes from the right one.
func TestWrongImportIsReplaced(t *testing.T) {
	for _, made := range []bool{false, true} {
		h := newHarness(t)
		h.without("one")
		h.workload(workload.Workload{Name: "app", MinInstances: 1, Keys: map[string]workload.Role{"one": clientRole}})
		if made {
			_, _, err := h.engine.First(t.Context(), "one", key.Value{}, testActor)
			h.ok(err)
		} else {
			h.imports("one", "a wrong value, of another system")
		}
		h.ok(h.replaces("one", "another wrong value, once more"))
		h.open()
		h.ok(h.replaces("one", "the value that is in use today"))
		if h.nowHas("one") != "the value that is in use today" || h.states("one") != "1 aborted, 2 aborted, 3 current" {
			t.Errorf("%s: %s", h.nowHas("one"), h.states("one"))
		}
		if entry := h.last(); !strings.Contains(entry.What, "replaced") || entry.By != "test" || entry.Keys[0].From != 2 || entry.Keys[0].To != 3 {
			t.Errorf("%+v", entry)
		}
		h.join("app", "app-1")
		h.until(h.rotate("one"), rotation.Done)
		h.expectWholeJournal("after all")
	}
}

// What somebody was given is not replaced: he may have gone since, it may have been long ago, and nobody may know.
func TestIssuedValueIsNotReplaced(t *testing.T) {
	for name, after := range map[string]func(h *harness){
		"an instance holds it": func(h *harness) { h.join("app", "app-1") },
		"it has left": func(h *harness) {
			r := h.join("app", "app-1")
			delete(h.readers, "app/app-1")
			h.ok(h.engine.Leave(h.t.Context(), r.workload, r.id, r.reading.Secret))
		},
		"it read without a name": func(h *harness) {
			_, err := h.engine.Read(h.t.Context(), fleet.Reader{Workload: "app"}, time.Second)
			h.ok(err)
			h.clock.advance(10 * time.Hour)
			h.rounds(2)
		},
		"an earlier release stored it": func(h *harness) {
			h.store.mu.Lock()
			delete(h.store.data, pathUnissued+"one")
			h.store.mu.Unlock()
			h.open()
		},
		"it is being rotated": func(h *harness) { h.rotate("one") },
		"a rotation was reverted": func(h *harness) {
			h.join("app", "app-1")
			id := h.rotate("one")
			_, err := h.engine.Revert(h.t.Context(), id, testActor, "")
			h.ok(err)
			h.until(id, rotation.Reverted)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.without("one")
			h.workload(workload.Workload{Name: "app", MinInstances: 1, Keys: map[string]workload.Role{"one": clientRole}})
			h.imports("one", "the value that was imported")
			after(h)
			for range 2 {
				h.refused(h.replaces("one", "the value that comes too late"), "nothing was changed; rotate it with: vault write hyvve/rotate key=one")
				if h.nowHas("one") != "the value that was imported" {
					t.Fatal(h.nowHas("one"))
				}
				h.open()
			}
		})
	}
}

// A key of the same name that is made after a deletion has nothing of the one before.
func TestUnissuedEndsWithItsKey(t *testing.T) {
	h := newHarness(t)
	h.without("one")
	h.imports("one", "the value that was imported")
	h.ok(h.engine.DeleteKey(t.Context(), "one", testActor))
	if names, _ := h.store.List(t.Context(), pathUnissued); len(names) > 0 {
		t.Error(names)
	}
	h.refused(h.replaces("one", "x"), `key "one" is not known`)
}

// downgraded is what a release leaves that knows nothing of these records: it has begun, given out what there was, and ended. Its
// instances have left.
func (h *harness) downgraded() {
	h.t.Helper()
	h.engine.Close()
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	lives, err := strconv.Atoi(string(h.store.data[pathLives]))
	h.ok(err)
	h.store.data[pathLives] = []byte(strconv.Itoa(lives + 1))
}

// What an earlier release may have given out after a downgrade is not replaced, although it has left the record that says nobody has it:
// not after a restart, and not when Vault is killed before or after any write of the upgrade. A value of a key that is made again is.
func TestUnissuedAfterADowngrade(t *testing.T) {
	atEveryWrite(t, 3, func(at int, after bool) bool {
		h := newHarness(t)
		h.without("one")
		h.without("two")
		h.workload(workload.Workload{Name: "app", MinInstances: 0, Keys: map[string]workload.Role{"one": clientRole}})
		h.imports("one", "the value that was imported")
		h.imports("two", "another value")
		h.downgraded()
		h.store.failAt, h.store.after = h.store.writes+at, after
		e, err := Open(t.Context(), h.options())
		h.ok(err)
		err = e.Begin(t.Context())
		if e.Close(); err != nil && !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		crashed := err != nil
		for range 2 {
			h.open()
			for _, name := range []string{"one", "two"} {
				h.refused(h.replaces(name, "the value that comes too late"), "nothing was changed; rotate it with: vault write hyvve/rotate key="+name)
			}
		}
		if names, _ := h.store.List(t.Context(), pathUnissued); len(names) > 0 {
			t.Errorf("write %d: records stay: %q", at, names)
		}
		h.ok(h.engine.DeleteKey(t.Context(), "two", testActor))
		h.without("two")
		h.imports("two", "a wrong value")
		h.open()
		h.ok(h.replaces("two", "the right value"))
		return crashed
	})
}

// Killed before or after any write while a value is replaced and somebody reads, nobody holds a value that the key has not.
func TestCrashWhileAnImportIsReplaced(t *testing.T) {
	atEveryWrite(t, 4, func(at int, after bool) bool {
		h := newHarness(t)
		h.without("one")
		h.workload(workload.Workload{Name: "app", MinInstances: 0, Keys: map[string]workload.Role{"one": clientRole}})
		h.failAt(at, after)
		given := map[string]bool{}
		read := func() {
			reading, err := h.engine.Read(t.Context(), fleet.Reader{Workload: "app", Instance: "app-1", Token: fleet.Token{Accessor: "a"}}, time.Hour)
			if v, ok := reading.Bundle.Values["ONE"]; err == nil && ok {
				given[v.Reveal()] = true
			}
		}
		crashed := false
		for step, do := range []func() error{
			func() error {
				_, _, err := h.engine.First(t.Context(), "one", key.NewValue("wrong"), testActor)
				return err
			},
			func() error { return h.replaces("one", "better") },
			func() error { return h.replaces("one", "right") },
			func() error { read(); return nil },
			func() error {
				if err := h.replaces("one", "too late"); err == nil && len(given) > 0 {
					t.Errorf("write %d: a value was replaced that somebody has", at)
				}
				return nil
			},
		} {
			if err := do(); err != nil && (errors.Is(err, errInjected) || h.engine.Stale()) {
				crashed = true
			} else if err != nil && !refused(err) {
				t.Fatalf("write %d, step %d: %v", at, step, err)
			}
			if h.engine.Stale() {
				crashed = true
				h.open()
			}
		}
		for v := range given {
			if v != h.nowHas("one") {
				t.Errorf("write %d, after %v: somebody was given %q, and the key has %q", at, after, v, h.nowHas("one"))
			}
		}
		h.expectWholeJournal(fmt.Sprint("write ", at))
		return crashed
	})
}

// Reads and a replacement at once: what a read returns is what the key has from then on.
func TestReadsWhileAnImportIsReplaced(t *testing.T) {
	for n := range 200 {
		h := newHarness(t)
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "one", Kind: "token"}, testActor)
		h.ok(err)
		h.workload(workload.Workload{Name: "app", MinInstances: 0, Keys: map[string]workload.Role{"one": clientRole}})
		h.imports("one", "the wrong value")
		var group sync.WaitGroup
		given := make([]string, 3)
		for i := range given {
			group.Go(func() {
				reading, err := h.engine.Read(t.Context(), fleet.Reader{Workload: "app", Instance: fmt.Sprint("app-", i), Token: fleet.Token{Accessor: "a"}}, time.Hour)
				if err != nil {
					t.Error(err)
				}
				given[i] = reading.Bundle.Values["ONE"].Reveal()
			})
		}
		group.Go(func() { _ = h.replaces("one", "the right value") })
		group.Wait()
		for _, v := range given {
			if v != "" && v != h.nowHas("one") {
				t.Fatalf("%d: somebody was given %q, and the key has %q", n, v, h.nowHas("one"))
			}
		}
	}
}
