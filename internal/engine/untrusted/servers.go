// SPDX-License-Identifier: Apache-2.0

package untrusted

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// The functions below call a kind's method of the same name, and bound what it returns. Nothing else in the engine calls methods
// that ask a server (TestServersAreAskedInBounds).

// Verify calls the method of that name.
func Verify(ctx context.Context, v kind.Verifier, c kind.Change) error {
	return Err(v.Verify(ctx, c))
}

// Stage calls the method of that name.
func Stage(ctx context.Context, s kind.Server, c kind.Change) error { return Err(s.Stage(ctx, c)) }

// Issue calls the method of that name.
func Issue(ctx context.Context, i kind.Issuer, c kind.Change) (kind.Issued, error) {
	made, err := i.Issue(ctx, c)
	switch {
	case err != nil:
		return kind.Issued{}, Err(err)
	case made.Value.Empty() || made.Value.Len() > maxIssued || len(made.Handle) > MaxWorkText*4:
		return kind.Issued{}, fmt.Errorf("its answer cannot be used: the value has %d bytes, and its handle %d", made.Value.Len(), len(made.Handle))
	}
	return made, nil
}

// maxIssued is how many bytes a value may have that a server has made.
const maxIssued = 64 << 10

// Retire calls the method of that name.
func Retire(ctx context.Context, s kind.Server, c kind.Change) error {
	return Err(s.Retire(ctx, c))
}

// Unstage calls the method of that name.
func Unstage(ctx context.Context, s kind.Server, c kind.Change) error {
	return Err(s.Unstage(ctx, c))
}

// Undelete calls the method of that name.
func Undelete(ctx context.Context, u kind.Undeleter, c kind.Change) error {
	return Err(u.Undelete(ctx, c))
}

// InUse samples for that long where the kind is a Sampler, and otherwise looks once.
func InUse(ctx context.Context, s kind.Server, c kind.Change, long time.Duration) (count int, what string, err error) {
	if sampler, ok := s.(kind.Sampler); ok && long > 0 {
		count, what, err = sampler.Sample(ctx, c, long)
	} else {
		count, what, err = s.InUse(ctx, c)
	}
	return count, Text(what), Err(err)
}

// Refusals calls the method of that name.
func Refusals(ctx context.Context, r kind.RefusalReporter, c kind.Change, login string, within time.Duration) (int, string, error) {
	count, what, err := r.Refusals(ctx, c, login, within)
	return count, Text(what), Err(err)
}

// Preflight calls the method of that name.
func Preflight(ctx context.Context, p kind.Preflighter, c kind.Change) (blockers, notes []string, err error) {
	blockers, notes, err = p.Preflight(ctx, c)
	return Texts(blockers), Texts(notes), Err(err)
}

// Restore calls the method of that name.
func Restore(ctx context.Context, r kind.Restorer, c kind.Change, dryRun bool) ([]string, error) {
	done, err := r.Restore(ctx, c, dryRun)
	return Texts(done), Err(err)
}

// CheckConnection calls the method of that name.
func CheckConnection(ctx context.Context, r kind.Connector, c kind.Connection) ([]string, error) {
	notes, err := r.CheckConnection(ctx, c)
	return Texts(notes), Err(err)
}

// RotateRoot calls the method of that name.
func RotateRoot(ctx context.Context, r kind.RootRotator, c kind.Connection) error {
	return Err(r.RotateRoot(ctx, c))
}

// LookAtRows has a kind look at rows. Its report has the bounds of one of an instance.
func LookAtRows(ctx context.Context, l kind.RowLooker, c kind.Connection, look kind.RowLook) (workload.WorkReport, error) {
	report, err := l.LookAtRows(ctx, c, look)
	if err != nil {
		return workload.WorkReport{}, Err(err)
	}
	report.Error = Reason(report.Error)
	checked, err := CheckWork([]workload.WorkReport{report})
	if err != nil {
		return workload.WorkReport{}, fmt.Errorf("its answer cannot be used: %w", Err(err))
	}
	return checked[0], nil
}

// Inspect has a kind look at a key's server, and bounds what it says.
func Inspect(ctx context.Context, inspector kind.Inspector, c kind.Change) (kind.Finding, error) {
	f, err := inspector.Inspect(ctx, c)
	f.Problems, f.Notes = SaidProblems(f.Problems), Texts(f.Notes)
	if len(f.Kept) > maxKept {
		f.Notes = append(f.Notes, fmt.Sprintf("what would give the login its rights back has %d bytes, and is not stored: at most %d are", len(f.Kept), maxKept))
		f.Kept = ""
	}
	return f, Err(err)
}

// SaidProblems bounds problems. Those that are left out count as the worst of them, so that nothing is mended without being asked for.
func SaidProblems(problems []kind.Problem) []kind.Problem {
	all := slices.Clone(problems[:min(len(problems), MaxTexts)])
	for n, p := range all {
		all[n].Text, all[n].Remedy = Text(p.Text), Text(p.Remedy)
	}
	if len(problems) <= MaxTexts {
		return all
	}
	rest := kind.Problem{Text: fmt.Sprintf("and %d more", len(problems)-MaxTexts), Fixable: true, Rotates: true}
	for _, p := range problems[MaxTexts:] {
		rest.Fixable, rest.Rotates, rest.Ahead = rest.Fixable && p.Fixable, rest.Rotates && p.Rotates, rest.Ahead || p.Ahead
	}
	return append(all, rest)
}
