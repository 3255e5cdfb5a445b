// SPDX-License-Identifier: Apache-2.0

package external

import (
	"strings"
	"testing"
	"unicode/utf8"
)

const canary = "canary-secret-value"

func mask(text string) string { return strings.ReplaceAll(text, canary, "[redacted]") }

func TestWhatIsShown(t *testing.T) {
	long := strings.Repeat("ä", 500)
	for name, c := range map[string]struct {
		text       Quote
		start, end string
	}{
		"short":  {Quote{Kept: []byte(" no\n")}, "no", "no"},
		"masked": {Quote{Kept: []byte("it is " + canary)}, "it is [redacted]", "it is [redacted]"},
		"empty":  {Quote{}, "", ""},
		"long":   {Quote{Kept: []byte("a" + long + "z")}, "a" + strings.Repeat("ä", 199) + "…", "…" + strings.Repeat("ä", 199) + "z"},
		// A piece of a value stands at the edge of what was kept.
		"part, all secret": {Quote{Kept: []byte("value " + strings.Repeat(canary, 30) + " canary"), Part: true}, withheld, withheld},
	} {
		start, end := c.text.Start(mask), c.text.End(mask)
		if start != c.start || end != c.end || !utf8.ValidString(start+end) {
			t.Errorf("%s: %q and %q", name, start, end)
		}
	}
}

// However a text is cut, no part of a value is left.
func TestCutThroughAValue(t *testing.T) {
	for filler := 370; filler < 410; filler++ {
		text := strings.Repeat("0", filler) + canary + strings.Repeat("0", filler)
		for _, part := range []bool{false, true} {
			both := Quote{Kept: []byte(text), Part: part}.Start(mask) + Quote{Kept: []byte(text), Part: part}.End(mask)
			if strings.Contains(both, "can") || strings.Contains(both, "lue") {
				t.Fatalf("with %d characters around it: %s", filler, both)
			}
		}
	}
}
