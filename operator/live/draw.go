// SPDX-License-Identifier: Apache-2.0

// Package live shows a rotation in place while it runs, and says what each key press would do. Drawing is pure: the same facts have
// the same screen.
package live

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

// Facts are what a screen shows.
type Facts struct {
	Rotation  api.Rotation // as last heard of; without instances
	Instances api.Rotation // as last read with them
	LockedOut []string     // who runs with a retired version, in words
	Looked    bool         // whether LockedOut is known
	Away      string       // what keeps Vault from answering; empty: it answers
	Question  string       // what is asked
	Said      string       // what has come of the last key press
	Faulty    bool         // whether Said is an error
	Keys      []Key        // what key presses do now
}

// Screen is what they are drawn for.
type Screen struct {
	screen.Screen
	Height  int  // lines; 0: as many as it takes
	Unicode bool // whether it shows more than ASCII
}

// marks are the signs that a screen shows.
type marks struct {
	past, now, next, full, empty, dot, more string
}

func (s Screen) marks() marks {
	if s.Unicode {
		return marks{"✓", "▸", " ", "█", "░", "·", " …"}
	}
	return marks{"*", ">", " ", "#", "-", "|", " ..."}
}

// moves are the states of a rotation that goes forward, in order, and what they are called.
var moves = []struct{ state, name string }{
	{"accepting", "accept"}, {"presenting", "present"}, {"soaking", "soak"}, {"retiring", "retire"},
}

// back are those of one that is taken back.
var back = []struct{ state, name string }{{"reverting", "revert"}}

// Draw returns the screen as lines.
func Draw(f Facts, s Screen, now time.Time) string {
	head, foot := s.head(f, now), s.foot(f)
	room := 0
	if s.Height > 0 {
		room = max(s.Height-len(head)-len(foot), 0)
	}
	lines := slices.Concat(head, s.body(f, room, now), foot)
	if s.Height > 0 && len(lines) > s.Height {
		lines = append(lines[:max(s.Height-len(foot), 0)], foot...)
		lines = lines[:min(len(lines), s.Height)]
	}
	return strings.Join(lines, "\n")
}

// text returns a paragraph as lines.
func (s Screen) text(indent string, cell screen.Cell) []string {
	var b strings.Builder
	s.Text(&b, indent, cell)
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

func plain(style screen.Style, format string, args ...any) screen.Cell {
	return screen.Cell{Text: fmt.Sprintf(format, args...), Style: style}
}

// few is text of at most so many lines, so that one paragraph cannot take the screen.
func (s Screen) few(most int, indent string, cell screen.Cell) []string {
	lines := s.text(indent, cell)
	if len(lines) <= most {
		return lines
	}
	last := ansi.Strip(lines[most-1])
	if more := ansi.StringWidth(s.marks().more); s.Width > more {
		last = ansi.Truncate(last, s.Width-more, "")
	}
	return append(lines[:most-1:most-1], s.Paint(cell.Style, last+s.marks().more))
}

// head is what always shows: what changes, the moves, and what is waited for.
func (s Screen) head(f Facts, now time.Time) []string {
	r := f.Rotation
	var changes []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		changes = append(changes, name+" "+api.Line(r.Versions[name]))
	}
	lines := s.few(3, "", plain(screen.Strong, "%s", strings.Join(changes, ", ")))
	by := "its " + r.Trigger
	if r.By != "" {
		by = r.By
	}
	if r.Reason != "" {
		by += " (" + r.Reason + ")"
	}
	lines = append(lines, s.few(2, "", plain(screen.Faint, "%s, started %s by %s", r.ID, screen.Moment(r.Created.Time), by))...)
	if r.Compromised {
		lines = append(lines, s.text("", plain(screen.Bad, "Compromised: what does not hold at the deadline is cut."))...)
	}
	lines = append(lines, "")
	lines = append(append(lines, s.moves(r, now)...), "")
	if f.Away != "" {
		lines = append(lines, s.text("", plain(screen.Bad, "%s", f.Away))...)
	}
	switch {
	case r.Paused:
		lines = append(lines, s.few(4, "", plain(screen.Warn, "Paused %s", strings.TrimPrefix(r.NextGate, "paused ")))...)
	case r.NextGate != "" && !r.Ended():
		lines = append(lines, s.few(4, "", plain(screen.Warn, "Waits: %s", r.NextGate))...)
	case f.Away == "":
		lines = lines[:len(lines)-1]
	}
	return lines
}

