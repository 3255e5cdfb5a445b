// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

const rotateHelp = `Usage: hyvve rotate KEY… [--reason=TEXT] [--compromised] [--plan] [--yes] [--no-follow] [--timeout=DURATION]

Rotates keys, several of them together: instances load all of them in one step. It shows the plan, asks, starts the rotation
and follows it. "hyvve rotate all" rotates every key that can be.

  hyvve rotate jwt-secret --plan
  hyvve rotate database-url redis-url --reason="quarterly"
  hyvve rotate agent-service-token --compromised --reason="in a public log"
  hyvve rotate jwt-secret --yes --timeout=10m

Ctrl-C ends the command, and not the rotation.

Exit status: 0 done, 1 error, 3 paused, 4 reverted, 5 timeout (the rotation continues), 6 done with cuts,
130 interrupted (the rotation continues).
`

// rotateFlags say how keys are rotated.
type rotateFlags struct {
	request             api.RotateRequest
	deadline            span
	timeout             span
	plan, yes, noFollow bool
	lines               bool
}

func newRotate() *cobra.Command {
	var f rotateFlags
	cmd := add("rotate", "rotate keys", rotateHelp, []string{formatJSON}, func(ctx context.Context, s *session, args []string) error {
		for _, name := range args {
			if err := checkName(name); err != nil || strings.Contains(name, ",") {
				return usage.Wrong(fmt.Errorf("%q is no name of a key; write several with spaces between them", name))
			}
		}
		return s.rotate(ctx, f, args)
	})
	cmd.Flags().StringVar(&f.request.Reason, "reason", "", "`TEXT` that says why; kept in the journal. Never put a secret there")
	cmd.Flags().BoolVar(&f.request.Compromised, "compromised", false, "somebody knows the old version: nothing soaks, and what does not hold within the deadline is cut")
	cmd.Flags().StringVar(&f.request.OnFailure, "on-failure", "", "`pause` or revert, if it fails (default: as the keys say)")
	cmd.Flags().StringVar(&f.request.Confirm, "confirm", "", "`manual`: somebody must confirm it before the old version goes; auto (default: as the keys say)")
	cmd.Flags().Var(&f.deadline, "deadline", "`DURATION` that a step may take (default: as the keys say)")
	cmd.Flags().BoolVar(&f.plan, "plan", false, "show what would happen, and change nothing")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&f.noFollow, "no-follow", false, "do not wait for the end")
	cmd.Flags().Var(&f.timeout, "timeout", timeoutUsage)
	cmd.Flags().BoolVar(&f.lines, "lines", false, linesUsage)
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage.Wrong(errors.New("name the keys to rotate"))
		}
		return nil
	}
	return completing(cmd, false, true)
}

func (s *session) rotate(ctx context.Context, f rotateFlags, keys []string) error {
	f.request.Deadline = api.SecondsOf(f.deadline.d)
	request := api.RotateKeysRequest{RotateRequest: f.request, Keys: keys}
	plan, warnings, err := s.engine.Plan(ctx, request)
	if err != nil {
		return s.suggest(ctx, err, keys...)
	}
	switch {
	case s.format == formatText:
		s.showPlan(plan)
		s.warn(warnings)
	case f.plan:
		s.warn(warnings)
		return s.printJSON(plan)
	}
	if f.plan {
		return nil
	}
	what := "Rotate"
	if f.request.Compromised {
		what = "Rotate as compromised"
	}
	if err := s.ask(ctx, f.yes, "%s %s?", what, planned(plan)); err != nil {
		return err
	}
	r, warnings, err := s.engine.Start(ctx, request)
	if errors.Is(err, client.ErrUnavailable) {
		return fmt.Errorf("%w; the rotation may have started: look with: %s", s.explained(ctx, err), s.commandLine("status"))
	}
	if err != nil {
		return err
	}
	s.warn(slices.DeleteFunc(warnings, func(w string) bool { return s.format == formatText && slices.Contains(plan.Gaps, w) })) // the plan has those
	if !f.noFollow {
		return s.follow(ctx, r.ID, true, f.lines, f.timeout.d)
	}
	if s.format == formatJSON {
		return s.printJSON(r)
	}
	s.say(screen.Good, "Rotation %s has started: %s.", r.ID, changes(r))
	s.next(screen.Plain, "Follow it with: %s", s.commandLine("follow", r.ID))
	return nil
}

// planned names the keys of a plan with their versions.
func planned(p api.Plan) string {
	return changes(api.RotationSummary{Versions: p.Versions})
}

// showPlan lays out what a rotation would do.
func (s *session) showPlan(p api.Plan) {
	s.say(screen.Strong, "Plan: %s", planned(p))
	var rows [][]screen.Cell
	for _, m := range p.Moves {
		expected := ""
		if d := time.Duration(m.Expected * float64(time.Second)); d >= time.Second/2 {
			expected = screen.Ago(d)
		}
		rows = append(rows, screen.Row(strings.TrimSpace(m.State+" "+m.Step), expected, m.Text+wavesText(m.Waves)))
	}
	s.screen.Table(s.out, []string{"STEP", "EXPECTED", "WHAT HAPPENS"}, rows)
	for _, name := range slices.Sorted(maps.Keys(p.Rows)) {
		for _, c := range p.Rows[name].Columns {
			s.say(screen.Plain, "Rows: %s has %d in %s (%s)", name, c.Total, c.Column, p.Rows[name].AsOf)
		}
	}
	s.say(screen.Plain, "Expected duration: %s", p.ExpectedDuration)
	if p.Confirm {
		s.say(screen.Warn, "Somebody must confirm it before the old version goes (confirm_by=%s).", p.ConfirmBy)
	}
	for _, part := range []struct {
		style screen.Style
		title string
		texts []string
	}{
		{screen.Bad, "Gap", p.Gaps}, {screen.Bad, "Held back now", p.Blockers}, {screen.Plain, "Note", p.Notes}, {screen.Warn, "Afterwards", p.NextSteps},
	} {
		for _, text := range part.texts {
			s.say(part.style, "%s: %s", part.title, text)
		}
	}
	for _, w := range p.With {
		s.say(screen.Plain, "With it: %s", strings.TrimPrefix(w.ID+" "+w.Text, " "))
	}
	for _, k := range p.LeftOut {
		s.say(screen.Warn, "Left out: %s: %s", k.Key, k.Reason)
	}
	if p.LeftOutMore > 0 {
		s.say(screen.Warn, "Left out: %d more keys", p.LeftOutMore)
	}
}

// wavesText names the instances of a step in turn.
func wavesText(waves []api.Wave) string {
	var all []string
	for _, w := range waves {
		all = append(all, api.Line(w))
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}
