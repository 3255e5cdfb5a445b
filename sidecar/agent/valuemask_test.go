// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Masked is all that the workload was handed since the content that it had loaded before the last one.
func TestValueMask(t *testing.T) {
	m := &valueMask{}
	value := func(n int) string { return fmt.Sprintf("value-%02d", n) }
	hold := func(numbers ...int) {
		for _, n := range numbers {
			m.hold([]key.Value{key.NewValue(value(n))})
			m.hold([]key.Value{key.NewValue(value(n))})
		}
	}
	masked := func(when string, numbers ...int) {
		t.Helper()
		want := map[int]bool{}
		for _, n := range numbers {
			want[n] = true
		}
		for n := range 100 {
			if got := m.mask(value(n)); (got != value(n)) != want[n] {
				t.Errorf("%s, %s is shown as %s", when, value(n), got)
			}
		}
	}
	masked("at the start")
	m.load()
	hold(1)
	m.load()
	hold(2, 3)
	masked("while the first is loaded", 1, 2, 3)
	m.load()
	m.load()
	masked("when the third is loaded", 1, 2, 3)
	hold(4)
	masked("while the third is loaded", 1, 2, 3, 4)
	m.load()
	masked("when the fourth is loaded", 3, 4)
	for n := range 30 {
		hold(50 + n)
	}
	if len(m.contents) != 2+maxHanded {
		t.Errorf("%d contents are kept", len(m.contents))
	}
	masked("while the newest of many are not loaded", 3, 4, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79)
}

// The mask is made once for a content, and an error is masked once.
func TestValueMaskIsMadeOnce(t *testing.T) {
	m := &valueMask{}
	m.hold([]key.Value{key.NewValue("value")})
	cause := errors.New("no value")
	err := m.maskError(cause)
	made := m.made
	if m.mask("value"); m.made != made {
		t.Error("it is made for each text")
	}
	if err.Error() != "no [redacted]" || !errors.Is(err, cause) || m.maskError(nil) != nil {
		t.Errorf("the error is %v", err)
	}
}

// While reloads fail, a workload uses what it loaded last, whatever the sidecar has handed it since, and as which instance.
func TestMaskOfWhatIsStillUsed(t *testing.T) {
	for name, change := range map[string]func(r *running, version int){
		"contents":  func(*running, int) {},
		"instances": func(r *running, version int) { r.rename(fmt.Sprintf("web-%d", version)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := startAgent(t, nil)
			r.await("loaded", loaded("etag-1-0"))
			for version := 2; version <= 4; version++ {
				says := fmt.Sprintf("with version %d, it uses ", version)
				r.reloads.set(errors.New("it fails"))
				r.fake.change(func() { r.fake.version = version })
				change(r, version)
				r.until("the file holds it", func() bool { return strings.Contains(r.file(), fmt.Sprint(canary, "-", version)) })
				r.reloads.set(errors.New(says + canary + "-1"))
				report := r.await("what it uses", unhealthy(says))
				board, _ := json.Marshal(r.agent.board.State())
				if text := fmt.Sprint(report, string(board)); strings.Contains(text, canary) || !strings.Contains(text, says+"[redacted]") {
					t.Errorf("with version %d: %s", version, text)
				}
			}
		})
	}
}
