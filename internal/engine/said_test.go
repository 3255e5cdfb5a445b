// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// long is what a server says that is hostile, or broken: as much as it likes, and in forged lines.
var long = strings.Repeat("x", 1<<20) + strings.Repeat("\x1b[2K\n", 1000)

// many are more texts than an operator reads.
func many() (all []string) {
	for n := range 10_000 {
		all = append(all, fmt.Sprintf("\x1b[2Knote %d\n", n))
	}
	return all
}

// plain refuses what is longer than that, or has several lines.
func plain(t *testing.T, what string, most int, said ...any) {
	t.Helper()
	if text := fmt.Sprint(said...); len(text) > most || strings.ContainsAny(text, "\x1b\n") || text == "" || strings.HasPrefix(text, "<nil>") {
		t.Errorf("%s: %d bytes, %.100q", what, len(text), text)
	}
}

// talker is a server that says what it likes.
type talker struct {
	*forgetful
	verify error
	use    string
}

func (s *talker) Verify(ctx context.Context, c kind.Change) error {
	if s.verify != nil {
		return s.verify
	}
	return s.forgetful.Verify(ctx, c)
}

func (s *talker) InUse(ctx context.Context, c kind.Change) (int, string, error) {
	count, _, err := s.forgetful.InUse(ctx, c)
	return count, s.use, err
}

// newTalker returns a key at a talker whose version 1 is undeleted.
func newTalker(t *testing.T) (*harness, *talker) {
	t.Helper()
	h, f := newForgetful(t)
	s := &talker{forgetful: f}
	h.kinds = kind.List{s}
	h.open()
	h.retains("cache", 10*time.Hour)
	h.until(h.rotate("cache"), rotation.Done)
	h.undelete(Undeletion{Key: "cache", Version: 1, For: 9 * time.Hour})
	return h, s
}

// What servers say is bounded wherever it is kept, or shown to an operator.
func TestWhatKindsSayIsBounded(t *testing.T) {
	t.Run("checks", saidByChecks)
	t.Run("undeleted versions", saidOfUndeletedVersions)
	t.Run("plans", saidInPlans)
	t.Run("first versions", saidOfFirstVersions)
	t.Run("rotations", saidInRotations)
	t.Run("rows", saidOfRows)
	t.Run("administrators", saidOfAdministrators)
}

func saidByChecks(t *testing.T) {
	h, f := newForgetful(t)
	check := func(what string) Reconciled {
		t.Helper()
		result, err := h.engine.Reconcile(t.Context(), "cache", true, testActor)
		plain(t, what, 200_000, result, err, h.engine.KeyHealth("cache"), h.problemsOf("cache"))
		return result
	}
	f.notes = append(many(), long)
	if result := check("notes"); len(result.Notes) != untrusted.MaxTexts+1 || result.Notes[untrusted.MaxTexts] != fmt.Sprintf("and %d more", len(f.notes)-untrusted.MaxTexts) {
		t.Errorf("%d notes", len(result.Notes))
	}
	f.notes = nil
	f.problem = kind.Problem{Text: long, Remedy: long, Fixable: true}
	check("a problem")
	f.refuses = errors.New(long)
	check("an error of what is mended")
	f.problem, f.refuses, f.down = kind.Problem{}, nil, errors.New(long)
	_, err := h.engine.Reconcile(t.Context(), "cache", false, testActor)
	plain(t, "an error", 2*untrusted.MaxServerText, err)
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

func saidOfUndeletedVersions(t *testing.T) {
	h, s := newTalker(t)
	s.inUse, s.use = 1, long
	plain(t, "a use", 2*untrusted.MaxServerText, h.engine.RetireVersion(t.Context(), "cache", 1, false, "", testActor))
	s.inUse = 0
	s.fail["undelete"] = errors.New(long)
	_, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "cache", Version: 1, For: 9 * time.Hour})
	plain(t, "an undeletion", 2*untrusted.MaxServerText, err)
	delete(s.fail, "undelete")
	s.verify = errors.New(long)
	_, _, err = h.engine.Undelete(t.Context(), Undeletion{Key: "cache", Version: 1, For: 9 * time.Hour})
	plain(t, "a login", 2*untrusted.MaxServerText, err)
	s.verify = nil
	s.fail["retire"] = errors.New(long)
	plain(t, "an end", 2*untrusted.MaxServerText, h.engine.RetireVersion(t.Context(), "cache", 1, true, "", testActor))
	plain(t, "status", 2*untrusted.MaxServerText, h.engine.Status()[0].Lapse)
}