// moves shows how far the rotation is: a line a move, with how long it took.
func (s Screen) moves(r api.Rotation, now time.Time) (lines []string) {
	m := s.marks()
	all := moves
	if r.State == "reverting" || r.State == "reverted" {
		all = back
	}
	for _, move := range all {
		from, to := spent(r, move.state)
		cell := screen.Cell{Text: m.next + " " + move.name, Style: screen.Faint}
		switch {
		case from.IsZero() && !r.Ended():
		case from.IsZero(): // it was passed over
			cell = screen.Cell{Text: m.past + " " + move.name, Style: screen.Good}
		case r.State == move.state:
			cell = plain(screen.Strong, "%s %-9s %8s  %s", m.now, move.name, screen.Ago(now.Sub(from)), r.Step)
		default:
			cell = plain(screen.Good, "%s %-9s %8s", m.past, move.name, screen.Ago(to.Sub(from)))
		}
		lines = append(lines, s.text("  ", cell)...)
	}
	return lines
}

// spent returns when a rotation came to a state, and when it left it; zero: it did not.
func spent(r api.Rotation, state string) (from, to time.Time) {
	for _, e := range r.Timeline {
		switch {
		case e.State == state && from.IsZero():
			from = e.Time.Time
		case e.State != state && !from.IsZero():
			return from, e.Time.Time
		}
	}
	return from, to
}

// body is what there is room for: workloads, instances and rows. room 0: no bound.
func (s Screen) body(f Facts, room int, now time.Time) []string {
	lines := append(s.rows(f.Rotation), s.workloads(f.Instances)...)
	if len(lines) > 0 {
		lines = append([]string{""}, lines...)
	}
	switch {
	case room > 0 && len(lines) > room:
		return lines[:room]
	case room > 0:
		room -= len(lines)
		if room < 2 {
			return lines
		}
	}
	return append(lines, s.instances(f.Instances, room, now)...)
}

// bar is a bar of progress.
func (s Screen) bar(part, whole int) string {
	m, width := s.marks(), 20
	if s.Width > 0 && s.Width < 60 {
		width = 8
	}
	full := 0
	if whole > 0 {
		full = min(max(part, 0), whole) * width / whole
	}
	return strings.Repeat(m.full, full) + strings.Repeat(m.empty, width-full)
}

// workloads has a bar for each workload, and its next wave.
func (s Screen) workloads(r api.Rotation) (lines []string) {
	type count struct{ all, loaded, healthy int }
	counts := map[string]count{}
	for _, i := range r.Instances {
		c := counts[i.Workload]
		c.all++
		if i.Loaded {
			c.loaded++
		}
		if i.Healthy {
			c.healthy++
		}
		counts[i.Workload] = c
	}
	width := 0
	for name := range counts {
		width = max(width, ansi.StringWidth(name))
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		c := counts[name]
		style := screen.Good
		switch {
		case c.healthy < c.all:
			style = screen.Bad
		case c.loaded < c.all:
			style = screen.Warn
		}
		text := fmt.Sprintf("%-*s  %s  %d of %d loaded", width, name, s.bar(c.loaded, c.all), c.loaded, c.all)
		if c.healthy < c.all {
			text += fmt.Sprintf(", %d NOT HEALTHY", c.all-c.healthy)
		}
		lines = append(lines, s.text("", screen.Cell{Text: text, Style: style})...)
	}
	for _, w := range r.Waves {
		lines = append(lines, s.few(2, "  ", plain(screen.Faint, "next: %s", api.Line(w)))...)
	}
	return lines
}

// silentAfter is from when on it is worth saying that nothing is heard of an instance.
const silentAfter = 15 * time.Second

