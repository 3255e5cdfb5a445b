// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

type (
	Context = context.Context
	Change  = kind.Change
	// maker makes a world around a broken kind.
	maker = func() World
	// act is one of a server's calls, and deed what the directory's administrator does in one.
	act  = func(ctx Context, c Change) error
	deed = func(ctx Context, a *toy.Administrator, c Change) error
	// of is the user of one of a change's versions.
	of = func(c Change) string
)

// broken is the toy kind with some of its methods replaced.
type broken struct {
	toy.Kind
	calls      map[string]act
	inUse      func(ctx Context, c Change) (int, string, error)
	preflight  func(ctx Context, c Change) (blockers, notes []string, err error)
	fields     func() []kind.Field // of a connection
	normalize  func(c kind.Connection) (kind.Connection, error)
	check      func(ctx Context, c kind.Connection) ([]string, error)
	rotateRoot func(ctx Context, c kind.Connection) error

	begun int          // the number of the version that was staged last
	under atomic.Int64 // calls of Unstage
}

func (b *broken) Stage(x Context, c Change) error { return b.calls["Stage"](x, c) }

func (b *broken) Verify(x Context, c Change) error { return b.calls["Verify"](x, c) }

func (b *broken) Retire(x Context, c Change) error { return b.calls["Retire"](x, c) }

func (b *broken) Unstage(x Context, c Change) error { return b.calls["Unstage"](x, c) }

func (b *broken) Undelete(x Context, c Change) error                     { return b.calls["Undelete"](x, c) }
func (b *broken) InUse(x Context, c Change) (int, string, error)         { return b.inUse(x, c) }
func (b *broken) Preflight(x Context, c Change) (_, _ []string, _ error) { return b.preflight(x, c) }
func (b *broken) ConnectionFields() []kind.Field                         { return b.fields() }
func (b *broken) RotateRoot(x Context, c kind.Connection) error          { return b.rotateRoot(x, c) }

func (b *broken) CheckConnection(x Context, c kind.Connection) (_ []string, _ error) {
	return b.check(x, c)
}

func (b *broken) NormalizeConnection(c kind.Connection) (kind.Connection, error) {
	return b.normalize(c)
}

// breaks makes a kind of which nothing is broken but what do breaks.
func breaks(do func(b *broken)) maker {
	return world(func(k toy.Kind) kind.Kind {
		b := &broken{
			Kind: k, calls: map[string]act{"Stage": k.Stage, "Verify": k.Verify, "Retire": k.Retire, "Unstage": k.Unstage, "Undelete": k.Undelete},
			inUse: k.InUse, preflight: k.Preflight, fields: k.ConnectionFields, normalize: k.NormalizeConnection, check: k.CheckConnection, rotateRoot: k.RotateRoot,
		}
		do(b)
		return b
	})
}

func old(c Change) string   { return userOf(c.From.Value) }
func fresh(c Change) string { return userOf(c.To.Value) }
func stray(c Change) string { return strings.ToUpper(fresh(c)) }

// there reports whether the directory knows the user of a version; gone is the contrary.
func there(v of) func(*broken, Change) bool {
	return func(b *broken, c Change) bool { return slices.Contains(b.Directory.Users(), v(c)) }
}

func gone(v of) func(*broken, Change) bool {
	return func(b *broken, c Change) bool { return !there(v)(b, c) }
}

// then makes one call and, if it succeeds, another.
func then(one, other act) act {
	return func(ctx Context, c Change) error {
		if err := one(ctx, c); err != nil {
			return err
		}
		return other(ctx, c)
	}
}

// instead replaces a call.
func instead(call string, do func(b *broken, ctx Context, c Change) error) maker {
	return breaks(func(b *broken) { b.calls[call] = func(ctx Context, c Change) error { return do(b, ctx, c) } })
}

// without leaves a call out.
func without(call string) maker {
	return instead(call, func(*broken, Context, Change) error { return nil })
}

// fails has a call fail when a condition holds.
func fails(call, text string, when func(b *broken, c Change) bool) maker {
	return breaks(func(b *broken) {
		b.calls[call] = then(func(_ Context, c Change) error {
			if when(b, c) {
				return errors.New(text)
			}
			return nil
		}, b.calls[call])
	})
}

// before and after do something as the administrator beside a call.
func before(call string, deeds ...deed) maker {
	return breaks(func(b *broken) { b.calls[call] = then(b.does(deeds), b.calls[call]) })
}

func after(call string, deeds ...deed) maker {
	return breaks(func(b *broken) { b.calls[call] = then(b.calls[call], b.does(deeds)) })
}

func (b *broken) does(deeds []deed) act {
	return func(ctx Context, c Change) error {
		a, err := b.Directory.Administrator(ctx, c.Connection.Passwords())
		for _, do := range deeds {
			if err == nil {
				err = do(ctx, a, c)
			}
		}
		return err
	}
}

// What the administrator does: drop and end are of a version's user, set of the new version's, stray makes another user.
func drop(v of) deed {
	return func(ctx Context, a *toy.Administrator, c Change) error { return a.Drop(ctx, v(c)) }
}

func end(v of) deed {
	return func(ctx Context, a *toy.Administrator, c Change) error { return a.End(ctx, v(c)) }
}

func set(ctx Context, a *toy.Administrator, c Change) error {
	user, password := split(c.To.Value)
	return a.Set(ctx, user, password)
}

// world returns worlds around what is made of the toy kind.
func world(of func(toy.Kind) kind.Kind) maker {
	return func() World { return toyWorld(of) }
}

// variant is one way to break the contract, the case that is there to find it, and what it complains of.
type variant struct {
	in, complaints string // with | between them
	open           maker
}

// brokenKinds returns all variants.
func brokenKinds() map[string]variant {
	all := maps.Clone(brokenServers)
	maps.Copy(all, brokenVerifiers)
	maps.Copy(all, brokenWords)
	maps.Copy(all, brokenConnectors)
	maps.Copy(all, brokenIssuers)
	return all
}

// A case that nothing fails proves nothing: there is a broken kind for each.
func TestEveryCaseHasABrokenKind(t *testing.T) {
	found, known := map[string]bool{}, map[string]bool{}
	for _, v := range brokenKinds() {
		found[v.in] = found[v.in] || v.complaints != ""
	}
	all := append(cases(t, rendering("NAME", "NAME", false)()), cases(t, verifying(nil)())...)
	for _, c := range append(all, cases(t, issuing(func(*issuer) {})())...) {
		if known[c.name] = true; !found[c.name] {
			t.Errorf("no broken kind fails case %q", c.name)
		}
	}
	for name := range found {
		if !known[name] {
			t.Errorf("there is no case %q, in which a broken kind should fail", name)
		}
	}
}

func TestBrokenKindsFail(t *testing.T) {
	for name, v := range brokenKinds() {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			for tries := 5; ; tries-- { // a cut is a matter of time, and may miss on a machine that is busy
				got := complaints(t, v.in, v.open)
				all := strings.Join(got, "\n")
				missing := slices.DeleteFunc(strings.Split(v.complaints, "|"), func(text string) bool { return strings.Contains(all, text) })
				switch {
				case len(missing) == 0 && (v.complaints == "") == (all == ""):
					return
				case tries == 1 || !strings.HasPrefix(v.in, "cut "):
					t.Fatalf("case %q complains of %q, and not that %q", v.in, got, missing)
				}
			}
		})
	}
}