func saidInPlans(t *testing.T) {
	h, s := newTalker(t)
	request := Request{Keys: []string{"cache"}, By: testActor, Trigger: rotation.ByOperator}
	s.blockers, s.server.notes, s.fail["preflight"] = append(many(), long), append(many(), long), errors.New(long)
	p, _, err := h.engine.Plan(t.Context(), request)
	h.ok(err)
	plain(t, "a plan", 50_000, p.Blockers, p.Notes)
	if len(p.Blockers) < untrusted.MaxTexts || len(p.Notes) < untrusted.MaxTexts {
		t.Errorf("%d blockers, %d notes", len(p.Blockers), len(p.Notes))
	}
}

func saidOfFirstVersions(t *testing.T) {
	h, s := newTalker(t)
	for _, name := range []string{"one", "two"} {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "forgetful"}, testActor)
		h.ok(err)
	}
	s.server.notes, s.fail["preflight"] = append(many(), long), errors.New(long)
	value := key.NewValue("a value of one")
	s.valid[value.Reveal()] = true
	_, warnings, err := h.engine.First(t.Context(), "one", value, testActor)
	h.ok(err)
	plain(t, "warnings", 50_000, warnings)
	first := func(what string) {
		t.Helper()
		_, _, err := h.engine.First(t.Context(), "two", key.Value{}, testActor)
		plain(t, what, 2*untrusted.MaxServerText, err)
	}
	first("a preflight that fails")
	delete(s.fail, "preflight")
	s.blockers = append(many(), long)
	first("blockers")
	s.blockers, s.fail["stage"] = nil, errors.New(long)
	first("stage")
	delete(s.fail, "stage")
	s.verify = errors.New(long)
	first("verify")
}

func saidInRotations(t *testing.T) {
	h, s := newTalker(t)
	for _, step := range []string{"preflight", "stage"} {
		s.fail[step] = errors.New(long)
		id := h.rotate("cache")
		h.settle()
		plain(t, step, 2*untrusted.MaxServerText, h.view(id).Fault, h.view(id).Waits())
		delete(s.fail, step)
		h.until(id, rotation.Done)
	}
	s.inUse, s.use = 1, long
	id := h.rotate("cache")
	h.until(id, rotation.Soaking)
	h.rounds(3)
	plain(t, "a use", 4*untrusted.MaxServerText, h.view(id).Waits(), h.view(id).Fault)
}

func saidOfRows(t *testing.T) {
	h, one, look := seeing(t)
	k, _ := h.engine.Key("master")
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: k.Name, Kind: k.Kind, Protects: k.Protects, Witness: k.Witness, Policy: key.Policy{Period: time.Hour}}, testActor)
	h.ok(err)
	_, err = h.engine.Report(t.Context(), Report{
		Workload: one.workload, Instance: one.id, Secret: one.reading.Secret, Etag: one.reading.Bundle.Holding.Etag, Healthy: true,
		Work: []workload.WorkReport{{ID: catalog.CountID(k, 1), Done: true, Place: here(), Columns: []workload.ColumnReport{good}}},
	})
	h.ok(err)
	there := *here()
	look.report.Error = long
	report, err := untrusted.LookAtRows(t.Context(), look, kind.Connection{}, kind.RowLook{})
	h.ok(err)
	plain(t, "a report", 2*untrusted.MaxReason, report.Error)
	look.report.Error = ""
	for _, place := range []string{"", "moved\x1b[2K\n", long} {
		look.report.Place, look.fault = nil, errors.New(long)
		if place != "" {
			moved := there
			moved.Database = place
			look.report.Place, look.fault = &moved, nil
		}
		plain(t, "a witness", 2*untrusted.MaxServerText, strings.Join(h.engine.TryWitness(t.Context(), "master"), "; "))
		plain(t, "a plan", 4*untrusted.MaxServerText, h.planned().Blockers)
		request := Request{Keys: []string{"master"}, By: testActor, Trigger: rotation.ByOperator}
		_, _, err = h.engine.Rotate(t.Context(), request)
		plain(t, "a refusal", 2*untrusted.MaxServerText, err)
	}
	h.clock.advance(time.Hour)
	for range 3 {
		h.round()
	}
	plain(t, "status", 2*untrusted.MaxServerText, h.engine.Status()[0].Waits)
	if !strings.Contains(h.engine.Status()[0].Waits, "its witness") {
		t.Errorf("status says %q", h.engine.Status()[0].Waits)
	}
	_, warnings, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"master"}, By: testActor, Trigger: rotation.ByOperator, Compromised: true})
	h.ok(err)
	plain(t, "warnings", 4*untrusted.MaxServerText, warnings)
}