// instances lists those that hold the rotation back first, as many as there is room for.
func (s Screen) instances(r api.Rotation, room int, now time.Time) []string {
	behind := func(i api.RotationInstance) int {
		switch {
		case !i.Healthy:
			return 0
		case !i.Loaded:
			return 1
		}
		return 2
	}
	all := slices.Clone(r.Instances)
	slices.SortStableFunc(all, func(a, b api.RotationInstance) int { return behind(a) - behind(b) })
	if s.Width > 0 && s.Width < narrow {
		return s.bounded(s.paragraphs(all, now), room)
	}
	var rows [][]screen.Cell
	for _, i := range all {
		row := screen.Row("  "+i.Workload+"/"+i.Instance, i.MayGoTo, "loaded", i.Proof, "")
		if !i.Loaded {
			row[2] = screen.Cell{Text: "not loaded", Style: screen.Warn}
		}
		row[4] = screen.Cell{Text: strings.Join(trouble(i, now), "; "), Style: screen.Bad}
		rows = append(rows, row)
		if room > 0 && len(rows) > room {
			break
		}
	}
	var b strings.Builder
	s.Table(&b, []string{"  INSTANCE", "MAY GO TO", "VERSION", "PROOF", "TROUBLE"}, rows)
	if b.Len() == 0 {
		return nil
	}
	return s.bounded(strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n"), room)
}

// narrow is the width from which on instances are in a table.
const narrow = 76

// paragraphs lists instances on a narrow screen.
func (s Screen) paragraphs(all []api.RotationInstance, now time.Time) (lines []string) {
	for _, i := range all {
		cell := plain(screen.Plain, "%s/%s: %s, loaded, proof %s", i.Workload, i.Instance, i.MayGoTo, i.Proof)
		if !i.Loaded {
			cell = plain(screen.Warn, "%s/%s: %s, not loaded", i.Workload, i.Instance, i.MayGoTo)
		}
		if wrong := trouble(i, now); len(wrong) > 0 {
			cell = screen.Cell{Text: cell.Text + "; " + strings.Join(wrong, "; "), Style: screen.Bad}
		}
		lines = append(lines, s.few(2, "  ", cell)...)
	}
	return lines
}

// trouble is what is wrong with an instance, in words.
func trouble(i api.RotationInstance, now time.Time) (notes []string) {
	if !i.Healthy {
		notes = append(notes, strings.TrimSuffix("NOT HEALTHY: "+i.Reason, ": "))
	}
	if silent := now.Sub(i.Seen.Time); silent > silentAfter && !i.Seen.IsZero() {
		notes = append(notes, "silent for "+screen.Ago(silent))
	}
	return notes
}

// bounded returns as many lines as there is room for, and says if there are more.
func (s Screen) bounded(lines []string, room int) []string {
	if room <= 0 || len(lines) <= room {
		return lines
	}
	return append(lines[:room-1:room-1], s.few(1, "  ", plain(screen.Faint, "and more: hyvve get"))...)
}

// rows shows the re-encryption, a bar for each column.
func (s Screen) rows(r api.Rotation) (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(r.Rows)) {
		of := r.Rows[name]
		for _, c := range of.Columns {
			if c.Total == 0 {
				continue
			}
			part := max(c.Staged, c.Rotated)
			lines = append(lines, s.text("", plain(screen.Plain, "%s  %d of %d rows  %s", s.bar(part, c.Total), part, c.Total, c.Column))...)
		}
		if of.RowsPerSecond != nil && of.ExpectedSeconds != nil && !of.Done {
			lines = append(lines, s.text("  ", plain(screen.Faint, "%.0f rows a second, about %s left", *of.RowsPerSecond, screen.Ago(of.ExpectedSeconds.Duration())))...)
		}
		if of.Error != "" {
			lines = append(lines, s.few(2, "  ", plain(screen.Bad, "%s", of.Error))...)
		}
	}
	return lines
}

// foot is what always shows at the end: who is locked out, and what key presses do.
func (s Screen) foot(f Facts) []string {
	lines := []string{""}
	switch {
	case len(f.LockedOut) > 0:
		lines = append(lines, s.few(3, "", plain(screen.Bad, "Locked out: %s", strings.Join(f.LockedOut, "; ")))...)
	case f.Looked:
		lines = append(lines, s.text("", plain(screen.Good, "Nobody is locked out."))...)
	}
	if f.Said != "" {
		style := screen.Plain
		if f.Faulty {
			style = screen.Bad
		}
		lines = append(lines, s.few(3, "", screen.Cell{Text: f.Said, Style: style})...)
	}
	if f.Question != "" {
		return append(lines, s.text("", plain(screen.Warn, "%s y: yes, any other key: no", f.Question))...)
	}
	var keys []string
	for _, k := range f.Keys {
		keys = append(keys, k.Press+": "+k.Does)
	}
	return append(lines, s.text("", plain(screen.Faint, "%s", strings.Join(keys, " "+s.marks().dot+" ")))...)
}
