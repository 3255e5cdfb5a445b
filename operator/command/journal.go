// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

const journalHelp = `Usage: hyvve journal [--follow] [--key=KEY] [--rotation=ID] [--by=USER] [--since=TIME] [--limit=NUMBER]

Shows entries of the journal: who did what to which version when, and why. The newest are shown, oldest first.

  hyvve journal --key=jwt-secret --since=7d
  hyvve journal --since=2026-11-01 --limit=0 -o csv >november.csv
  hyvve journal --follow -o json
`

// journalPage is the number of entries that one request asks for.
const journalPage = 500

// journalEvery is how often journal --follow looks.
const journalEvery = 2 * time.Second

// journalFlags say which entries are shown.
type journalFlags struct {
	follow  bool
	since   moment
	limit   int
	request api.JournalRequest // its filters
}

func newJournal() *cobra.Command {
	var f journalFlags
	cmd := add("journal", "show who did what, when and why", journalHelp, []string{formatJSON, formatCSV}, func(ctx context.Context, s *session, _ []string) error {
		if f.limit < 0 {
			return usage.Wrong(fmt.Errorf("--limit: %d is below 0; write 0 for all", f.limit))
		}
		return s.journal(ctx, f)
	})
	cmd.Flags().BoolVar(&f.follow, "follow", false, "show new entries as they come, until Ctrl-C; with -o json, in a line each")
	cmd.Flags().Var(&f.since, "since", "only entries since a `TIME`: how long ago, such as 24h or 7d, or a date or time in UTC, such as 2026-11-30 or 2026-11-30T16:00:00Z")
	cmd.Flags().IntVar(&f.limit, "limit", 50, "`NUMBER` of entries at most; 0: all")
	cmd.Flags().StringVar(&f.request.Key, "key", "", "only entries on this `KEY`")
	cmd.Flags().StringVar(&f.request.Rotation, "rotation", "", "only entries on the rotation of this `ID`")
	cmd.Flags().StringVar(&f.request.Actor, "by", "", "only what this `USER` did, by display name or entity id")
	return cmd
}

// moment is a flag that takes a time, or how long ago it was.
type moment struct{ at time.Time }

// String implements [pflag.Value].
func (m *moment) String() string { return screen.Moment(m.at) }

// Set implements [pflag.Value].
func (m *moment) Set(text string) error {
	if d, err := duration.Parse(text); err == nil && d >= 0 {
		m.at = time.Now().Add(-d)
		return nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			m.at = at
			return nil
		}
	}
	return errors.New("how long ago, such as 24h or 7d, or a date or time in UTC, such as 2026-11-30 or 2026-11-30T16:00:00Z")
}

// Type implements [pflag.Value].
func (m *moment) Type() string { return "TIME" }

// journal shows entries, and those that come later if it is to follow.
func (s *session) journal(ctx context.Context, f journalFlags) error {
	entries, err := s.entries(ctx, f)
	if err != nil {
		return err
	}
	if s.format == formatJSON && !f.follow {
		return s.printJSON(api.Journal{Entries: append([]api.Entry{}, entries...)})
	}
	if s.format == formatCSV {
		if err := s.printCSV(true, nil); err != nil {
			return err
		}
	}
	if err := s.printEntries(entries); err != nil {
		return err
	}
	if !f.follow {
		if len(entries) == 0 && s.format == formatText {
			s.note("No entry matches.")
		}
		return nil
	}
	after := ""
	if len(entries) > 0 {
		after = entries[len(entries)-1].ID
	} else if after, err = s.newestEntry(ctx); err != nil {
		return err
	}
	return s.followJournal(ctx, f, after)
}

// newestEntry returns the id of the newest entry; empty: there is none.
func (s *session) newestEntry(ctx context.Context) (string, error) {
	page, err := s.engine.Journal(ctx, api.JournalRequest{Newest: true, Limit: 1})
	if err != nil || len(page.Entries) == 0 {
		return "", err
	}
	return page.Entries[0].ID, nil
}

// entries reads the newest entries that match, and returns them oldest first.
func (s *session) entries(ctx context.Context, f journalFlags) ([]api.Entry, error) {
	var all []api.Entry
	request := f.request
	for request.Newest = true; ; {
		request.Limit = journalPage
		if f.limit > 0 {
			request.Limit = min(journalPage, f.limit-len(all))
		}
		page, err := s.engine.Journal(ctx, request)
		if err != nil {
			return nil, err
		}
		old := false
		for _, e := range page.Entries {
			if old = e.Time.Before(f.since.at); old {
				break
			}
			all = append(all, e)
		}
		if old || page.Next == "" || f.limit > 0 && len(all) >= f.limit {
			slices.Reverse(all)
			return all, nil
		}
		request.After = page.Next
	}
}

