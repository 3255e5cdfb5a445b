// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

const (
	pem    = "-----BEGIN CERTIFICATE-----\ncanary-a\n-----END CERTIFICATE-----\n"
	newPEM = "-----BEGIN CERTIFICATE-----\ncanary-b\n-----END CERTIFICATE-----\n"
)

func newLinesHarness(t *testing.T, keys ...string) *harness {
	h := newHarness(t)
	h.kinds = kind.List{external.Kind{}}
	h.open()
	for _, name := range keys {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "external", Options: kind.Options{"multiline": "true"}}, testActor)
		h.ok(err)
	}
	return h
}

func (h *harness) first(name, value string) error {
	_, _, err := h.engine.First(h.t.Context(), name, key.NewValue(value), testActor)
	return err
}

// joinAs is join of an instance that says what it can carry.
func (h *harness) joinAs(reader fleet.Reader) {
	h.t.Helper()
	_, err := h.engine.Read(h.t.Context(), reader, time.Hour)
	h.ok(err)
}

// refusedFor fails the test unless an error names key, workload, instance and remedy, and no value.
func refusedFor(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s: not refused", what)
	}
	for _, word := range append(words, "render the key as json") {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: no %q in: %v", what, word, err)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("%s: the error holds a value: %v", what, err)
	}
}

// A value of several lines is imported, read and rotated where every instance can carry it.
func TestValuesOfSeveralLines(t *testing.T) {
	h := newLinesHarness(t, "tls")
	h.workload(workload.Workload{Name: "web", Keys: map[string]workload.Role{"tls": {Presents: true}}, MinInstances: 1})
	h.joinAs(fleet.Reader{Workload: "web", Instance: "web-1", Multiline: true, OneLine: []string{"OTHER"}})
	h.ok(h.first("tls", pem))
	r := &reader{workload: "web", id: "web-1", healthy: true, multiline: true}
	h.readers["web/web-1"] = r
	h.read(r)
	if got := r.reading.Bundle.Values["TLS"].Reveal(); got != pem {
		t.Errorf("the bundle holds %q", got)
	}
	view, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"tls"}, Value: key.NewValue(newPEM), By: testActor})
	h.ok(err)
	h.until(view.ID, rotation.Done)
	if got := r.reading.Bundle.Values["TLS"].Reveal(); got != newPEM {
		t.Errorf("the bundle holds %q", got)
	}
}

// Nobody is handed a value of several lines who has not said that he can carry it, and nothing changes that would lead there.
func TestValuesOfSeveralLinesAreKeptFromThoseWhoCannotCarryThem(t *testing.T) {
	for name, narrow := range map[string]fleet.Reader{
		"says nothing": {Workload: "web", Instance: "web-1"},
		"that key not": {Workload: "web", Instance: "web-1", Multiline: true, OneLine: []string{"ALONE", "TLS"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newLinesHarness(t, "tls", "alone")
			uses := workload.Workload{Name: "web", Keys: map[string]workload.Role{"tls": {Presents: true}}}
			h.workload(uses)
			h.joinAs(narrow)
			refusedFor(t, "import", h.engine.TryFirst(t.Context(), catalog.Definition{Name: "tls", Kind: "external", Options: kind.Options{"multiline": "true"}}, key.NewValue(pem)), "key tls", "TLS", "workload web", "web-1", "nothing was stored")
			refusedFor(t, "import", h.first("tls", pem), "key tls", "TLS", "workload web", "web-1", "nothing was stored")

			h.ok(h.first("tls", "one line"))
			h.joinAs(narrow)
			request := Request{Keys: []string{"tls"}, Value: key.NewValue(newPEM), By: testActor}
			plan, _, err := h.engine.Plan(t.Context(), request)
			if h.ok(err); !strings.Contains(strings.Join(plan.Blockers, "; "), "workload web cannot carry: web-1") {
				t.Errorf("the plan has blockers %q", plan.Blockers)
			}
			_, _, err = h.engine.Rotate(t.Context(), request)
			refusedFor(t, "rotation", err, "key tls", "workload web", "web-1", "nothing was changed")
			if k, _ := h.engine.Key("tls"); len(k.Versions) != 1 {
				t.Errorf("a refused rotation left %d versions", len(k.Versions))
			}

			h.ok(h.first("alone", pem))
			uses.Keys["alone"] = workload.Role{Presents: true}
			uses.MaxUnavailable = "1"
			refusedFor(t, "workload", h.engine.PutWorkload(t.Context(), uses, false, testActor), "key alone", "workload web", "web-1", "nothing was changed")
			h.workload(workload.Workload{Name: "late", Keys: map[string]workload.Role{"alone": {Presents: true}}})
			narrow.Workload, narrow.OneLine = "late", []string{"ALONE"}
			_, err = h.engine.Read(t.Context(), narrow, time.Hour)
			refusedFor(t, "read", err, "key alone", "ALONE", "workload late")
			_, err = h.engine.Read(t.Context(), fleet.Reader{Workload: "late"}, time.Hour)
			refusedFor(t, "read without a name", err, "key alone", "workload late", "one_line=none")
			if live := h.engine.Instances("late"); len(live) != 0 {
				t.Errorf("readers that were refused are live: %v", live)
			}
		})
	}
}

// An instance that comes while a rotation is at its start, and cannot carry the new value, holds it up before anybody is
// given that; the rotation continues once the instance can.
func TestGateOfSeveralLines(t *testing.T) {
	h := newLinesHarness(t, "tls")
	h.workload(workload.Workload{Name: "web", Keys: map[string]workload.Role{"tls": {Presents: true}}})
	h.ok(h.first("tls", "one line"))
	able := &reader{workload: "web", id: "web-1", healthy: true, multiline: true}
	h.readers["web/web-1"] = able
	h.read(able)
	view, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"tls"}, Value: key.NewValue(newPEM), By: testActor})
	h.ok(err)
	late := &reader{workload: "web", id: "web-2", healthy: true}
	h.readers["web/web-2"] = late
	h.read(late)
	for range 5 {
		h.round()
	}
	if v := h.view(view.ID); v.State != rotation.Accepting || v.Step != rotation.StepStage {
		t.Fatalf("the rotation is %s %s", v.State, v.Step)
	}
	if able.reading.Bundle.Values["TLS"].Reveal() != "one line" {
		t.Error("an instance was given the new value while another cannot carry it")
	}
	late.multiline = true
	h.read(late)
	h.until(view.ID, rotation.Done)
}

// What an instance says of itself outlives the engine, and is bounded.
func TestWhatAReaderSaysIsKept(t *testing.T) {
	h := newLinesHarness(t, "tls")
	h.workload(workload.Workload{Name: "web", Keys: map[string]workload.Role{"tls": {Presents: true}}})
	h.joinAs(fleet.Reader{Workload: "web", Instance: "web-1", Multiline: true})
	h.joinAs(fleet.Reader{Workload: "web", Instance: "web-1", Multiline: true, OneLine: []string{"TLS"}}) // the same bundle
	h.open()
	if i := h.engine.Instances("web")[0]; i.Carries("TLS") || !i.Carries("OTHER") {
		t.Errorf("the instance has become %+v", i)
	}
	for _, names := range [][]string{{"no name"}, make([]string, 201)} {
		if _, err := h.engine.Read(t.Context(), fleet.Reader{Workload: "web", Instance: "web-1", Multiline: true, OneLine: names}, time.Hour); err == nil || !strings.Contains(err.Error(), "one_line") {
			t.Errorf("one_line of %d names: %v", len(names), err)
		}
	}
}
