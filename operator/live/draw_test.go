// SPDX-License-Identifier: Apache-2.0

package live

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

var update = flag.Bool("update", false, "write testdata")

var begun = time.Date(2026, 11, 30, 21, 3, 12, 0, time.UTC)

func after(d time.Duration) api.Time { return api.Time{Time: begun.Add(d)} }

// presenting is a rotation in its second wave, with an instance that is unhealthy and one that is silent.
func presenting() Facts {
	rate, left := 35.0, api.Seconds(8)
	r := api.Rotation{
		RotationSummary: api.RotationSummary{
			ID: "20261130t210312.000-7b84b3", State: "presenting", Step: "switch", Outcome: "running", Keys: []string{"encryption-master-key"},
			Versions: map[string]api.VersionChange{"encryption-master-key": {From: 3, To: 4}},
			NextGate: "api: 2 of 4 instances not there yet: api-3, still holds version 3 of ENCRYPTION_MASTER_KEY, last seen 40s ago | api-4, waits for its wave",
		},
		Trigger: "operator", By: "oidc-ann", Reason: "quarterly", Created: after(0), Since: after(20 * time.Second),
		Timeline: []api.Event{
			{Time: after(0), State: "planned"},
			{Time: after(0), State: "accepting", Step: "stage"},
			{Time: after(time.Second), State: "accepting", Step: "load"},
			{Time: after(20 * time.Second), State: "presenting", Step: "switch"},
		},
		Rows: map[string]api.Rows{"encryption-master-key": {RowsPerSecond: &rate, ExpectedSeconds: &left, Columns: []api.ColumnRows{
			{Column: "ai_provider_configs.api_key_encrypted", Total: 400, Staged: 120}, {Column: "empty.column"},
		}}},
	}
	whole := r
	whole.Waves = []api.Wave{{Workload: "api", Instances: []string{"api-4"}}}
	for n, state := range []struct {
		loaded, healthy bool
		reason          string
		seen            time.Duration
	}{{true, true, "", 44 * time.Second}, {true, false, "GET /health: status 503", 44 * time.Second}, {false, true, "", 5 * time.Second}, {false, true, "", 43 * time.Second}} {
		whole.Instances = append(whole.Instances, api.RotationInstance{
			Workload: "api", Instance: fmt.Sprintf("api-%d", n+1), MayGoTo: "present new", Loaded: state.loaded, Healthy: state.healthy, Reason: state.reason, Proof: "health", Seen: after(state.seen),
		})
	}
	whole.Instances = append(whole.Instances, api.RotationInstance{Workload: "agents", Instance: "agents-1", MayGoTo: "accept both", Loaded: true, Healthy: true, Proof: "etag", Seen: after(44 * time.Second)})
	return Facts{Rotation: r, Instances: whole, Looked: true, Keys: keysOf(r)}
}

// facts are what screens are drawn of.
func facts() map[string]Facts {
	asked := presenting()
	asked.Question, asked.LockedOut = "Take the rotation back?", []string{"agents/agents-2 runs with version 2 of JWT_SECRET, which is retired. Restart it."}
	away := presenting()
	away.Away, away.Said, away.Faulty = "Vault at https://vault:8200 is sealed; unseal it with: vault operator unseal (waiting)", "permission denied on hyvve/rotations/2026/pause", true
	reverting := presenting()
	reverting.Rotation.State, reverting.Rotation.Step, reverting.Rotation.Paused = "reverting", "load", true
	reverting.Rotation.NextGate = "paused by ann: second thoughts"
	reverting.Rotation.Timeline = append(reverting.Rotation.Timeline, api.Event{Time: after(30 * time.Second), State: "reverting", Step: "load"})
	reverting.Keys = keysOf(reverting.Rotation)
	done := presenting()
	done.Rotation.State, done.Rotation.Step, done.Rotation.Outcome, done.Rotation.NextGate, done.Rotation.Compromised, done.Keys = "done", "", "done", "", true, nil
	for n, state := range []string{"soaking", "retiring", "done"} {
		done.Rotation.Timeline = append(done.Rotation.Timeline, api.Event{Time: after(time.Duration(30+5*n) * time.Second), State: state})
	}
	many := presenting()
	for n := range 3000 {
		many.Instances.Instances = append(many.Instances.Instances, api.RotationInstance{Workload: "web", Instance: fmt.Sprintf("web-%d", n), Loaded: n%2 == 0, Healthy: true, Proof: "reload", Seen: after(44 * time.Second)})
	}
	return map[string]Facts{"presenting": presenting(), "asked": asked, "away": away, "reverting": reverting, "done": done, "many": many}
}

// TestScreens compares the screens of a rotation with testdata: on a wide terminal, an ordinary one, and a narrow one without Unicode.
func TestScreens(t *testing.T) {
	now := begun.Add(45 * time.Second)
	for name, f := range facts() {
		for _, s := range []Screen{
			{Screen: screen.Screen{Width: 120}, Height: 40, Unicode: true}, {Screen: screen.Screen{Width: 80}, Height: 24, Unicode: true}, {Screen: screen.Screen{Width: 40}, Height: 30},
		} {
			file := filepath.Join("testdata", fmt.Sprintf("%s-%dx%d.txt", name, s.Width, s.Height))
			got := Draw(f, s, now) + "\n"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want, err := os.ReadFile(file)
			if err != nil || got != string(want) {
				t.Errorf("%s: %v; look at it, then run: make generate\n%s", file, err, got)
			}
		}
	}
}

// No screen is larger than its terminal, whatever that is; a screen without Unicode has ASCII alone; colours add nothing; and the line
// about who is locked out, or the question that is asked, is never left out where there is room for it.
func TestScreensFit(t *testing.T) {
	now := begun.Add(45 * time.Second)
	for name, f := range facts() {
		f.Instances.Instances = f.Instances.Instances[:min(len(f.Instances.Instances), 100)]
		for width := 20; width < 140; width += 3 {
			for height := 5; height < 60; height += 6 {
				s := Screen{Screen: screen.Screen{Width: width, Colour: true}, Height: height}
				drawn := Draw(f, s, now)
				lines := strings.Split(drawn, "\n")
				if len(lines) > height {
					t.Fatalf("%s: %dx%d: %d lines", name, width, height, len(lines))
				}
				for _, line := range lines {
					if ansi.StringWidth(line) > width {
						t.Fatalf("%s: %dx%d: %q", name, width, height, line)
					}
				}
				plain := s
				plain.Colour = false
				if text := Draw(f, plain, now); text != ansi.Strip(drawn) {
					t.Fatalf("%s: %dx%d: colours change the text:\n%s\n%s", name, width, height, text, ansi.Strip(drawn))
				}
				if strings.ContainsFunc(strings.ReplaceAll(drawn, "…", ""), func(r rune) bool { return r > 126 }) {
					t.Fatalf("%s: %dx%d: not ASCII:\n%s", name, width, height, drawn)
				}
				if height > 20 && width > 40 && f.Question != "" && !strings.Contains(drawn, "Take the rotation back?") {
					t.Fatalf("%s: %dx%d: the question is missing:\n%s", name, width, height, drawn)
				}
			}
		}
	}
}