// followJournal prints what comes after an entry. While Vault is away, it waits.
func (s *session) followJournal(ctx context.Context, f journalFlags, after string) error {
	request, away := f.request, false
	for pause(ctx, journalEvery) {
		request.After, request.Limit = after, journalPage
		page, err := s.engine.Journal(ctx, request)
		var t trouble
		switch {
		case ctx.Err() != nil:
		case err != nil && (!errors.As(s.explained(ctx, err), &t) || !t.passing):
			return err
		case err != nil && !away:
			away = true
			s.note("%s (waiting)", t.text)
		case err == nil:
			away = false
			if err := s.printEntries(page.Entries); err != nil {
				return err
			}
			if n := len(page.Entries); n > 0 {
				after = page.Entries[n-1].ID
			}
			if page.Next != "" { // a page with a filter may be empty although more follow
				after = page.Next
			}
		}
	}
	return nil
}

// printEntries prints entries, each by itself.
func (s *session) printEntries(entries []api.Entry) error {
	switch s.format {
	case formatCSV:
		return s.printCSV(false, entries)
	case formatJSON:
		for _, e := range entries {
			if err := s.printJSONLine(e); err != nil {
				return err
			}
		}
		return nil
	}
	for _, e := range entries {
		style := screen.Plain
		if e.Refused != "" || e.Failed != "" {
			style = screen.Bad
		}
		by := ""
		if e.By != "" {
			by = e.By + ": "
		}
		s.say(style, "%s  %s%s", screen.Moment(e.Time.Time), by, entryText(e))
	}
	return nil
}

// mostChanges is how many fields that an entry has changed people see; JSON and CSV have all.
const mostChanges = 4

// entryText says what an entry is about.
func entryText(e api.Entry) string {
	parts := []string{e.What}
	for _, k := range e.Keys {
		k.Fingerprint = ""
		parts = append(parts, api.Line(k))
	}
	for _, of := range []struct{ name, value string }{{"rotation", e.Rotation}, {"workload", e.Workload}, {"connection", e.Connection}} {
		if of.value != "" {
			parts = append(parts, of.name+" "+of.value)
		}
	}
	for n, c := range e.Changes {
		if n == mostChanges && len(e.Changes) > mostChanges+1 {
			parts = append(parts, fmt.Sprintf("and %d more fields", len(e.Changes)-n))
			break
		}
		parts = append(parts, api.Line(c))
	}
	for _, of := range []struct{ name, value string }{{"reason", e.Reason}, {"refused", e.Refused}, {"failed", e.Failed}} {
		if of.value != "" {
			parts = append(parts, of.name+": "+of.value)
		}
	}
	return strings.Join(parts, "; ")
}

// csvHeader names the columns of -o csv.
var csvHeader = []string{"id", "time", "what", "by", "entity_id", "reason", "rotation", "state", "step", "keys", "workload", "connection", "changes", "refused", "failed"}

// printCSV prints entries as CSV, below a header if that is wanted.
func (s *session) printCSV(header bool, entries []api.Entry) error {
	w := csv.NewWriter(s.out)
	if header {
		if err := w.Write(csvHeader); err != nil {
			return err
		}
	}
	for _, e := range entries {
		var keys, changes []string
		for _, k := range e.Keys {
			k.Fingerprint = ""
			keys = append(keys, api.Line(k))
		}
		for _, c := range e.Changes {
			changes = append(changes, api.Line(c))
		}
		record := []string{
			e.ID, e.Time.String(), e.What, e.By, e.EntityID, e.Reason, e.Rotation, e.State, e.Step, strings.Join(keys, "; "), e.Workload, e.Connection,
			strings.Join(changes, "; "), e.Refused, e.Failed,
		}
		for n, field := range record {
			if field != "" && strings.ContainsRune("=+-@\t\r", rune(field[0])) {
				record[n] = "'" + field // a spreadsheet would take it for a formula
			}
		}
		if err := w.Write(record); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

const verifyHelp = `Usage: hyvve verify

Checks that no entry of the journal was changed or taken out. Note the number of entries and the hash of the newest elsewhere,
and compare them the next time: the entry of that number must still have that hash.
`

func newVerify() *cobra.Command {
	return add("verify", "check that the journal is whole", verifyHelp, []string{formatJSON}, func(ctx context.Context, s *session, _ []string) error {
		v, err := s.engine.VerifyJournal(ctx)
		if err != nil {
			return err
		}
		if s.format == formatJSON {
			err = s.printJSON(v)
		} else {
			s.showVerified(v)
		}
		if err == nil && !v.Whole {
			return usage.Exit{Status: StatusError}
		}
		return err
	})
}

func (s *session) showVerified(v api.JournalVerified) {
	switch {
	case v.Whole && v.Entries == 0:
		s.say(screen.Good, "The journal is empty.")
		return
	case v.Whole:
		s.say(screen.Good, "The journal is whole: entries %d to %d were checked.", v.First, v.Last)
	default:
		s.say(screen.Bad, "The journal is NOT whole:")
		for _, fault := range v.Faults {
			s.screen.Text(s.out, "  ", screen.Cell{Text: fault, Style: screen.Bad})
		}
	}
	s.say(screen.Plain, "Entries ever written: %d. Hash of the newest: %s", v.Count, v.Head)
	if v.EntriesWithoutChain > 0 {
		s.say(screen.Warn, "%d entries of earlier releases have no hashes, and were not checked.", v.EntriesWithoutChain)
	}
}
