// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Bounds of what kinds say of servers, which may be hostile, and choose the words.
const (
	mostSaid  = 4 << 10  // bytes of a text
	mostTexts = 100      // of a call
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

// The functions below call a kind's method of the same name, and bound what it returns. Nothing else in this package calls methods
// that ask a server (TestServersAreAskedInBounds).

func verifyAt(ctx context.Context, v kind.Verifier, c kind.Change) error {
	return saidIn(v.Verify(ctx, c))
}

func stageAt(ctx context.Context, s kind.Server, c kind.Change) error { return saidIn(s.Stage(ctx, c)) }

func retireAt(ctx context.Context, s kind.Server, c kind.Change) error {
	return saidIn(s.Retire(ctx, c))
}

func unstageAt(ctx context.Context, s kind.Server, c kind.Change) error {
	return saidIn(s.Unstage(ctx, c))
}

func undeleteAt(ctx context.Context, u kind.Undeleter, c kind.Change) error {
	return saidIn(u.Undelete(ctx, c))
}

// useAt samples for that long where the kind is a Sampler, and otherwise looks once.
func useAt(ctx context.Context, s kind.Server, c kind.Change, long time.Duration) (count int, what string, err error) {
	if sampler, ok := s.(kind.Sampler); ok && long > 0 {
		count, what, err = sampler.Sample(ctx, c, long)
	} else {
		count, what, err = s.InUse(ctx, c)
	}
	return count, say(what), saidIn(err)
}

func refusalsAt(ctx context.Context, r kind.RefusalReporter, c kind.Change, login string, within time.Duration) (int, string, error) {
	count, what, err := r.Refusals(ctx, c, login, within)
	return count, say(what), saidIn(err)
}

func preflightAt(ctx context.Context, p kind.Preflighter, c kind.Change) (blockers, notes []string, err error) {
	blockers, notes, err = p.Preflight(ctx, c)
	return sayAll(blockers), sayAll(notes), saidIn(err)
}

func restoreAt(ctx context.Context, r kind.Restorer, c kind.Change, dryRun bool) ([]string, error) {
	done, err := r.Restore(ctx, c, dryRun)
	return sayAll(done), saidIn(err)
}

func connectionAt(ctx context.Context, r kind.Connector, c kind.Connection) ([]string, error) {
	notes, err := r.CheckConnection(ctx, c)
	return sayAll(notes), saidIn(err)
}

func rotateRootAt(ctx context.Context, r kind.Connector, c kind.Connection) error {
	return saidIn(r.RotateRoot(ctx, c))
}

// rowsAt has a kind look at rows. Its report has the bounds of one of an instance.
func rowsAt(ctx context.Context, l kind.RowLooker, c kind.Connection, look kind.RowLook) (workload.WorkReport, error) {
	report, err := l.LookAtRows(ctx, c, look)
	if err != nil {
		return workload.WorkReport{}, saidIn(err)
	}
	report.Error = cutOff(report.Error)
	checked, err := CheckWork([]workload.WorkReport{report})
	if err != nil {
		return workload.WorkReport{}, fmt.Errorf("its answer cannot be used: %w", saidIn(err))
	}
	return checked[0], nil
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
