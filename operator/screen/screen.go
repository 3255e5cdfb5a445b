// SPDX-License-Identifier: Apache-2.0

// Package screen lays out what the hyvve command prints: tables, paragraphs and colours, for terminals of any width and for pipes.
// It is pure: the same facts have the same text.
package screen

import (
	"io"
	"strings"
	"time"
	"unicode"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
)

// Screen is what text is laid out for.
type Screen struct {
	Width  int  // columns; 0: as wide as it takes
	Colour bool // whether it shows colours
}

// Style is what a text means; a terminal shows it as a colour.
type Style int

// The styles. A text reads the same without them.
const (
	Plain  Style = iota
	Good         // as it should be
	Warn         // waits, or wants to be looked at
	Bad          // is wrong
	Faint        // matters less
	Strong       // a heading
)

var styles = map[Style]lipgloss.Style{
	Good:   lipgloss.NewStyle().Foreground(lipgloss.Green),
	Warn:   lipgloss.NewStyle().Foreground(lipgloss.Yellow),
	Bad:    lipgloss.NewStyle().Foreground(lipgloss.Red).Bold(true),
	Faint:  lipgloss.NewStyle().Faint(true),
	Strong: lipgloss.NewStyle().Bold(true),
}

// Paint returns a text of one line in a style.
func (s Screen) Paint(style Style, text string) string {
	if !s.Colour || style == Plain || text == "" {
		return text
	}
	return styles[style].Render(text)
}

// Clean returns a text without what would move the cursor of a terminal, or turn the direction of text: texts come from Vault, and
// from those who gave reasons. Line breaks become spaces.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.In(r, unicode.Bidi_Control), r == '\u2028', r == '\u2029', r == '\ufeff':
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// Cell is a field of a table.
type Cell struct {
	Text  string
	Style Style
}

// Row makes a row of plain texts.
func Row(texts ...string) []Cell {
	cells := make([]Cell, 0, len(texts))
	for _, text := range texts {
		cells = append(cells, Cell{Text: text})
	}
	return cells
}

const (
	gap        = "  "
	narrowLast = 24 // columns that the last column of a table needs, where its texts are longer
)

// Table writes rows below a header, in columns. Where they are wider than the screen, the last column is wrapped; where that has no
// room, each row becomes a paragraph with a line a field, and empty fields are left out.
func (s Screen) Table(w io.Writer, header []string, rows [][]Cell) {
	if len(rows) == 0 {
		return
	}
	widths := make([]int, len(header))
	for n, title := range header {
		widths[n] = ansi.StringWidth(title)
	}
	for _, row := range rows {
		for n := range row {
			row[n].Text = Clean(row[n].Text)
			widths[n] = max(widths[n], ansi.StringWidth(row[n].Text))
		}
	}
	last := len(header) - 1
	before := len(gap) * last
	for _, width := range widths[:last] {
		before += width
	}
	if s.Width > 0 && before+widths[last] > s.Width {
		if s.Width-before < narrowLast {
			s.paragraphs(w, header, rows)
			return
		}
		widths[last] = s.Width - before
	}
	titles := make([]Cell, 0, len(header))
	for _, title := range header {
		titles = append(titles, Cell{title, Faint})
	}
	for _, row := range append([][]Cell{titles}, rows...) {
		s.row(w, row, widths, before)
	}
}

// row writes a row; before is the width of the columns before the last one.
func (s Screen) row(w io.Writer, row []Cell, widths []int, before int) {
	var line strings.Builder
	last := len(widths) - 1
	for n, cell := range row[:last] {
		line.WriteString(s.Paint(cell.Style, cell.Text))
		line.WriteString(strings.Repeat(" ", widths[n]-ansi.StringWidth(cell.Text)) + gap)
	}
	for n, part := range wrap(row[last].Text, widths[last]) {
		if n > 0 {
			line.WriteString("\n" + strings.Repeat(" ", before))
		}
		line.WriteString(s.Paint(row[last].Style, part))
	}
	for text := range strings.SplitSeq(line.String(), "\n") {
		_, _ = io.WriteString(w, strings.TrimRight(text, " ")+"\n")
	}
}

// paragraphs writes a table for a narrow screen.
func (s Screen) paragraphs(w io.Writer, header []string, rows [][]Cell) {
	for _, row := range rows {
		for n, cell := range row {
			switch {
			case n == 0:
				s.Text(w, "", Cell{cell.Text, Strong})
			case cell.Text != "":
				s.Text(w, "  ", Cell{strings.ToLower(header[n]) + ": " + cell.Text, cell.Style})
			}
		}
	}
}

// Text writes a paragraph, wrapped at the screen's width. Its first line begins at the indent, those after it two columns further in.
func (s Screen) Text(w io.Writer, indent string, cell Cell) {
	room := 0
	if s.Width > 0 {
		room = max(s.Width-len(indent)-2, 10)
	}
	for n, line := range wrap(Clean(cell.Text), room) {
		further := ""
		if n > 0 {
			further = gap
		}
		_, _ = io.WriteString(w, indent+further+s.Paint(cell.Style, line)+"\n")
	}
}

// wrap breaks a text between words where it can; 0: not at all.
func wrap(text string, width int) []string {
	if width <= 0 || ansi.StringWidth(text) <= width {
		return []string{text}
	}
	lines := strings.Split(ansi.Wrap(text, width, ""), "\n")
	for n, line := range lines {
		lines[n] = strings.TrimSpace(line)
	}
	return lines
}

// Ago returns a duration as people say it: in its two largest units.
func Ago(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return duration.Text(d.Round(time.Second))
	case d < time.Hour:
		return duration.Text(d.Truncate(time.Second))
	case d < 48*time.Hour:
		return duration.Text(d.Truncate(time.Minute))
	}
	return duration.Text(d.Truncate(24 * time.Hour))
}

// Moment returns a time to the second, in UTC; empty: none.
func Moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
