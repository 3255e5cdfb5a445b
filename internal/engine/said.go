// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Bounds of what kinds say of servers, which may be hostile, and choose the words.
const (
	mostSaid  = 4 << 10  // bytes of a text
	mostTexts = 100      // of a check
	mostKept  = 64 << 10 // bytes of kind.Finding.Kept: it is stored with the key, in a record that has to fit Vault's storage
)

// say bounds a text of a kind, and puts it on one line.
func say(text string) string { return kind.Line(text, mostSaid) }

// sayAll bounds texts of a kind.
func sayAll(texts []string) []string {
	var all []string
	for _, text := range texts[:min(len(texts), mostTexts)] {
		all = append(all, say(text))
	}
	if more := len(texts) - mostTexts; more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return all
}

// saidError is an error of a kind in bounds.
type saidError struct {
	text string
	err  error
}

func (s saidError) Error() string { return s.text }
func (s saidError) Unwrap() error { return s.err }

// saidIn bounds the text of an error of a kind.
func saidIn(err error) error {
	if err == nil || say(err.Error()) == err.Error() {
		return err
	}
	return saidError{say(err.Error()), err}
}

// inspectServer has a kind look at a key's server, and bounds what it says.
func inspectServer(ctx context.Context, inspector kind.Inspector, c kind.Change) (kind.Finding, error) {
	f, err := inspector.Inspect(ctx, c)
	f.Problems, f.Notes = saidProblems(f.Problems), sayAll(f.Notes)
	if len(f.Kept) > mostKept {
		f.Notes = append(f.Notes, fmt.Sprintf("what would give the login its rights back has %d bytes, and is not stored: at most %d are", len(f.Kept), mostKept))
		f.Kept = ""
	}
	return f, saidIn(err)
}

// saidProblems bounds problems. Those that are left out count as the worst of them, so that nothing is mended without being asked for.
func saidProblems(problems []kind.Problem) []kind.Problem {
	all := slices.Clone(problems[:min(len(problems), mostTexts)])
	for n, p := range all {
		all[n].Text, all[n].Remedy = say(p.Text), say(p.Remedy)
	}
	if len(problems) <= mostTexts {
		return all
	}
	rest := kind.Problem{Text: fmt.Sprintf("and %d more", len(problems)-mostTexts), Fixable: true, Rotates: true}
	for _, p := range problems[mostTexts:] {
		rest.Fixable, rest.Rotates, rest.Ahead = rest.Fixable && p.Fixable, rest.Rotates && p.Rotates, rest.Ahead || p.Ahead
	}
	return append(all, rest)
}
