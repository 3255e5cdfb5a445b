// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

const statusHelp = `Usage: hyvve status [--watch]

Shows all keys with their version, its age, what the key waits for or when it rotates, and how many instances hold the
version; all workloads; all connections; and who is locked out.
`

// watchEvery is how often status --watch looks.
const watchEvery = 2 * time.Second

func newStatus() *cobra.Command {
	var watch bool
	cmd := add("status", "show keys, workloads and connections", statusHelp, []string{formatJSON}, func(ctx context.Context, s *session, _ []string) error {
		if watch {
			return s.watchStatus(ctx)
		}
		o, err := s.overview(ctx)
		if err != nil {
			return err
		}
		if s.format == formatJSON {
			return s.printJSON(o)
		}
		s.showOverview(s.out, o, time.Now())
		return nil
	})
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again when it has changed, until Ctrl-C; with -o json, in a line each")
	return cmd
}

// Sequences of a terminal: to its upper left corner, and to clear what follows, to the end of a line and to that of the screen.
const (
	goHome    = "\x1b[H"
	clearLine = "\x1b[K"
	clearRest = "\x1b[J"
)

// watchStatus shows the status again and again. A terminal shows it in place; what is not one gets it when it has changed.
func (s *session) watchStatus(ctx context.Context) error {
	last := ""
	for first := true; ctx.Err() == nil; first = false {
		var text bytes.Buffer
		o, err := s.overview(ctx)
		var t trouble
		switch {
		case ctx.Err() != nil:
			continue
		case err != nil && (first || !errors.As(s.explained(ctx, err), &t) || !t.passing):
			return err
		case err != nil:
			s.screen.Text(&text, "", screen.Cell{Text: t.text + " (waiting)", Style: screen.Warn})
		case s.format == formatJSON:
		default:
			s.showOverview(&text, o, time.Now())
		}
		switch now := unchanged(o, t.text); {
		case s.format == formatText && s.terminal:
			s.screen, _ = screenOf(s.out) // its width may have changed
			shown := strings.ReplaceAll(text.String(), "\n", clearLine+"\n")
			_, _ = io.WriteString(s.out, goHome+shown+clearRest)
		case now == last:
		case s.format == formatJSON && err == nil:
			last = now
			if err := s.printJSONLine(o); err != nil {
				return err
			}
		case s.format == formatJSON:
			last = now
			s.note("%s (waiting)", t.text)
		default:
			last = now
			_, _ = fmt.Fprintf(s.out, "%s\n%s\n", screen.Moment(time.Now()), text.String())
		}
		_ = pause(ctx, watchEvery) // the loop sees that it has ended
	}
	return nil
}

