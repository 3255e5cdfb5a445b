// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Well reports whether all is as it should be.
func (s State) Well() bool {
	return s.Ready && s.Healthy && s.NotTaken == nil && s.Conflict == "" && s.Reloading == nil && len(s.Absent) == 0 && (s.Vault == nil || s.Loaded && s.Vault.Up) && !s.fails()
}

// fails reports whether a destination, work or the lease of a former instance has failed at the last try.
func (s State) fails() bool {
	return len(s.Formers) > 0 ||
		slices.ContainsFunc(s.Destinations, func(d Destination) bool { return d.Error != "" }) ||
		slices.ContainsFunc(s.Work, func(w workload.WorkReport) bool { return w.Error != "" })
}

// Print writes the state for people.
func (s State) Print(out io.Writer, now time.Time) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	line := func(name, format string, args ...any) { _, _ = fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	ago := func(t time.Time) string { return age(now.Sub(t)) + " ago" }
	if s.Workload != "" {
		line("workload", "%s, instance %s", s.Workload, s.Instance)
	}
	line("sidecar", "%s %s, started %s", s.Mode, s.Version, ago(s.Started))
	line("state", "%s", s.verdict())
	if n := s.NotTaken; n != nil {
		line("config", "not taken %s: %s", ago(n.At), strings.ReplaceAll(n.Error, "\n", "; "))
	}
	if len(s.Absent) > 0 {
		line("WARNING", "not in the bundle, and left out: %s; correct the names in keys = [...], or add the keys to presents= or verifies= of the workload", strings.Join(s.Absent, ", "))
	}
	if s.Conflict != "" {
		line("WARNING", "%s", s.Conflict)
	}
	for _, w := range s.Warnings {
		line("WARNING", "%s", w)
	}
	if v := s.Vault; v != nil {
		switch {
		case v.Up:
			line("vault", "%s, by %s, well for %s", v.Address, v.Method, age(now.Sub(v.Since)))
		case v.Since.IsZero():
			line("vault", "%s, by %s, not asked yet", v.Address, v.Method)
		default:
			line("vault", "%s, by %s, unavailable for %s: %s", v.Address, v.Method, age(now.Sub(v.Since)), v.Error)
		}
	}
	if s.Proof != "" {
		line("proof", "%s", s.Proof)
	}
	if !s.Changed.IsZero() {
		line("changed", "%s", ago(s.Changed))
	}
	if !s.Reported.IsZero() {
		line("reported", "%s", ago(s.Reported))
	}
	for _, f := range s.Formers {
		line("former", "%s, instance %s, whose values may be in use, FAILS: lease not extended for %s: %s", f.Workload, f.Instance, age(now.Sub(f.Since)), f.Error)
	}
	for _, d := range s.Destinations {
		line("secret", "%s", d.text(ago))
	}
	if r := s.Rollout; r != nil {
		line("rollout", "%s: %d pods, %d of them with an old value", r.Name, r.Pods, r.Old)
	}
	if r := s.Reloading; r != nil {
		line("reload", "%s", r.text(now))
	}
	if r := s.Reload; r != nil {
		line("reload", "%s", r.text(ago(r.At)))
	}
	for _, k := range s.Keys {
		line("key", "%s", k.text(now))
	}
	for _, seen := range s.Sightings {
		line("old value", "%s version %d: %d requests, the last %s, from %s", seen.Env, seen.Version, seen.Count, ago(seen.Last), cmp.Or(seen.From, "?"))
	}
	for _, t := range s.Trips {
		line("TRIPWIRE", "%s version %d, which is retired: presented by %d requests, the last %s, from %s: a forgotten job or an intruder", t.Env, t.Version, t.Count, ago(t.Last), cmp.Or(strings.Join(t.From, ", "), "?"))
	}
	for _, work := range s.Work {
		line("rows", "%s", progress(work))
	}
	_ = w.Flush()
}

func (s State) verdict() string {
	switch {
	case s.Reason != "":
		return "UNHEALTHY: " + s.Reason
	case !s.Ready && s.Vault != nil && s.Vault.Error != "":
		return "NOT READY: there is no bundle yet; the line vault says why"
	case !s.Ready:
		return "NOT READY: " + s.Unready()
	case s.Vault == nil && s.Reload == nil:
		return "follows files; none has changed yet"
	case !s.Healthy:
		return "not known yet: the workload has not proved itself"
	case s.Reloading != nil:
		return "not known yet: a reload is under way"
	case s.Vault != nil && !s.Loaded:
		return "well, and on the way to the bundle of now"
	case s.Vault != nil && !s.Vault.Up:
		return "well, with the last good files; the line vault says what is wrong"
	}
	if len(s.Absent) > 0 {
		return "well, without keys that the configuration names: the line WARNING says which"
	}
	if s.Conflict != "" {
		return "well, and another process uses the name of this instance: the line WARNING says how"
	}
	if s.NotTaken != nil {
		return "well, with the configuration before: the line config says why"
	}
	if s.fails() {
		return "well, but for what FAILS below"
	}
	return "well"
}

func (r Reload) text(when string) string {
	took := r.Took.Round(time.Millisecond)
	if r.Error != "" {
		return fmt.Sprintf("FAILED %s, after %s: %s", when, took, r.Error)
	}
	return fmt.Sprintf("%s, took %s", when, took)
}

func (r Reloading) text(now time.Time) string {
	text := "under way for " + age(now.Sub(r.Since))
	if r.Limit > 0 {
		text += fmt.Sprintf(" (limit %s)", r.Limit)
	}
	return text
}

func (d Destination) text(ago func(time.Time) string) string {
	switch {
	case !d.Up:
		return d.Name + ", FAILS: " + d.Error
	case d.Written.IsZero():
		return d.Name + ", as it was"
	}
	return d.Name + ", written " + ago(d.Written)
}

func (k Key) text(now time.Time) string {
	text := fmt.Sprintf("%s version %d", k.Name, k.Version)
	if !k.Created.IsZero() {
		text += ", " + age(now.Sub(k.Created)) + " old"
	}
	if len(k.Accepts) > 0 {
		text += "; accepts " + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(k.Accepts)), ", "), "[]")
	}
	return text
}

func progress(w workload.WorkReport) string {
	total := 0
	for _, c := range w.Columns {
		total += c.Total
	}
	text := fmt.Sprintf("%s: %d of %d to go", w.ID, w.Remaining(), total)
	switch left, bad := w.Left(); {
	case w.Error != "":
		return text + "; FAILS: " + w.Error
	case w.Done:
		text = fmt.Sprintf("%s: done, %d rows, %d still open under the old value", w.ID, total, left)
		if bad > 0 {
			text += fmt.Sprintf(", %d under none", bad)
		}
	case w.Rate > 0:
		text += fmt.Sprintf(", %.0f a second", w.Rate)
	}
	return text
}

// age returns a duration as people say it: its two largest units.
func age(d time.Duration) string {
	days, hours, minutes, seconds := d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60
	for _, two := range []struct {
		first, second   time.Duration
		name, lowerName string
	}{{days, hours, "d", "h"}, {hours, minutes, "h", "min"}, {minutes, seconds, "min", "s"}} {
		switch {
		case two.first > 0 && two.second > 0:
			return fmt.Sprintf("%d %s %d %s", two.first, two.name, two.second, two.lowerName)
		case two.first > 0:
			return fmt.Sprintf("%d %s", two.first, two.name)
		}
	}
	return fmt.Sprintf("%d s", max(seconds, 0))
}
