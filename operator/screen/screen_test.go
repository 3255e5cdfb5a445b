// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
)

var (
	header = []string{"KEY", "AGE", "NOTE"}
	rows   = [][]Cell{
		{{"jwt-secret", Strong}, {"3d", Plain}, {"waits: 2 instances of api have not loaded version 4, since they are silent", Warn}},
		Row("größe", "12h30m", ""),
	}
)

func drawn(s Screen) string {
	var text strings.Builder
	s.Table(&text, header, rows)
	return text.String()
}

func TestTableFitsItsScreen(t *testing.T) {
	for _, test := range []struct {
		width int
		want  string
	}{
		{0, `
KEY         AGE     NOTE
jwt-secret  3d      waits: 2 instances of api have not loaded version 4, since they are silent
größe       12h30m
`},
		{60, `
KEY         AGE     NOTE
jwt-secret  3d      waits: 2 instances of api have not
                    loaded version 4, since they are silent
größe       12h30m
`},
		{40, `
jwt-secret
  age: 3d
  note: waits: 2 instances of api have
    not loaded version 4, since they are
    silent
größe
  age: 12h30m
`},
	} {
		if got := "\n" + drawn(Screen{Width: test.width}); got != test.want {
			t.Errorf("width %d:%s", test.width, got)
		}
	}
	for width := 20; width < 120; width++ {
		for line := range strings.SplitSeq(drawn(Screen{Width: width, Colour: true}), "\n") {
			if ansi.StringWidth(line) > width {
				t.Errorf("width %d: a line has %d columns: %q", width, ansi.StringWidth(line), line)
			}
		}
	}
}

// Colours say nothing that the text does not.
func TestColoursAddNothing(t *testing.T) {
	for _, width := range []int{0, 30, 60} {
		plain, coloured := drawn(Screen{Width: width}), drawn(Screen{Width: width, Colour: true})
		if plain == coloured || ansi.Strip(coloured) != plain {
			t.Errorf("width %d:\n%s\n%q", width, plain, coloured)
		}
	}
}

// What somebody gave as a reason moves no cursor and turns no text around.
func TestTextsFromElsewhereAreClean(t *testing.T) {
	var text strings.Builder
	Screen{Width: 80}.Table(&text, []string{"A", "B"}, [][]Cell{Row("a\x1b[2J\x07", "b\u202ec\nd\u009b2J")})
	Screen{Width: 80}.Text(&text, "", Cell{Text: "e\x1b]0;title\x07\rf"})
	if strings.ContainsAny(text.String(), "\x1b\x07\u202e\u009b\r") || strings.Count(text.String(), "\n") != 3 {
		t.Errorf("%q", text.String())
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 1500 * time.Millisecond: "2s", 61 * time.Second: "1m1s", time.Hour + 90*time.Second: "1h1m", 49 * time.Hour: "2d", 400 * 24 * time.Hour: "400d",
	} {
		if got := Ago(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