// stubbornRoot is a server that says what it likes of its administrator.
type stubbornRoot struct{ *eyes }

func (stubbornRoot) RotateRoot(context.Context, kind.Connection) error { return errors.New(long) }
func (stubbornRoot) CheckConnection(context.Context, kind.Connection) ([]string, error) {
	return append(many(), long), errors.New(long)
}

func saidOfAdministrators(t *testing.T) {
	h := newHarness(t)
	h.kinds = kind.List{stubbornRoot{&eyes{server: h.server}}}
	h.open()
	main := kind.Connection{Name: "main", Kind: "eyes", Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue("secret")}}
	_, err := h.engine.PutConnection(t.Context(), main, true, testActor)
	plain(t, "a check", 2*untrusted.MaxServerText, err)
	_, err = h.engine.PutConnection(t.Context(), main, false, testActor)
	h.ok(err)
	_, err = h.engine.RotateRoot(t.Context(), "main", testActor)
	plain(t, "rotate-root", 2*untrusted.MaxServerText, err)
}

// Methods of kinds that ask a server are called in said.go alone, which bounds what they return.
func TestServersAreAskedInBounds(t *testing.T) {
	asks := map[string]bool{}
	for _, of := range []reflect.Type{
		reflect.TypeFor[kind.Connector](), reflect.TypeFor[kind.Undeleter](), reflect.TypeFor[kind.Sampler](), reflect.TypeFor[kind.Preflighter](),
		reflect.TypeFor[kind.Restorer](), reflect.TypeFor[kind.RefusalReporter](), reflect.TypeFor[kind.RowLooker](), reflect.TypeFor[kind.Issuer](), reflect.TypeFor[kind.RootRotator](),
	} {
		for n := range of.NumMethod() {
			if m := of.Method(n); m.Type.NumIn() > 0 && m.Type.In(0) == reflect.TypeFor[context.Context]() {
				asks[m.Name] = true
			}
		}
	}
	if len(asks) != 15 {
		t.Errorf("methods that ask a server: %v", asks)
	}
	paths, err := filepath.Glob("*.go")
	below, also := filepath.Glob("*/*.go")
	if paths = append(paths, below...); err != nil || also != nil || len(paths) < 80 {
		t.Fatal(len(paths), err, also)
	}
	called := map[string]bool{}
	files := token.NewFileSet()
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			selected, ok := n.(*ast.SelectorExpr)
			switch {
			case !ok || !asks[selected.Sel.Name] || ofPackage(selected.X):
			case path == "untrusted/servers.go":
				called[selected.Sel.Name] = true
			default:
				t.Errorf("%s: %s is not bounded: call it by way of package untrusted", files.Position(selected.Pos()), selected.Sel.Name)
			}
			return true
		})
	}
	if !maps.Equal(called, asks) {
		t.Errorf("untrusted/servers.go calls %v of %v", called, asks)
	}
}

// ofPackage reports whether it is the name of a package that has names of such methods: untrusted, or rotation with its Stage.
func ofPackage(of ast.Expr) bool {
	name, ok := of.(*ast.Ident)
	return ok && (name.Name == "untrusted" || name.Name == "rotation")
}

// Problems beyond the bound count: nothing is mended by itself where one of them needs a decision.
func TestProblemsBeyondTheBound(t *testing.T) {
	all := make([]kind.Problem, untrusted.MaxTexts+2)
	for n := range all {
		all[n] = kind.Problem{Text: "x", Fixable: true, Rotates: true}
	}
	if got := untrusted.SaidProblems(all); len(got) != untrusted.MaxTexts+1 || got[untrusted.MaxTexts] != (kind.Problem{Text: "and 2 more", Fixable: true, Rotates: true}) {
		t.Errorf("%+v", got[untrusted.MaxTexts:])
	}
	all[untrusted.MaxTexts+1] = kind.Problem{Text: "y", Ahead: true}
	if got := untrusted.SaidProblems(all); got[untrusted.MaxTexts] != (kind.Problem{Text: "and 2 more", Ahead: true}) {
		t.Errorf("%+v", got[untrusted.MaxTexts:])
	}
	if err := untrusted.Err(rotation.Refusef("a\nb")); !errors.As(err, new(*rotation.Refused)) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}
