// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

// Summary is what build/demo/summary.json holds.
type Summary struct {
	Seconds   float64                 `json:"seconds"`
	Rotations []RotationTimes         `json:"rotations"`
	Requests  platform.Counts         `json:"requests"`
	Columns   []platform.ColumnResult `json:"columns"`
	Logins    []platform.LoginResult  `json:"logins"`
	Places    int                     `json:"places_searched"` // logs, command lines, environments of sidecars and what they say of themselves
	Secrets   int                     `json:"secrets_searched_for"`
	Leaks     []string                `json:"logs_with_a_secret"`
	OK        bool                    `json:"ok"`
}

// RotationTimes are the seconds of each move of a rotation.
type RotationTimes struct {
	Rotation string  `json:"rotation"`
	Key      string  `json:"key"`
	From     int     `json:"from_version"`
	To       int     `json:"to_version"`
	Trigger  string  `json:"trigger"`
	State    string  `json:"state"`
	Accept   float64 `json:"accept_seconds"`
	Present  float64 `json:"present_seconds"`
	Retire   float64 `json:"retire_seconds"`
	Revert   float64 `json:"revert_seconds"`
	Rows     int     `json:"rows"`
}

// summarize adds up the time between events by the move that they belong to.
func summarize(r api.Rotation) RotationTimes {
	t := RotationTimes{Rotation: r.ID, Key: strings.Join(r.Keys, ","), Trigger: r.Trigger, State: r.State}
	for _, v := range r.Versions {
		t.From, t.To = v.From, v.To
	}
	for n, event := range r.Timeline {
		if n+1 == len(r.Timeline) {
			break
		}
		seconds := r.Timeline[n+1].Time.Sub(event.Time.Time).Seconds()
		switch event.State {
		case "planned", "accepting":
			t.Accept += seconds
		case "presenting", "soaking":
			t.Present += seconds
		case "retiring":
			t.Retire += seconds
		case "reverting":
			t.Revert += seconds
		}
	}
	for _, rows := range r.Rows {
		for _, c := range rows.Columns {
			t.Rows += c.Rotated
		}
	}
	return t
}

// conclude writes the table and the file, and says whether all went well.
func (d *demo) conclude(path string) error {
	s := &d.summary
	s.Seconds = time.Since(d.begun).Seconds()
	problems := s.problems()
	s.OK = len(problems) == 0
	d.table()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(d.out, "\nThe same is in %s.\n", path)
	return errors.Join(problems...)
}

func (s Summary) problems() []error {
	var problems []error
	if s.Requests.Failures > 0 {
		problems = append(problems, fmt.Errorf("%d requests failed: %s", s.Requests.Failures, strings.Join(s.Requests.Examples, "; ")))
	}
	if s.Requests.Calls == 0 || s.Requests.Sessions == 0 || s.Requests.Reads == 0 || s.Requests.Saves == 0 {
		problems = append(problems, errors.New("some part of the load made no request"))
	}
	for _, c := range s.Columns {
		if c.Current != c.Rows || c.Changed > 0 {
			problems = append(problems, fmt.Errorf("%s: of %d rows %d open under the current key, %d under the old one, %d under none; %d have another plaintext", c.Column, c.Rows, c.Current, c.Old, c.Unreadable, c.Changed))
		}
	}
	if len(s.Logins) == 0 {
		problems = append(problems, errors.New("no server was looked at"))
	}
	for _, r := range s.Logins {
		if problem := r.Problem(); problem != "" {
			problems = append(problems, errors.New(problem))
		}
	}
	if s.Places == 0 || s.Secrets == 0 {
		problems = append(problems, errors.New("nothing was searched for secrets"))
	}
	if len(s.Leaks) > 0 {
		problems = append(problems, fmt.Errorf("secrets stand in %s", strings.Join(s.Leaks, ", ")))
	}
	return problems
}

func (d *demo) table() {
	s := d.summary
	t := tabwriter.NewWriter(d.out, 2, 8, 2, ' ', 0)
	line := func(cells ...any) {
		for _, c := range cells {
			if f, ok := c.(float64); ok {
				c = fmt.Sprintf("%.1f", f)
			}
			_, _ = fmt.Fprintf(t, "%v\t", c)
		}
		_, _ = fmt.Fprintln(t)
	}
	line()
	line("KEY", "VERSION", "STARTED BY", "ENDED", "ACCEPT s", "PRESENT s", "RETIRE s", "REVERT s", "ROWS")
	for _, r := range s.Rotations {
		line(r.Key, fmt.Sprintf("%d → %d", r.From, r.To), r.Trigger, r.State, r.Accept, r.Present, r.Retire, r.Revert, r.Rows)
	}
	line()
	line("COLUMN", "ROWS", "UNDER CURRENT KEY", "LEFT UNDER OLD KEY", "UNREADABLE")
	for _, c := range s.Columns {
		line(c.Column, c.Rows, c.Current, c.Old, c.Unreadable)
	}
	line()
	line("URL", "OLD USER", "ITS SESSIONS", "WHEN LOCKED", "CAN LOG IN AT THE END")
	for _, r := range s.Logins {
		line(r.Env, r.Old, r.Most, r.WhenLocked, strings.Join(r.Valid(), ", "))
	}
	line()
	line("REQUESTS", "MADE", "FAILED")
	line("all", s.Requests.Total(), s.Requests.Failures)
	line("calls of agents", s.Requests.Calls)
	line("sessions", s.Requests.Sessions)
	line("rows read, saved", fmt.Sprintf("%d, %d", s.Requests.Reads, s.Requests.Saves))
	_ = t.Flush()
	_, _ = fmt.Fprintf(d.out, "\n%d secrets searched for in %d logs, command lines, environments and status pages: found in %d. %.0f seconds in all.\n", s.Secrets, s.Places, len(s.Leaks), s.Seconds)
}
