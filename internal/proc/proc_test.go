// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	rest := " 7 7" + strings.Repeat(" 0", 15) + " 250 8"
	for text, want := range map[string]Info{
		"7 (a) S 3" + rest:        {Parent: 3, State: 'S', Name: "a"},
		"7 (a) b (c)) R 3" + rest: {Parent: 3, State: 'R', Name: "a) b (c)"},
		"7 (a) Z 3" + rest:        {Parent: 3, State: 'Z', Name: "a"},
	} {
		want.Identity = Identity{7, 2500 * time.Millisecond}
		if got, err := parse(7, text); err != nil || got != want || got.Ended() != (want.State == 'Z') {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "7 a S 3" + rest, "7 )( S 3" + rest, "7 (a) S", "7 (a) S 3 7 7", "7 (a) S x" + rest, "7 (a) S 3" + strings.Replace(rest, "250", "x", 1)} {
		if got, err := parse(7, text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestAll(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if p := all[os.Getpid()]; p.PID != os.Getpid() || p.Parent != os.Getppid() || p.Ended() {
		t.Errorf("%+v", p)
	}
}