// unchanged returns what two looks have in common if nothing has changed between them but that time went by.
func unchanged(o Overview, trouble string) string {
	o.Keys = maps.Clone(o.Keys)
	for name, k := range o.Keys {
		k.Age = 0
		o.Keys[name] = k
	}
	o.Connections = maps.Clone(o.Connections)
	for name, c := range o.Connections {
		c.Checked = nil
		o.Connections[name] = c
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return trouble + string(text)
}

// showOverview lays out a status for people.
func (s *session) showOverview(w io.Writer, o Overview, now time.Time) {
	if len(o.Keys) == 0 {
		s.screen.Text(w, "", screen.Cell{Text: "No key is defined. Define those of the platform with: vault write " + s.mount + "/presets/hyvve"})
		return
	}
	var rows [][]screen.Cell
	for _, name := range slices.Sorted(maps.Keys(o.Keys)) {
		row := keyRow(name, o.Keys[name], now)
		row[5].Text = s.translated(row[5].Text)
		rows = append(rows, row)
	}
	s.screen.Table(w, []string{"KEY", "VERSION", "AGE", "STATE", "INSTANCES", "NOTE"}, rows)
	rows = nil
	for _, name := range slices.Sorted(maps.Keys(o.Workloads)) {
		rows = append(rows, workloadRow(name, o.Workloads[name]))
	}
	if len(rows) > 0 {
		_, _ = fmt.Fprintln(w)
		s.screen.Table(w, []string{"WORKLOAD", "HEALTHY", "MINIMUM", "NOTE"}, rows)
	}
	rows = nil
	for _, name := range slices.Sorted(maps.Keys(o.Connections)) {
		rows = append(rows, connectionRow(name, o.Connections[name], now))
	}
	if len(rows) > 0 {
		_, _ = fmt.Fprintln(w)
		s.screen.Table(w, []string{"CONNECTION", "KIND", "CHECKED", "NOTE"}, rows)
	}
	_, _ = fmt.Fprintln(w)
	for _, out := range o.LockedOut {
		s.screen.Text(w, "", screen.Cell{Text: fmt.Sprintf("Locked out: %s/%s %s. %s", out.Workload, out.Instance, out.Text, out.Remedy), Style: screen.Bad})
	}
	for _, l := range o.Leaving {
		s.screen.Text(w, "", screen.Cell{Text: fmt.Sprintf("%s/%s: %s", l.Workload, l.Instance, l.Text), Style: screen.Warn})
	}
	if len(o.LockedOut) == 0 {
		s.screen.Text(w, "", screen.Cell{Text: "Nobody is locked out.", Style: screen.Good})
	}
	for _, text := range o.NotRead {
		s.screen.Text(w, "", screen.Cell{Text: text, Style: screen.Faint})
	}
}

func keyRow(name string, k KeyOverview, now time.Time) []screen.Cell {
	row := screen.Row(name, "none", "", k.State, "", "")
	row[0].Style = screen.Strong
	if k.CurrentVersion > 0 {
		row[1].Text, row[2].Text = fmt.Sprint(k.CurrentVersion), screen.Ago(k.Age.Duration())
	}
	if k.Instances != nil && k.Instances.Live == 0 {
		row[4].Text = "none"
	} else if k.Instances != nil {
		row[4].Text = fmt.Sprintf("%d of %d", k.Instances.Holding, k.Instances.Live)
	}
	switch {
	case k.Paused:
		row[3] = screen.Cell{Text: strings.TrimSpace("paused " + k.State + " " + k.Step), Style: screen.Warn}
	case k.Rotation != "":
		row[3] = screen.Cell{Text: strings.TrimSpace(k.State + " " + k.Step), Style: screen.Good}
	}
	row[5] = keyNote(k, now)
	return row
}

// keyNote says what a key waits for or lacks, or when it is due.
func keyNote(k KeyOverview, now time.Time) screen.Cell {
	var wrong, waits []string
	wrong = append(wrong, k.Problems...)
	for _, text := range []string{k.Cut, k.Tripped, k.RefusedLogins, k.RetireFault} {
		if text != "" {
			wrong = append(wrong, text)
		}
	}
	if k.WaitsFor != "" {
		waits = append(waits, "waits: "+k.WaitsFor)
	}
	if k.Orphan {
		waits = append(waits, "has failed so often that waiting does not mend it")
	}
	if n := len(k.Undeleted); n > 0 {
		waits = append(waits, fmt.Sprintf("%d undeleted version(s) accepted", n))
	}
	if k.Rotation == "" && !k.NextRotation.IsZero() {
		due := "due now"
		if until := k.NextRotation.Sub(now); until > 0 {
			due = "rotates in " + screen.Ago(until)
		}
		waits = append(waits, due)
	}
	text := strings.Join(append(append(wrong, waits...), k.Notes...), "; ")
	switch {
	case len(wrong) > 0 || k.Orphan:
		return screen.Cell{Text: text, Style: screen.Bad}
	case k.WaitsFor != "" || len(k.Undeleted) > 0:
		return screen.Cell{Text: text, Style: screen.Warn}
	}
	return screen.Cell{Text: text, Style: screen.Faint}
}

func workloadRow(name string, w WorkloadOverview) []screen.Cell {
	row := screen.Row(name, fmt.Sprintf("%d of %d", w.Healthy, w.Live), fmt.Sprint(w.MinInstances), "")
	if w.Live == 0 {
		row[1].Text = "none"
	}
	row[0].Style = screen.Strong
	notes := slices.Clone(w.Conflicts)
	for _, text := range []string{w.LimitHit, w.Change} {
		if text != "" {
			notes = append(notes, text)
		}
	}
	switch {
	case w.Healthy < w.Live:
		row[1].Style = screen.Bad
	case w.Live < w.MinInstances:
		row[1].Style = screen.Warn
		notes = append(notes, fmt.Sprintf("%d live instance(s) are missing: its rotations wait for them", w.MinInstances-w.Live))
	}
	row[3] = screen.Cell{Text: strings.Join(append(notes, w.Unhealthy...), "; "), Style: screen.Warn}
	return row
}

func connectionRow(name string, c ConnectionOverview, now time.Time) []screen.Cell {
	row := screen.Row(name, c.Kind, "never", "ok")
	row[0].Style, row[3].Style = screen.Strong, screen.Good
	if c.Checked != nil && !c.Checked.IsZero() {
		row[2].Text = screen.Ago(now.Sub(c.Checked.Time)) + " ago"
	} else {
		row[3] = screen.Cell{}
	}
	if c.RootRotationUnfinished {
		row[3] = screen.Cell{Text: "rotate-root has begun and not ended: write it again", Style: screen.Warn}
	}
	if len(c.Problems) > 0 {
		row[3] = screen.Cell{Text: strings.Join(c.Problems, "; "), Style: screen.Bad}
	}
	return row
}

// resolve returns the rotation that a command is about: the one that its argument names, or else the only one that runs. Where none
// does, a command that changes nothing is about the newest.
func (s *session) resolve(ctx context.Context, args []string, reads bool) (string, error) {
	if len(args) > 0 {
		return args[0], checkName(args[0])
	}
	status, err := s.engine.Status(ctx)
	if err != nil {
		return "", err
	}
	running := map[string][]string{} // keys by rotation
	for name, k := range status.Keys {
		if k.Rotation != "" {
			running[k.Rotation] = append(running[k.Rotation], name)
		}
	}
	ids := slices.Sorted(maps.Keys(running))
	switch len(ids) {
	case 0:
		if reads {
			return newest, nil
		}
		return "", fmt.Errorf("no rotation runs; start one with: %s", s.commandLine("rotate", "KEY"))
	case 1:
		return ids[0], nil
	}
	var text strings.Builder
	for _, id := range ids {
		slices.Sort(running[id])
		_, _ = fmt.Fprintf(&text, "\n  %s  %s", id, strings.Join(running[id], ", "))
	}
	return "", fmt.Errorf("%d rotations run; name one by its id, what the id begins with, or its key:%s", len(ids), &text)
}

// suggest adds to an error what was probably meant by names that are not known.
func (s *session) suggest(ctx context.Context, err error, names ...string) error {
	if !errors.Is(err, client.ErrRefused) {
		return err
	}
	known, fault := s.engine.Keys(ctx)
	for _, name := range names {
		if fault != nil || slices.Contains(known, name) {
			continue
		}
		if meant := usage.DidYouMean(name, known); meant != "" {
			return fmt.Errorf("%w%s", s.explained(ctx, err), meant)
		}
	}
	return err
}

// newest names the newest rotation.
const newest = "latest"

// checkName refuses what names no rotation and no key, and would be another path.
func checkName(name string) error {
	if name == "" || strings.ContainsAny(name, "/?#% \n") {
		return usage.Wrong(fmt.Errorf("%q names no rotation; write its id, what the id begins with, its key, or latest", name))
	}
	return nil
}
