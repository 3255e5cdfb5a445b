// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

const getHelp = `Usage: hyvve get [ROTATION|KEY]

Shows a rotation: its state, its gates with what each waits for, instances, rows, what was cut, and its timeline.

ROTATION is an id, what an id begins with, or latest; KEY is the name of a key, for its running or newest rotation.
Without an argument it is the only rotation that runs, or the newest if none does.
`

func newGet() *cobra.Command {
	cmd := add("get", "show a rotation", getHelp, []string{formatJSON}, func(ctx context.Context, s *session, args []string) error {
		name, err := s.resolve(ctx, args, true)
		if err != nil {
			return err
		}
		r, err := s.engine.Rotation(ctx, name)
		if err != nil {
			return s.suggest(ctx, err, name)
		}
		if s.format == formatJSON {
			return s.printJSON(r)
		}
		s.showRotation(s.out, r, time.Now())
		return nil
	})
	cmd.Args = atMostOne("rotation or key")
	return completing(cmd, true, false)
}

// changes says the versions of a rotation: "jwt-secret 3 -> 4".
func changes(r api.RotationSummary) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		all = append(all, fmt.Sprintf("%s %s", name, api.Line(r.Versions[name])))
	}
	return strings.Join(all, ", ")
}

// stateText is the state and the step of a rotation, and whether it is paused.
func stateText(r api.RotationSummary) screen.Cell {
	text := strings.TrimSpace(r.State + " " + r.Step)
	switch {
	case r.Paused:
		return screen.Cell{Text: "paused " + text, Style: screen.Warn}
	case r.Outcome == "done_with_cuts":
		return screen.Cell{Text: "done, with cuts", Style: screen.Warn}
	case r.State == "reverting" || r.State == "reverted":
		return screen.Cell{Text: text, Style: screen.Warn}
	}
	return screen.Cell{Text: text, Style: screen.Good}
}

// showRotation lays out a rotation for people.
func (s *session) showRotation(w io.Writer, r api.Rotation, now time.Time) {
	line := func(style screen.Style, format string, args ...any) {
		s.screen.Text(w, "", screen.Cell{Text: fmt.Sprintf(format, args...), Style: style})
	}
	line(screen.Strong, "%s", changes(r.RotationSummary))
	state := stateText(r.RotationSummary)
	if !r.Ended() && !r.Since.IsZero() {
		state.Text += ", for " + screen.Ago(now.Sub(r.Since.Time))
	}
	s.screen.Text(w, "", state)
	line(screen.Plain, "Rotation %s, started %s by %s%s", r.ID, screen.Moment(r.Created.Time), starter(r), reasonText(r.Reason))
	if r.Compromised {
		line(screen.Bad, "Compromised: gates that do not hold at the deadline are cut.")
	}
	if r.Follows != "" {
		line(screen.Plain, "It follows rotation %s.", r.Follows)
	}
	if r.Follow != "" {
		line(screen.Plain, "Rotation %s follows it.", r.Follow)
	}
	if r.NextGate != "" && !r.Ended() {
		line(screen.Warn, "Waits: %s", s.translated(r.NextGate))
	}
	s.showGates(w, r)
	s.showInstances(w, r)
	s.showRows(w, r)
	s.showEvidence(w, r)
	s.showTimeline(w, r, now)
}

func starter(r api.Rotation) string {
	if r.By != "" {
		return r.By
	}
	return "its " + r.Trigger
}

func reasonText(reason string) string {
	if reason == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", reason)
}

// heading begins a part of what is shown.
func (s *session) heading(w io.Writer, text string) {
	_, _ = fmt.Fprintf(w, "\n%s\n", s.screen.Paint(screen.Strong, text))
}

func (s *session) showGates(w io.Writer, r api.Rotation) {
	if len(r.Gates) == 0 {
		return
	}
	s.heading(w, "Gates")
	for _, g := range r.Gates {
		cell := screen.Cell{Text: "waits  " + g.Gate, Style: screen.Warn}
		if g.Holds {
			cell = screen.Cell{Text: "holds  " + g.Gate, Style: screen.Good}
		}
		for _, text := range []string{g.Reason, g.Note} {
			if text != "" {
				cell.Text += ": " + s.translated(text)
			}
		}
		s.screen.Text(w, "  ", cell)
	}
}

// mostInstances is how many instances people see; those that hold a rotation back come first.
const mostInstances = 40

func (s *session) showInstances(w io.Writer, r api.Rotation) {
	if len(r.Instances) == 0 {
		return
	}
	s.heading(w, "Instances")
	all := slices.Clone(r.Instances)
	behind := func(i api.RotationInstance) int {
		n := 0
		if !i.Loaded {
			n++
		}
		if !i.Healthy {
			n++
		}
		return n
	}
	slices.SortStableFunc(all, func(a, b api.RotationInstance) int { return behind(b) - behind(a) })
	var rows [][]screen.Cell
	for _, i := range all[:min(len(all), mostInstances)] {
		row := screen.Row(i.Workload+"/"+i.Instance, i.MayGoTo, "loaded", "healthy", i.Proof, i.Reason)
		if !i.Loaded {
			row[2] = screen.Cell{Text: "not loaded", Style: screen.Warn}
		}
		if !i.Healthy {
			row[3] = screen.Cell{Text: "NOT HEALTHY", Style: screen.Bad}
		}
		rows = append(rows, row)
	}
	s.screen.Table(w, []string{"INSTANCE", "MAY GO TO", "VERSION", "HEALTH", "PROOF", "REASON"}, rows)
	if more := len(all) - mostInstances; more > 0 {
		s.screen.Text(w, "", screen.Cell{Text: fmt.Sprintf("and %d more; -o json has all", more), Style: screen.Faint})
	}
}

