// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
)

// pressed sends key presses to a program that shows a rotation, and returns what it has asked the engine for.
func pressed(t *testing.T, r api.Rotation, fault error, keys ...tea.KeyPressMsg) (m Model, did []string) {
	t.Helper()
	r.ID = "2026"
	act := func(_ context.Context, id, command string) (string, error) {
		did = append(did, id+" "+command)
		return "so it is", fault
	}
	var model tea.Model = New(t.Context(), Screen{}, act)
	model, _ = model.Update(Heard{Rotation: r})
	for _, key := range keys {
		next, cmd := model.Update(key)
		model = next
		if cmd != nil {
			if acted, ok := cmd().(Acted); ok {
				model, _ = model.Update(acted)
			}
		}
	}
	return model.(Model), did
}

func key(r rune) tea.KeyPressMsg { return tea.KeyPressMsg{Code: r, Text: string(r)} }

// Each key press does what the screen says, what cannot be undone asks before, and any key but y is no.
func TestKeyPresses(t *testing.T) {
	running := func(state string) api.Rotation {
		return api.Rotation{RotationSummary: api.RotationSummary{State: state}}
	}
	paused := running("presenting")
	paused.Paused = true
	confirm := running("soaking")
	confirm.Confirm = true
	compromised := running("presenting")
	compromised.Compromised = true
	for _, test := range []struct {
		name string
		r    api.Rotation
		keys string
		did  string
		left bool
	}{
		{"pause", running("presenting"), "p", "2026 pause", false},
		{"resume", paused, "r", "2026 resume", false},
		{"no pause of a paused one", paused, "p", "", false},
		{"revert, asked", running("presenting"), "v", "", false},
		{"revert, yes", running("presenting"), "vy", "2026 revert", false},
		{"revert, no", running("presenting"), "vn", "", false},
		{"revert, another key", running("presenting"), "vp", "", false},
		{"revert, later", running("presenting"), "vny", "", false},
		{"no way back", running("retiring"), "vy", "", false},
		{"confirm", confirm, "cy", "2026 confirm", false},
		{"nothing to confirm", running("soaking"), "cy", "", false},
		{"leaked", running("soaking"), "xy", "2026 compromised", false},
		{"leaked already", compromised, "xy", "", false},
		{"leave", running("soaking"), "q", "", true},
		{"ended", running("done"), "pvxy", "", false},
		{"unknown", running("soaking"), "z", "", false},
	} {
		var keys []tea.KeyPressMsg
		for _, r := range test.keys {
			keys = append(keys, key(r))
		}
		m, did := pressed(t, test.r, nil, keys...)
		if strings.Join(did, ",") != test.did || m.Left != test.left {
			t.Errorf("%s: did %q, left %v", test.name, did, m.Left)
		}
	}
	if m, did := pressed(t, running("soaking"), nil, key('v'), tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}); !m.Left || did != nil {
		t.Error("Ctrl-C does not leave while something is asked")
	}
}

func TestScreenSaysWhatHasComeOfAKeyPress(t *testing.T) {
	r := api.Rotation{RotationSummary: api.RotationSummary{State: "soaking"}}
	m, _ := pressed(t, r, nil, key('p'))
	if !strings.Contains(m.View().Content, "so it is") {
		t.Error(m.View().Content)
	}
	m, _ = pressed(t, r, errors.New("permission denied"), key('p'))
	if !strings.Contains(m.View().Content, "permission denied") {
		t.Error(m.View().Content)
	}
	m, _ = pressed(t, r, nil, key('v'))
	if !strings.Contains(m.View().Content, "Take the rotation back? y: yes, any other key: no") {
		t.Error(m.View().Content)
	}
}

// While Vault is away, what was last known stays on the screen.
func TestScreenStaysWhileVaultIsAway(t *testing.T) {
	var m tea.Model = New(t.Context(), Screen{}, nil)
	m, _ = m.Update(Heard{Away: "Vault is sealed"})
	if text := m.View().Content; !strings.Contains(text, "Vault is sealed") {
		t.Error(text)
	}
	m, _ = m.Update(Heard{Rotation: presenting().Rotation})
	m, _ = m.Update(Heard{Away: "Vault is sealed"})
	if text := m.View().Content; !strings.Contains(text, "Vault is sealed") || !strings.Contains(text, "encryption-master-key") {
		t.Error(text)
	}
	m, _ = m.Update(tea.WindowSizeMsg{Width: 40, Height: 10})
	if lines := strings.Split(m.View().Content, "\n"); len(lines) > 10 || !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "q: leave") }) {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}
