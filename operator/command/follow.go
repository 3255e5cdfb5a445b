// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

const followHelp = `Usage: hyvve follow [ROTATION|KEY] [--timeout=DURATION] [--lines]

Shows a rotation until it has ended. A terminal shows it in place, with what each key press does. Elsewhere, and with --lines,
each change is a line, or with -o json a rotation in a line, and the command ends, too, when the rotation is paused.
Ctrl-C ends the command, and not the rotation.

ROTATION is an id, what an id begins with, or latest; KEY is the name of a key, for its running or newest rotation.
Without an argument it is the only rotation that runs, or the newest if none does.

Exit status: 0 done, 1 error, 3 paused, 4 reverted, 5 timeout (the rotation continues), 6 done with cuts,
130 interrupted (the rotation continues).
`

const (
	timeoutUsage = "stop following after a `DURATION`, such as 10m; the rotation continues"
	linesUsage   = "print a line for each change on a terminal, too, such as for a screen reader"
)

func newFollow() *cobra.Command {
	var timeout span
	var lines bool
	cmd := add("follow", "follow a rotation until it ends", followHelp, []string{formatJSON}, func(ctx context.Context, s *session, args []string) error {
		name, err := s.resolve(ctx, args, true)
		if err != nil {
			return err
		}
		return s.follow(ctx, name, false, lines, timeout.d)
	})
	cmd.Flags().Var(&timeout, "timeout", timeoutUsage)
	cmd.Flags().BoolVar(&lines, "lines", false, linesUsage)
	cmd.Args = atMostOne("rotation or key")
	return completing(cmd, true, false)
}

// The outcomes of a rotation, as the engine names them.
const (
	outcomeDone     = "done"
	outcomeCuts     = "done_with_cuts"
	outcomePaused   = "paused"
	outcomeReverted = "reverted"
)

var errTimeout = errors.New("timeout")

// follow shows what becomes of a rotation, and returns what has come of it as an exit status. 0: no timeout.
func (s *session) follow(ctx context.Context, name string, known, lines bool, timeout time.Duration) error {
	if timeout > 0 {
		timed, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
		defer cancel()
		ctx = timed
	}
	if !lines && s.format == formatText && s.terminal && isTerminal(s.in) && os.Getenv("TERM") != "dumb" {
		return s.followLive(ctx, name, known)
	}
	return s.followInLines(ctx, name, known)
}

// followInLines prints a line for each change.
func (s *session) followInLines(ctx context.Context, name string, known bool) error {
	var last api.Rotation
	var fault error
	lines := storyteller{session: s, told: map[string]bool{}}
	err := s.watch(ctx, name, known, func(n news) bool {
		last = n.Rotation
		switch {
		case n.away != "":
			s.note("%s", n.away)
			return false
		case s.format == formatJSON:
			fault = s.printJSONLine(n.Rotation)
		default:
			lines.tell(n.Rotation)
		}
		return fault != nil || settled(n.RotationSummary)
	})
	if fault != nil {
		return fault
	}
	return s.concluded(ctx, name, last, err)
}

// concluded says what has come of a rotation that was followed, and returns the exit status.
func (s *session) concluded(ctx context.Context, name string, last api.Rotation, err error) error {
	if last.ID != "" {
		name = last.ID
	}
	switch {
	case errors.Is(err, errTimeout):
		s.note("The rotation continues; follow it again with: %s", s.commandLine("follow", name))
		return usage.Exit{Status: StatusTimeout}
	case ctx.Err() != nil:
		s.note("The rotation continues; follow it again with: %s", s.commandLine("follow", name))
		return usage.Exit{Status: StatusInterrupted}
	case err != nil:
		return err
	}
	if s.format == formatText {
		s.conclude(last)
	}
	return outcomeStatus(last.RotationSummary)
}

// settled reports whether nothing happens any more by itself.
func settled(r api.RotationSummary) bool { return r.Ended() || r.Outcome == outcomePaused }

// outcomeStatus returns the exit status of what has come of a rotation, as an error; nil: it is done, or still runs.
func outcomeStatus(r api.RotationSummary) error {
	switch r.Outcome {
	case outcomePaused:
		return usage.Exit{Status: StatusPaused}
	case outcomeReverted:
		return usage.Exit{Status: StatusReverted}
	case outcomeCuts:
		return usage.Exit{Status: StatusCuts}
	}
	return nil
}

// conclude says what has come of a rotation, and what to do next.
func (s *session) conclude(r api.Rotation) {
	took := ""
	if n := len(r.Timeline); n > 0 {
		took = " in " + screen.Ago(r.Timeline[n-1].Time.Sub(r.Created.Time))
	}
	switch r.Outcome {
	case outcomeDone:
		s.say(screen.Good, "Done%s: %s.", took, changes(r.RotationSummary))
	case outcomeCuts:
		s.say(screen.Warn, "Done with cuts%s: %s.", took, changes(r.RotationSummary))
		s.showEvidence(s.out, r)
	case outcomeReverted:
		s.say(screen.Warn, "Reverted%s: the old version of %s is in use.", took, strings.Join(r.Keys, ", "))
	case outcomePaused:
		s.next(screen.Warn, "Paused at %s. Continue it with: %s", strings.TrimSpace(r.State+" "+r.Step), s.commandLine("resume", r.ID))
		s.next(screen.Plain, "Take it back with: %s", s.commandLine("revert", r.ID))
		return
	}
	s.next(screen.Plain, "Receipt: %s", s.commandLine("receipt", r.ID))
	if r.Follow != "" {
		s.next(screen.Plain, "Another rotation follows: %s", s.commandLine("follow", r.Follow))
	}
}

// storyteller prints what is new of a rotation, in a line each.
type storyteller struct {
	*session
	told  map[string]bool // events
	waits string          // what it was last said to wait for, without durations
	begun bool
}

// spans are durations in what a rotation waits for: they change all the time, and are no news.
var spans = regexp.MustCompile(`(\d+(\.\d+)?(ms|h|m|s))+`)

func (t *storyteller) tell(r api.Rotation) {
	if !t.begun {
		t.begun = true
		t.say(screen.Strong, "Rotation %s: %s", r.ID, changes(r.RotationSummary))
	}
	for _, e := range r.Timeline {
		id := e.Time.String() + e.Text
		if !t.told[id] {
			t.told[id] = true
			t.say(screen.Plain, "%s", eventText(e, time.Now()))
		}
	}
	waits := spans.ReplaceAllString(r.NextGate, "…")
	if r.NextGate != "" && !r.Paused && !r.Ended() && waits != t.waits {
		t.say(screen.Warn, "          waits: %s", t.translated(r.NextGate))
	}
	t.waits = waits
}

// ask puts a question to the person at the terminal. yes: it is answered already.
func (s *session) ask(ctx context.Context, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	if !isTerminal(s.in) {
		return usage.Wrong(errors.New("standard input is no terminal, so that nobody can be asked; add --yes"))
	}
	_, _ = fmt.Fprint(s.err, screen.Clean(fmt.Sprintf(format, args...))+" [y/N] ")
	answer := make(chan string, 1)
	go func() { // it cannot be interrupted, and ends with the process
		var text string
		_, _ = fmt.Fscanln(s.in, &text)
		answer <- text
	}()
	select {
	case <-ctx.Done():
		_, _ = fmt.Fprintln(s.err)
		return errors.New("nothing was changed")
	case text := <-answer:
		if text = strings.ToLower(text); text == "y" || text == "yes" {
			return nil
		}
		return errors.New("nothing was changed")
	}
}
