// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

const canary = "canary-secret-value"

func mask(text string) string { return strings.ReplaceAll(text, canary, "[redacted]") }

func TestCommand(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		expect bool
		want   string // in the error; empty: it is well
	}{
		"well":               {"exit 0", false, ""},
		"knows the etag":     {`[ "$HYVVE_ETAG" = e2 ]`, false, ""},
		"ill":                {"echo " + canary + " is refused; exit 3", false, "command sh: exit status 3: [redacted] is refused"},
		"hangs":              {"sleep 600 & wait", false, "not done after 1s"},
		"says the etag":      {"echo loaded:; echo ' e2'", true, ""},
		"says another":       {"echo " + canary + " e1", true, "does not say that the new bundle is loaded: [redacted] e1"},
		"part of a line":     {"echo e2x", true, "does not say that the new bundle is loaded"},
		"says nothing":       {"true", true, "print the etag in a line"},
		"etag, but ill":      {"echo e2; exit 1", true, "exit status 1"},
		"old and not asked":  {"echo e1", false, ""},
		"is not a program":   {"", false, "no such file"},
		"leaves a child":     {"sleep 3 & echo e2", true, ""},
		"many lines, and it": {"seq 1000; echo e2; seq 1000", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			command := Command{Args: []string{"sh", "-c", c.script}, Timeout: time.Minute, ExpectEtag: c.expect}
			switch name {
			case "hangs":
				command.Timeout = time.Second
			case "is not a program":
				command.Args = []string{"/nowhere/at/all"}
			}
			err := command.WithMask(mask).Check(t.Context(), "e2")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// fixed always returns the same answer.
type fixed struct {
	err   error
	begun *string
}

func (f fixed) Check(context.Context, string) error { return f.err }

// fixedGate is one that compares.
type fixedGate struct{ fixed }

func (f fixedGate) Begin(_ context.Context, change string) error {
	*f.begun = change
	return f.err
}

type checkerFunc func() error

func (f checkerFunc) Check(context.Context, string) error { return f() }

func TestAllMustBeWell(t *testing.T) {
	ill, worse := errors.New("ill"), proof{errors.New("worse")}
	var begun string
	gate := fixedGate{fixed{worse, &begun}}
	for name, c := range map[string]struct {
		all    All
		want   string
		proven bool
	}{
		"none":   {All{}, "", false},
		"well":   {All{fixed{}, fixed{}}, "", false},
		"one":    {All{fixed{}, fixed{err: ill}}, "ill", false},
		"both":   {All{fixed{err: ill}, gate}, "ill; worse", true},
		"nested": {All{All{fixed{}, gate}, fixed{}}, "worse", true},
	} {
		err := c.all.Check(t.Context(), "")
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != c.want || Proven(err) != c.proven {
			t.Errorf("%s: %v, proven %v", name, err, Proven(err))
		}
	}
	if err := (All{fixed{}, All{gate}}).Begin(t.Context(), "change"); !errors.Is(err, worse) || begun != "change" {
		t.Errorf("%v, %q", err, begun)
	}
	if left, _ := Now(All{fixed{err: ill}, gate}).(All); len(left) != 1 || left[0].Check(t.Context(), "") != ill { //nolint:errorlint // the very one
		t.Errorf("left is %v", left)
	}
	if Now(gate) != nil || Now(All{gate}) != nil || Now(fixed{}) == nil {
		t.Error("what compares is asked of a process that has yet to take another's place, or what does not is not")
	}
}
