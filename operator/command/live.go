// SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/live"
)

const (
	readRarely = 10 * time.Second // whole rotations, while nothing changes
	readSoon   = 2 * time.Second  // at least between two reads of whole rotations, which cost much with thousands of instances
)

// followLive shows a rotation in place.
func (s *session) followLive(ctx context.Context, name string, known bool) error {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	on := live.Screen{Screen: s.screen, Unicode: showsUnicode()}
	program := tea.NewProgram(live.New(running, on, s.act), tea.WithContext(running), tea.WithInput(s.in), tea.WithOutput(s.out), tea.WithoutSignalHandler())
	var last api.Rotation
	var fault error
	changed, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		fault = s.watch(running, name, known, func(n news) bool {
			last = n.Rotation
			shown := last
			shown.NextGate = s.translated(shown.NextGate)
			program.Send(live.Heard{Rotation: shown, Away: n.away})
			select {
			case changed <- last.ID:
			default: // it is read soon
			}
			return n.away == "" && last.Ended()
		})
		if fault == nil {
			s.readWhole(running, last.ID, program)
		}
		program.Send(live.Settled{})
	}()
	go s.readOften(running, changed, program)
	final, err := program.Run()
	cancel()
	<-ended
	s.screen, _ = screenOf(s.out) // its width may have changed
	m, _ := final.(live.Model)
	switch {
	case m.Left && last.ID != "" && !last.Ended():
		s.note("The rotation continues; follow it again with: %s", s.commandLine("follow", last.ID))
		if last.Paused {
			return usage.Exit{Status: StatusPaused}
		}
		return usage.Exit{Status: StatusInterrupted}
	case err != nil && ctx.Err() == nil && fault == nil:
		return fmt.Errorf("the terminal: %w; try --lines", err)
	case ctx.Err() != nil:
		fault = context.Cause(ctx)
	case m.Left && !last.Ended():
		return usage.Exit{Status: StatusInterrupted}
	}
	return s.concluded(ctx, name, last, fault)
}

// readOften reads the rotation with its instances after it has changed, and now and then.
func (s *session) readOften(ctx context.Context, changed <-chan string, program *tea.Program) {
	id := ""
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case id = <-changed:
		case <-time.After(readRarely):
		}
		if id != "" {
			s.readWhole(ctx, id, program)
		}
		_ = pause(ctx, readSoon)
	}
}

// readWhole reads the rotation with its instances, and who is locked out. What cannot be read stays as it was.
func (s *session) readWhole(ctx context.Context, id string, program *tea.Program) {
	r, err := s.engine.Rotation(ctx, id)
	if err != nil {
		return
	}
	status, err := s.engine.Status(ctx)
	if err != nil {
		return
	}
	var out []string
	for _, o := range status.LockedOut {
		out = append(out, fmt.Sprintf("%s/%s %s. %s", o.Workload, o.Instance, o.Text, s.translated(o.Remedy)))
	}
	program.Send(live.Read{Rotation: r, LockedOut: out})
}

// act does what a key press means.
func (s *session) act(ctx context.Context, id, command string) (string, error) {
	var r api.RotationSummary
	var warnings []string
	var err error
	if command == live.Compromised {
		r, warnings, err = s.engine.Escalate(ctx, id, api.EscalateRequest{Which: "old"})
	} else {
		r, warnings, err = s.engine.Command(ctx, id, command, "")
	}
	if err != nil {
		var t trouble
		if errors.As(s.explained(ctx, err), &t) {
			return "", t
		}
		return "", err
	}
	texts := []string{"It is " + stateText(r).Text + " now."}
	for _, w := range warnings {
		texts = append(texts, s.translated(w))
	}
	if r.Follow != "" {
		texts = append(texts, "Rotation "+r.Follow+" follows it.")
	}
	return strings.Join(texts, " "), nil
}

// showsUnicode reports whether the terminal shows more than ASCII, as the locale says.
func showsUnicode() bool {
	locale := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
}
