// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// planData is a plan as dry_run=true answers it: a line a step, which reads well in a terminal, and with detailed=true its
// fields, for programs.
func planData(p engine.Plan, detailed bool) map[string]any {
	r := p.Rotation
	versions := map[string]any{}
	for _, c := range r.Changes {
		versions[c.Key] = map[string]any{"from": c.From, "to": c.To}
	}
	moves := make([]map[string]any, 0, len(p.Moves))
	for _, m := range p.Moves {
		moves = append(moves, map[string]any{
			"state": string(m.State), "step": string(m.Step), "text": m.Text, "waves": wavesData(m.Waves),
			"expected_seconds": seconds(m.Expected),
		})
	}
	gaps := make([]string, 0, len(p.Gaps))
	for _, g := range p.Gaps {
		gaps = append(gaps, g.String())
	}
	blockers := p.Blockers
	if blockers == nil {
		blockers = []string{}
	}
	notes := p.Notes
	if notes == nil {
		notes = []string{}
	}
	rows := map[string]any{}
	for _, known := range p.Rows {
		if known.Known {
			rows[known.Key] = map[string]any{"columns": columnsData(known.Columns), "as_of": stamp(known.At)}
		} else {
			rows[known.Key] = map[string]any{"columns": []map[string]any{}, "as_of": "not known: no sidecar that re-encrypts has counted them yet"}
		}
	}
	expected := "not known: no rotation of these keys has been done yet"
	if p.History > 0 {
		expected = fmt.Sprintf("%s, the median of the last %d", p.Expected.Round(time.Millisecond), p.History)
	}
	data := map[string]any{
		"dry_run": true, "keys": r.KeyNames(), "versions": versions, "rows": rows, "gaps": gaps,
		"blockers": blockers, "notes": notes, "expected_duration": expected, "soak": int64(r.Soak.Seconds()), "observe": int64(r.Observe.Seconds()), "deadline": int64(r.Deadline.Seconds()),
		"on_failure": r.OnFailure, "confirm": r.Confirm, "confirm_by": r.ConfirmBy, "compromised": r.Compromised, "retain": retainAsked(r),
	}
	if detailed {
		data["moves"] = moves
		return data
	}
	for n, m := range p.Moves {
		data[fmt.Sprintf("step_%02d", n+1)] = moveLine(m)
	}
	return data
}

// moveLine says what a step does, to whom, and how long it has taken so far.
func moveLine(m rotation.Move) string {
	line := strings.TrimSpace(string(m.State)+" "+string(m.Step)) + ": " + m.Text
	for n, w := range m.Waves {
		line += fmt.Sprintf("; wave %d: %s %s", n+1, w.Workload, strings.Join(w.Instances, ", "))
	}
	if m.Expected > 0 {
		line += fmt.Sprintf("; about %s", m.Expected.Round(time.Millisecond))
	}
	return line
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

func wavesData(waves []rotation.Wave) []map[string]any {
	all := make([]map[string]any, 0, len(waves))
	for _, w := range waves {
		all = append(all, map[string]any{"workload": w.Workload, "instances": w.Instances})
	}
	return all
}

func columnsData(reports []workload.ColumnReport) []map[string]any {
	columns := make([]map[string]any, 0, len(reports))
	for _, c := range reports {
		columns = append(columns, map[string]any{
			"column": c.Column, "total": c.Total, "staged": c.Staged, "rotated": c.Rotated, "left": c.Left,
			"other": c.Other, "unreadable": c.Bad,
		})
	}
	return columns
}