func (s *session) showRows(w io.Writer, r api.Rotation) {
	var rows [][]screen.Cell
	for _, name := range slices.Sorted(maps.Keys(r.Rows)) {
		for _, c := range r.Rows[name].Columns {
			rows = append(rows, screen.Row(name, c.Column, fmt.Sprint(c.Total), fmt.Sprint(c.Staged), fmt.Sprint(c.Rotated), fmt.Sprint(c.Left+c.Unreadable)))
		}
	}
	if len(rows) == 0 {
		return
	}
	s.heading(w, "Rows")
	s.screen.Table(w, []string{"KEY", "COLUMN", "ROWS", "STAGED", "ROTATED", "LEFT"}, rows)
	for _, name := range slices.Sorted(maps.Keys(r.Rows)) {
		of := r.Rows[name]
		if of.Error != "" {
			s.screen.Text(w, "", screen.Cell{Text: name + ": " + of.Error, Style: screen.Bad})
		}
		if of.RowsPerSecond != nil && of.ExpectedSeconds != nil {
			s.screen.Text(w, "", screen.Cell{Text: fmt.Sprintf("%s: %.0f rows a second, about %s left", name, *of.RowsPerSecond, screen.Ago(of.ExpectedSeconds.Duration()))})
		}
	}
}

// showEvidence shows what an ended rotation has cut, and who is locked out.
func (s *session) showEvidence(w io.Writer, r api.Rotation) {
	if len(r.Cuts) > 0 {
		s.heading(w, "Cut")
	}
	for _, c := range r.Cuts {
		s.screen.Text(w, "  ", screen.Cell{Text: fmt.Sprintf("%s: %s", c.Gate, c.Reason), Style: screen.Warn})
	}
	if len(r.LockedOut) > 0 {
		s.heading(w, "Locked out")
	}
	for _, out := range r.LockedOut {
		s.screen.Text(w, "  ", screen.Cell{Text: fmt.Sprintf("%s/%s %s. %s", out.Workload, out.Instance, out.Text, out.Remedy), Style: screen.Bad})
	}
}

func (s *session) showTimeline(w io.Writer, r api.Rotation, now time.Time) {
	if len(r.Timeline) == 0 {
		return
	}
	s.heading(w, "Timeline")
	for _, e := range r.Timeline {
		s.screen.Text(w, "  ", screen.Cell{Text: eventText(e, now)})
	}
	if r.TimelineOmitted > 0 {
		s.screen.Text(w, "  ", screen.Cell{Text: fmt.Sprintf("%d events from the middle are in the journal only", r.TimelineOmitted), Style: screen.Faint})
	}
}

// eventText says an event of a timeline, with its date if that is not today's.
func eventText(e api.Event, now time.Time) string {
	at := e.Time.UTC().Format("15:04:05")
	if e.Time.UTC().Format(time.DateOnly) != now.UTC().Format(time.DateOnly) {
		at = screen.Moment(e.Time.Time)
	}
	text := fmt.Sprintf("%s  %s: %s", at, strings.TrimSpace(e.State+" "+e.Step), e.Text)
	if e.By != "" {
		text += ", by " + e.By
	}
	return text + reasonText(e.Reason)
}

const receiptHelp = `Usage: hyvve receipt [ROTATION|KEY]

Shows the receipt of a rotation: what was done to which versions, by whom and why, what held it back, how it is known that
nobody used the old version, what was cut and who is locked out, and the journal's entries with their hashes.

ROTATION is an id, what an id begins with, or latest; KEY is the name of a key, for its running or newest rotation.
Without an argument it is the only rotation that runs, or the newest if none does.
`

func newReceipt() *cobra.Command {
	cmd := add("receipt", "show the receipt of a rotation", receiptHelp, []string{formatJSON}, func(ctx context.Context, s *session, args []string) error {
		name, err := s.resolve(ctx, args, true)
		if err != nil {
			return err
		}
		if s.format == formatJSON {
			r, err := s.engine.Receipt(ctx, name)
			if err != nil {
				return s.suggest(ctx, err, name)
			}
			return s.printJSON(r)
		}
		lines, err := s.engine.ReceiptLines(ctx, name)
		if err != nil {
			return s.suggest(ctx, err, name)
		}
		for _, line := range lines {
			_, _ = fmt.Fprintln(s.out, screen.Clean(line))
		}
		return nil
	})
	cmd.Args = atMostOne("rotation or key")
	return completing(cmd, true, false)
}
