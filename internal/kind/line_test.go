// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"strings"
	"testing"
)

func TestLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "",
		"täble":                      "täble",
		"a\nvault delete b\r\t":      `a\u000avault delete b\u000d\u0009`,
		"\x1b[2Jgone\u202eevas":      `\u001b[2Jgone\u202eevas`,
		"a\xffb":                     "a\uFFFDb",
		strings.Repeat("ä", 600):     strings.Repeat("ä", 250) + "…",
		strings.Repeat("\n", 600):    strings.Repeat(`\u000a`, 83) + "…", // the bound is that of what is returned
		strings.Repeat("a\xff", 250): strings.Repeat("a\uFFFD", 125) + "…",
	} {
		if got := Line(text, MaxServerText); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		} else if again := Line(got, MaxServerText); again != got {
			t.Errorf("%q becomes %q the second time", got, again)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for text, want := range map[string]string{"": "''", "owner_a": "owner_a", "Owner": "'Owner'", "a b": "'a b'", "a'b": `'a'\''b'`, "$(x)": "'$(x)'"} {
		if got := ShellQuote(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
