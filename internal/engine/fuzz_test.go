// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// FuzzReport has an instance report anything. What is taken of it is bounded, and shows nothing that a terminal obeys.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"work":[{"id":"r/k/retiring-erase","done":true,"columns":[{"column":"t.c","total":3,"left":-1}],"unseen":["x\u001b[2J"],"finds":[{"column":"a\nb","opened":1}]}]}`))
	f.Add([]byte(`{"sightings":[{"env":"A","version":1,"count":2,"last":"2026-11-23T03:00:00Z","from":"10.0.0.1"},{"env":"A\n","version":-1}]}`))
	f.Add([]byte(`{"work":[{"finds":[{"column":"` + strings.Repeat("é", 200) + `"}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var report struct {
			Work      []workload.WorkReport `json:"work"`
			Sightings []workload.Sighting   `json:"sightings"`
		}
		if json.Unmarshal(data, &report) != nil {
			return
		}
		plain := func(text string, most int) {
			if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) || len(text) > most {
				t.Errorf("%q is taken", text)
			}
		}
		if work, err := untrusted.CheckWork(report.Work); err == nil {
			if len(work) > untrusted.MaxWork {
				t.Errorf("%d pieces of work are taken", len(work))
			}
			for _, w := range work {
				if len(w.Finds) > untrusted.MaxFinds || len(w.Unseen) > untrusted.MaxUnseen+1 || len(w.Columns) > untrusted.MaxColumns {
					t.Errorf("%d finds, %d unseen and %d columns are taken", len(w.Finds), len(w.Unseen), len(w.Columns))
				}
				for _, found := range w.Finds {
					plain(found.Column, untrusted.MaxWorkText+len("…"))
				}
				for _, text := range w.Unseen {
					plain(text, untrusted.MaxWorkText+len("…"))
				}
				plain(untrusted.Reason(w.Error), untrusted.MaxReason+len("…"))
			}
		}
		if untrusted.CheckSightings(report.Sightings) == nil {
			for _, s := range report.Sightings {
				plain(s.Env+s.From, 2*untrusted.MaxSightingText)
			}
		}
	})
}
