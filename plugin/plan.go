// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// planData is a plan as dry_run=true answers it: a line a step, which reads well in a terminal, and with detailed=true its
// fields, for programs.
func planData(p engine.Plan, detailed bool) api.Plan {
	r := p.Rotation
	data := api.Plan{
		DryRun: true, Keys: r.KeyNames(), Versions: versionsData(r), Rows: map[string]api.PlanRows{}, Gaps: make([]string, 0, len(p.Gaps)),
		Blockers: append([]string{}, p.Blockers...), Notes: append([]string{}, p.Notes...), Soak: api.SecondsOf(r.Soak), Observe: api.SecondsOf(r.Observe),
		Deadline: api.SecondsOf(r.Deadline), OnFailure: r.OnFailure, Confirm: r.Confirm, ConfirmBy: r.ConfirmBy, Compromised: r.Compromised,
		Retain: retainAsked(r), ExpectedDuration: "not known: no rotation of these keys has been done yet", Steps: map[string]string{},
	}
	for _, g := range p.Gaps {
		data.Gaps = append(data.Gaps, g.String())
	}
	for _, known := range p.Rows {
		rows := api.PlanRows{Columns: []api.ColumnRows{}, AsOf: "not known: no sidecar that re-encrypts has counted them yet"}
		if known.Known {
			rows = api.PlanRows{Columns: columnsData(known.Columns), AsOf: api.Time{Time: known.At}.String()}
		}
		data.Rows[known.Key] = rows
	}
	if p.History > 0 {
		data.ExpectedDuration = fmt.Sprintf("%s, the median of the last %d", p.Expected.Round(time.Millisecond), p.History)
	}
	if !detailed {
		for n, m := range p.Moves {
			data.Steps[fmt.Sprintf("step_%02d", n+1)] = moveLine(m)
		}
		return data
	}
	data.Moves = make([]api.Move, 0, len(p.Moves))
	for _, m := range p.Moves {
		data.Moves = append(data.Moves, api.Move{
			State: string(m.State), Step: string(m.Step), Text: m.Text, Waves: wavesData(m.Waves), Expected: m.Expected.Round(time.Millisecond).Seconds(),
		})
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

func wavesData(waves []rotation.Wave) []api.Wave {
	all := make([]api.Wave, 0, len(waves))
	for _, w := range waves {
		all = append(all, api.Wave(w))
	}
	return all
}

func columnsData(reports []workload.ColumnReport) []api.ColumnRows {
	columns := make([]api.ColumnRows, 0, len(reports))
	for _, c := range reports {
		columns = append(columns, api.ColumnRows{
			Column: c.Column, Total: c.Total, Staged: c.Staged, Rotated: c.Rotated, Left: c.Left, Other: c.Other, Unreadable: c.Bad,
		})
	}
	return columns
}
