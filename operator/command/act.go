// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

// actFlags are those of the commands that change how a rotation ends.
type actFlags struct {
	reason string
	yes    bool
}

// act is what such a command asks the engine for.
type act func(ctx context.Context, s *session, name, reason string) (api.RotationSummary, []string, error)

const rotationHelp = `
ROTATION is an id, what an id begins with, or latest; KEY is the name of a key, for its running rotation.
Without an argument it is the only rotation that runs.
`

// newAct makes a command that acts on a rotation. question is asked before, if there is one.
func newAct(name, short, text, question string, do act) *cobra.Command {
	var f actFlags
	flags := " [--reason=TEXT]"
	if question != "" {
		flags += " [--yes]"
	}
	cmd := add(name, short, "Usage: hyvve "+name+" [ROTATION|KEY]"+flags+"\n\n"+text+"\n"+rotationHelp, []string{formatJSON}, func(ctx context.Context, s *session, args []string) error {
		name, err := s.resolve(ctx, args, false)
		if err != nil {
			return err
		}
		if question != "" && !f.yes {
			if err := s.confirmed(ctx, name, question); err != nil {
				return err
			}
		}
		r, warnings, err := do(ctx, s, name, f.reason)
		if err != nil {
			return s.suggest(ctx, err, name)
		}
		s.warn(warnings)
		if s.format == formatJSON {
			return s.printJSON(r)
		}
		s.showSummary(r)
		return nil
	})
	cmd.Flags().StringVar(&f.reason, "reason", "", "`TEXT` that says why; kept in the journal. Never put a secret there")
	if question != "" {
		cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	}
	cmd.Args = atMostOne("rotation or key")
	return completing(cmd, true, false)
}

// confirmed shows a rotation in a line, and asks.
func (s *session) confirmed(ctx context.Context, name, question string) error {
	if !isTerminal(s.in) {
		return s.ask(ctx, false, "%s", question) // which says so
	}
	r, err := s.engine.Rotation(ctx, name)
	if err != nil {
		return s.suggest(ctx, err, name)
	}
	s.note("Rotation %s: %s, %s", r.ID, changes(r.RotationSummary), stateText(r.RotationSummary).Text)
	return s.ask(ctx, false, "%s", question)
}

// showSummary says what a command has made of a rotation.
func (s *session) showSummary(r api.RotationSummary) {
	state := stateText(r)
	s.say(state.Style, "Rotation %s (%s) is %s.", r.ID, changes(r), state.Text)
	if r.NextGate != "" && !r.Paused && !r.Ended() {
		s.say(screen.Warn, "It waits: %s", s.translated(r.NextGate))
	}
	switch {
	case r.Ended():
		s.next(screen.Plain, "Receipt: %s", s.commandLine("receipt", r.ID))
	case r.Paused:
		s.next(screen.Plain, "Continue it with: %s", s.commandLine("resume", r.ID))
	default:
		s.next(screen.Plain, "Follow it with: %s", s.commandLine("follow", r.ID))
	}
	if r.Follow != "" {
		s.say(screen.Plain, "Rotation %s follows it.", r.Follow)
	}
}

// send is an act of one word.
func send(command string) act {
	return func(ctx context.Context, s *session, name, reason string) (api.RotationSummary, []string, error) {
		return s.engine.Command(ctx, name, command, reason)
	}
}

func newPause() *cobra.Command {
	return newAct("pause", "pause a rotation where it is", "Stops a rotation where it is, until it is resumed or reverted. Both versions stay valid.", "", send("pause"))
}

func newResume() *cobra.Command {
	return newAct("resume", "continue a paused rotation", "Continues a paused rotation. What has failed is tried again at once.", "", send("resume"))
}

func newConfirm() *cobra.Command {
	return newAct("confirm", "confirm that the old version may go",
		"Confirms a rotation that waits for that (confirm=manual): its old version may go. All evidence is still waited for.",
		"Confirm that the old version may go?", send("confirm"))
}

func newRevert() *cobra.Command {
	return newAct("revert", "take a rotation back", "Takes a rotation back: the old version is presented again, and the new one ends.", "Take it back?", send("revert"))
}

func newCompromise() *cobra.Command {
	var which string
	var deadline span
	cmd := newAct("compromise", "say that a version of a running rotation has leaked", `Escalates a running rotation, since one of its versions has leaked.
--which=old: nothing soaks, nobody is asked, and what does not hold within the deadline is cut.
--which=new: the rotation reverts at once, and another one with a third version follows.
--which=both: the rotation ends quickly, and another one follows.
For a key that is not being rotated, write: hyvve rotate KEY --compromised`,
		"Escalate it? Instances that do not follow within the deadline are cut off.",
		func(ctx context.Context, s *session, name, reason string) (api.RotationSummary, []string, error) {
			if err := usage.OneOf(which, []string{"old", "new", "both"}); err != nil {
				return api.RotationSummary{}, nil, usage.Wrong(err)
			}
			return s.engine.Escalate(ctx, name, api.EscalateRequest{Which: which, Deadline: api.SecondsOf(deadline.d), Reason: reason})
		})
	cmd.Flags().StringVar(&which, "which", "old", "`VERSION` that has leaked: old, new or both")
	cmd.Flags().Var(&deadline, "deadline", "`DURATION` after which what holds it back is cut (default: compromised_deadline of the configuration)")
	return cmd
}

func newTune() *cobra.Command {
	var soak, observe, deadline span
	var onFailure string
	cmd := newAct("tune", "change settings of a running rotation",
		"Changes settings of a running rotation, until it is retiring. Times count from when they began to.", "",
		func(ctx context.Context, s *session, name, reason string) (api.RotationSummary, []string, error) {
			if !soak.set && !observe.set && !deadline.set && onFailure == "" {
				return api.RotationSummary{}, nil, usage.Wrong(errors.New("nothing is changed; set --soak, --observe, --deadline or --on-failure"))
			}
			return s.engine.Tune(ctx, name, api.TuneRequest{
				Soak: soak.seconds(), Observe: observe.seconds(), Deadline: deadline.seconds(), OnFailure: strings.ToLower(onFailure), Reason: reason,
			})
		})
	cmd.Flags().Var(&soak, "soak", "`DURATION` that the new version must work everywhere; 0s: none")
	cmd.Flags().Var(&observe, "observe", "`DURATION` for which servers must have seen nobody use the old version; 0s: none")
	cmd.Flags().Var(&deadline, "deadline", "`DURATION` that a step may take; 0s: as long as it takes")
	cmd.Flags().StringVar(&onFailure, "on-failure", "", "`pause` or revert, if it fails")
	return cmd
}
