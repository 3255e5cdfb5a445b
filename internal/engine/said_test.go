// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// A server that is hostile, or broken, has a kind say as much as it likes, and in forged lines. What is kept of that is bounded.
func TestWhatKindsSayIsBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<20) + "\x1b[2K\n"
	var notes []string
	for n := range 10_000 {
		notes = append(notes, fmt.Sprintf("\x1b[2Knote %d\n", n))
	}
	h, f := newForgetful(t)
	check := func(what string) Reconciled {
		t.Helper()
		result, err := h.engine.Reconcile(t.Context(), "cache", true, testActor)
		text := fmt.Sprint(result, err, h.engine.KeyHealth("cache"), h.problemsOf("cache"))
		if len(text) > 200_000 || strings.ContainsAny(text, "\x1b\n") {
			t.Errorf("%s: %d bytes, %.100q", what, len(text), text)
		}
		return result
	}
	f.notes = append(notes, long)
	if result := check("notes"); len(result.Notes) != mostTexts+1 || result.Notes[mostTexts] != fmt.Sprintf("and %d more", len(f.notes)-mostTexts) {
		t.Errorf("%d notes", len(result.Notes))
	}
	f.notes = nil
	f.problem = kind.Problem{Text: long, Remedy: long, Fixable: true}
	check("a problem")
	f.refuses = errors.New(long)
	check("an error of what is mended")
	f.problem, f.refuses, f.down = kind.Problem{}, nil, errors.New(long)
	_, err := h.engine.Reconcile(t.Context(), "cache", false, testActor)
	if err == nil || len(err.Error()) > 2*mostSaid || strings.ContainsAny(err.Error(), "\x1b\n") {
		t.Errorf("an error: %d bytes", len(fmt.Sprint(err)))
	}
	f.down = nil
	before, _ := h.engine.Key("cache")
	f.kept = long
	if result := check("what is kept"); len(result.Notes) != 1 || !strings.Contains(result.Notes[0], "is not stored") {
		t.Errorf("%.500q", result.Notes)
	}
	if k, _ := h.engine.Key("cache"); k.Kept != before.Kept || k.Kept == "" {
		t.Errorf("%d bytes are stored with the key", len(k.Kept))
	}
}

// Problems beyond the bound count: nothing is mended by itself where one of them needs a decision.
func TestProblemsBeyondTheBound(t *testing.T) {
	all := make([]kind.Problem, mostTexts+2)
	for n := range all {
		all[n] = kind.Problem{Text: "x", Fixable: true, Rotates: true}
	}
	if got := saidProblems(all); len(got) != mostTexts+1 || got[mostTexts] != (kind.Problem{Text: "and 2 more", Fixable: true, Rotates: true}) {
		t.Errorf("%+v", got[mostTexts:])
	}
	all[mostTexts+1] = kind.Problem{Text: "y", Ahead: true}
	if got := saidProblems(all); got[mostTexts] != (kind.Problem{Text: "and 2 more", Ahead: true}) {
		t.Errorf("%+v", got[mostTexts:])
	}
	if err := saidIn(rotation.Refusef("a\nb")); !errors.As(err, new(*rotation.Refused)) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}
