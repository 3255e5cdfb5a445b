// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/issued"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// testdata/schema1.json is a mount that release v0.1.0 wrote: one rotation is done, another is presenting. It is read,
// the rotation under way continues and ends, and what is written from then on has the schemas of this release.
func TestRecordsOfTheReleaseBefore(t *testing.T) {
	data, err := os.ReadFile("testdata/schema1.json")
	if err != nil {
		t.Fatal(err)
	}
	var records map[string]json.RawMessage
	if err := json.Unmarshal(data, &records); err != nil {
		t.Fatal(err)
	}
	h := newHarness(t)
	h.store.data = map[string][]byte{}
	for path, record := range records {
		var text string
		if json.Unmarshal(record, &text) == nil {
			record = []byte(text)
		}
		h.store.data[path] = record
	}
	h.clock.now = time.Date(2026, 11, 23, 3, 0, 30, 0, time.UTC)
	h.open()
	ids, err := h.engine.RotationIDs(t.Context())
	h.ok(err)
	if len(ids) != 2 || h.view(ids[0]).State != rotation.Done || h.view(ids[1]).State != rotation.Presenting {
		t.Fatalf("rotations are %v", ids)
	}
	if c := h.engine.Config(); c.LeaseTTL != 5*time.Minute || c.OnFailure != rotation.FailurePause {
		t.Errorf("config is %+v", c)
	}
	for _, name := range []string{"api/api-1", "api/api-2", "agents/agents-1", "agents/agents-2"} {
		load, id, _ := strings.Cut(name, "/")
		h.join(load, id)
	}
	h.until(ids[1], rotation.Done)
	verified, err := h.engine.journal.Verify(t.Context())
	h.ok(err)
	if len(verified.Faults) > 0 || verified.Older == 0 || verified.Entries == 0 {
		t.Errorf("journal: %+v", verified)
	}
	for path, record := range h.store.data {
		if strings.HasPrefix(path, pathKeys+"service-token") && !bytes.Contains(record, []byte(`"schema":8`)) {
			t.Errorf("%s is still of schema 1", path)
		}
	}
}

var schemaOf = regexp.MustCompile(`"schema":[0-9]+`)

// A record of a later release is refused by name, not misread.
func TestRecordsOfALaterRelease(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.rotate("service-token")
	for path, record := range h.store.data {
		later := schemaOf.ReplaceAll(record, []byte(`"schema":99`))
		if bytes.Equal(later, record) {
			continue
		}
		was := h.store.data[path]
		h.store.data[path] = later
		if strings.HasPrefix(path, pathEntries) {
			if _, _, err := h.engine.journal.Entry(t.Context(), path[len(pathEntries):]); err == nil {
				t.Errorf("%s of schema 99 is read", path)
			}
		} else if strings.HasPrefix(path, issued.Prefix) {
			if err := h.identifyAll("service-token"); err == nil || !strings.Contains(err.Error(), "schema 99") {
				t.Errorf("%s of schema 99: %v", path, err)
			}
		} else if _, err := Open(t.Context(), h.options()); err == nil || !strings.Contains(err.Error(), "schema 99") {
			t.Errorf("%s of schema 99: %v", path, err)
		}
		h.store.data[path] = was
	}
}

// Where the journal keeps its records.
const (
	pathEntries = "journal/"
	pathHead    = "mount/head"
)

// resealed is an entry that somebody changed who has the mount's secret.
func (h *harness) resealed(data []byte) []byte {
	var r struct {
		Schema int `json:"schema"`
		journal.Entry
	}
	h.ok(json.Unmarshal(data, &r))
	r.By, r.Hash = "eve", ""
	data, err := json.Marshal(r.Entry)
	h.ok(err)
	r.Hash = h.engine.base.SumEntry(string(data))
	data, err = json.Marshal(r)
	h.ok(err)
	return data
}

// Retention bounds journal and ended rotations, and leaves a chain that is whole; a crash in the middle of it, too.
func TestRetention(t *testing.T) {
	for crash := range 12 {
		h := newHarness(t)
		h.hyvve()
		h.ok(h.engine.PutFloor(t.Context(), catalog.Floor{Entries: catalog.MinJournal}, testActor)) // its entry stays
		c := h.engine.Config()
		c.JournalEntries, c.JournalAge = catalog.MinJournal, time.Hour
		h.ok(h.engine.PutConfig(t.Context(), c, testActor))
		for range 12 {
			h.until(h.rotate("service-token"), rotation.Done)
			h.clock.advance(time.Minute)
		}
		if crash > 0 {
			h.store.failAt = h.store.writes + crash
			h.engine.Tick(t.Context())
			h.open()
		}
		for range 3 {
			h.clock.advance(2 * retainEvery)
			h.until(h.rotate("service-token"), rotation.Done)
			h.engine.Tick(t.Context())
		}
		v, err := h.engine.journal.Verify(t.Context())
		h.ok(err)
		if len(v.Faults) > 0 || v.Entries > catalog.MinJournal+15 || v.First == 1 || v.Kept != 1 {
			t.Errorf("crash %d: %+v", crash, v)
		}
		kept := 0
		for path := range h.store.data {
			if strings.HasPrefix(path, pathEntries) {
				kept++
			}
		}
		if kept != v.Entries+v.Kept {
			t.Errorf("crash %d: %d entries are stored, %d are in the chain", crash, kept, v.Entries)
		}
		h.clock.advance(5 * time.Hour)
		h.until(h.rotate("service-token"), rotation.Done)
		h.clock.advance(2 * retainEvery)
		h.engine.Tick(t.Context())
		if n := h.rotations(); n != 16 && n != 17 { // of which the floor keeps 100 (crash: one was asked for twice)
			t.Errorf("crash %d: %d rotations are kept", crash, n)
		}
	}
}

// A failed write makes the engine stale: it does nothing more until it is opened again.
func TestFailedWriteMakesStale(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.store.failAt, h.store.after = h.store.writes+4, true // the rotation's record is stored, and the reply is lost
	_, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"service-token"}, By: testActor})
	if err == nil || !h.engine.Stale() {
		t.Fatalf("%v, stale: %v", err, h.engine.Stale())
	}
	h.store.dead = false
	if _, err := h.engine.Read(t.Context(), fleet.Reader{Workload: "api", Instance: "api-1"}, time.Hour); err == nil {
		t.Error("a stale engine gives bundles")
	}
	h.open()
	if n := h.rotations(); n != 1 {
		t.Fatalf("%d rotations after the reply was lost", n)
	}
}

// A version's record does not grow forever, and numbers are never used again.
func TestVersionsAreForgotten(t *testing.T) {
	h := newHarness(t)
	h.key("lonely", "token")
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"lonely": {Presents: true, Verifies: true}}})
	for range 60 {
		h.until(h.rotate("lonely"), rotation.Done)
	}
	k, _ := h.engine.Key("lonely")
	if current, _ := k.Current(); current.Number != 61 || len(k.Versions) > 53 {
		t.Errorf("current is %d of %d versions", current.Number, len(k.Versions))
	}
}
