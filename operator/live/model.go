// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"context"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

// Key is what a key press does.
type Key struct {
	Press    string
	Does     string // in words
	Question string // asked before; empty: it is done at once
	Command  string // what it asks the engine for; empty: it leaves
}

// Compromised is the command that says that the old version has leaked; the others are those of the engine's paths.
const Compromised = "compromised"

var leave = Key{Press: "q", Does: "leave (the rotation continues)"}

// keysOf are the key presses that a rotation takes as it is.
func keysOf(r api.Rotation) []Key {
	if r.Ended() || r.ID == "" {
		return []Key{leave}
	}
	var keys []Key
	if r.Paused {
		keys = append(keys, Key{Press: "r", Does: "resume", Command: "resume"})
	} else {
		keys = append(keys, Key{Press: "p", Does: "pause", Command: "pause"})
	}
	if r.Confirm && r.ConfirmedBy == "" && r.State == "soaking" {
		keys = append(keys, Key{Press: "c", Does: "confirm", Question: "Confirm that the old version may go?", Command: "confirm"})
	}
	if r.State != "retiring" && r.State != "reverting" {
		keys = append(keys, Key{Press: "v", Does: "revert", Question: "Take the rotation back?", Command: "revert"})
	}
	if !r.Compromised {
		keys = append(keys, Key{Press: "x", Does: "the old version has leaked", Question: "Escalate it? Instances that do not follow within the deadline are cut off.", Command: Compromised})
	}
	return append(keys, leave)
}

// The messages that the program is sent.
type (
	// Heard is a rotation as the engine tells of it, without instances.
	Heard struct {
		Rotation api.Rotation
		Away     string // what keeps Vault from answering; empty: it answers
	}
	// Read is what was read of it beside that.
	Read struct {
		Rotation  api.Rotation
		LockedOut []string
	}
	// Settled ends the program: the rotation has ended, or cannot be followed any more.
	Settled struct{}
	// Acted is what has come of a key press.
	Acted struct {
		Text string
		Err  error
	}
	tick time.Time
)

// Act asks the engine for what a key press means, and returns what to say of it.
type Act func(ctx context.Context, id, command string) (said string, err error)

// Model is the program.
type Model struct {
	facts  Facts
	screen Screen
	ctx    context.Context // of the program, for its acts
	act    Act
	asked  Key  // whose question is asked
	Left   bool // the user has left
	done   bool
}

// New makes a program.
func New(ctx context.Context, s Screen, act Act) Model {
	return Model{ctx: ctx, screen: s, act: act, facts: Facts{Keys: keysOf(api.Rotation{})}}
}

// Init implements [tea.Model].
func (m Model) Init() tea.Cmd { return again() }

// redrawEvery is how often the screen is drawn again.
const redrawEvery = time.Second

func again() tea.Cmd { return tea.Tick(redrawEvery, func(t time.Time) tea.Msg { return tick(t) }) }

// Update implements [tea.Model].
func (m Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.screen.Width, m.screen.Height = msg.Width, msg.Height
	case tick:
		return m, again()
	case Heard:
		if msg.Rotation.ID != "" {
			m.facts.Rotation = msg.Rotation
		}
		m.facts.Away = msg.Away
		m.facts.Keys = keysOf(m.facts.Rotation)
	case Read:
		m.facts.Instances, m.facts.LockedOut, m.facts.Looked = msg.Rotation, msg.LockedOut, true
	case Acted:
		m.facts.Said, m.facts.Faulty = msg.Text, msg.Err != nil
		if msg.Err != nil {
			m.facts.Said = msg.Err.Error()
		}
	case Settled:
		m.done = true
		return m, tea.Quit
	case tea.KeyPressMsg:
		return m.press(msg.String())
	}
	return m, nil
}

// press does what a key press means.
func (m Model) press(key string) (tea.Model, tea.Cmd) {
	if key == "ctrl+c" {
		m.Left = true
		return m, tea.Quit
	}
	if asked := m.asked; asked.Press != "" {
		m.asked, m.facts.Question = Key{}, ""
		if key == "y" || key == "Y" {
			return m.start(asked)
		}
		m.facts.Said, m.facts.Faulty = "Nothing was changed.", false
		return m, nil
	}
	for _, k := range m.facts.Keys {
		switch {
		case k.Press != key:
		case k.Command == "":
			m.Left = true
			return m, tea.Quit
		case k.Question != "":
			m.asked, m.facts.Question = k, k.Question
			return m, nil
		default:
			return m.start(k)
		}
	}
	return m, nil
}

// start asks the engine for what a key means, beside the drawing.
func (m Model) start(k Key) (tea.Model, tea.Cmd) {
	m.facts.Said, m.facts.Faulty = k.Command+" …", false
	ctx, act, id := m.ctx, m.act, m.facts.Rotation.ID
	return m, func() tea.Msg {
		said, err := act(ctx, id, k.Command)
		return Acted{Text: said, Err: err}
	}
}

// View implements [tea.Model].
func (m Model) View() tea.View {
	f := m.facts
	if m.done || m.Left {
		f.Keys, f.Question = nil, ""
	}
	if f.Rotation.ID == "" {
		return tea.NewView(cmp.Or(screen.Clean(m.facts.Away), "reading the rotation …"))
	}
	return tea.NewView(Draw(f, m.screen, time.Now()))
}
