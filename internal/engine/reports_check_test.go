// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// What an instance says cannot ring a bell, move a cursor or forge a line.
func TestAdversaryForgesALineInAReason(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	r := h.readers["api/api-1"]
	_, err := h.engine.Report(t.Context(), Report{
		Workload: "api", Instance: "api-1", Secret: r.reading.Secret, Reason: "ill\a\x1b[2K\r\nrun: vault write -f x\u202e" + strings.Repeat("x", 5000),
	})
	h.ok(err)
	hides := func(r rune) bool { return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) }
	for _, i := range h.engine.Instances("api") {
		if strings.ContainsFunc(i.Reason, hides) || len(i.Reason) > untrusted.MaxReason+len("…") {
			t.Errorf("kept is %q", i.Reason)
		}
		if i.ID == "api-1" && !strings.HasPrefix(i.Reason, `ill\u0007\u001b[2K\u000d\u000arun`) {
			t.Errorf("kept is %q", i.Reason)
		}
	}
}

// Counts below zero would hide rows that are left, and reports have bounds.
func TestWorkHasBounds(t *testing.T) {
	one := func(change func(*workload.WorkReport)) []workload.WorkReport {
		r := workload.WorkReport{ID: "x", Done: true}
		change(&r)
		return []workload.WorkReport{r}
	}
	for name, all := range map[string][]workload.WorkReport{
		"too many":   make([]workload.WorkReport, untrusted.MaxWork+1),
		"negative":   one(func(r *workload.WorkReport) { r.Columns = []workload.ColumnReport{{Left: 5}, {Left: -5}} }),
		"columns":    one(func(r *workload.WorkReport) { r.Columns = make([]workload.ColumnReport, untrusted.MaxColumns+1) }),
		"long names": one(func(r *workload.WorkReport) { r.Columns = []workload.ColumnReport{{Column: strings.Repeat("x", 1000)}} }),
		"long id":    one(func(r *workload.WorkReport) { r.ID = strings.Repeat("x", 10000) }),
		"a system":   one(func(r *workload.WorkReport) { r.Place = &workload.Place{System: "7\n7"} }),
		"a database": one(func(r *workload.WorkReport) { r.Place = &workload.Place{Database: strings.Repeat("x", 1000)} }),
		"tables": one(func(r *workload.WorkReport) {
			r.Place = &workload.Place{Tables: make([]workload.PlaceTable, untrusted.MaxColumns+1)}
		}),
		"finds of -1": one(func(r *workload.WorkReport) { r.Finds = []workload.Find{{Opened: -1}} }),
	} {
		if _, err := untrusted.CheckWork(all); !refused(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	all, err := untrusted.CheckWork(one(func(r *workload.WorkReport) {
		r.Finds, r.Unseen = make([]workload.Find, 10*untrusted.MaxFinds), make([]string, 10*untrusted.MaxUnseen)
		r.Finds[0].Column = "a\nb"
		r.Place = &workload.Place{System: "7123", Database: "a\nb", Tables: make([]workload.PlaceTable, untrusted.MaxColumns)}
	}))
	if err != nil || all[0].Place.Database != `a\u000ab` || len(all[0].Finds) != untrusted.MaxFinds || len(all[0].Unseen) != untrusted.MaxUnseen+1 || all[0].Finds[0].Column != `a\u000ab` {
		t.Errorf("%d finds, %d unseen, %v", len(all[0].Finds), len(all[0].Unseen), err)
	}
}

// tight is a store that takes only small records.
type tight struct {
	*memStore
	most int // bytes
}

func (s tight) Put(ctx context.Context, path string, data []byte) error {
	if len(data) > s.most {
		return errors.New("rpc error: code = Unknown desc = put failed due to value being too large; got 9 bytes, max: 8 bytes")
	}
	return s.memStore.Put(ctx, path, data)
}

// A record that storage refuses for its size changes nothing, and the engine keeps what it has.
func TestAdversaryRecordTooLarge(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.engine.Store = tight{h.store, 2000}
	r := h.readers["api/api-1"]
	var sightings []workload.Sighting
	for range untrusted.MaxSightings {
		sightings = append(sightings, workload.Sighting{Env: strings.Repeat("E", 100), Version: 1, Count: 1, Last: h.clock.Now()})
	}
	_, err := h.engine.Report(t.Context(), Report{Workload: "api", Instance: "api-1", Secret: r.reading.Secret, Healthy: true, Sightings: sightings})
	if !refused(err) || h.engine.Stale() {
		t.Fatalf("%v, stale %v", err, h.engine.Stale())
	}
	h.report(r)
}
