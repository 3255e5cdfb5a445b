// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

// broken is the toy kind with some of its methods replaced.
type broken struct {
	toy.Kind
	normalize func(o kind.Options) (kind.Options, error)
	check     func(v key.Value) ([]string, error)
	generate  func(random io.Reader, k key.Key, from key.Value) (key.Value, error)
	stage     func(ctx context.Context, c kind.Change) error
	verify    func(ctx context.Context, c kind.Change) error
	inUse     func(ctx context.Context, c kind.Change) (int, string, error)
	sample    func(ctx context.Context, c kind.Change, d time.Duration) (int, string, error)
	retire    func(ctx context.Context, c kind.Change) error
	unstage   func(ctx context.Context, c kind.Change) error
	preflight func(ctx context.Context, c kind.Change) (blockers, notes []string, err error)

	summary             func() string
	fields              func() []kind.Field
	login               func(v key.Value) (string, error)
	connectionFields    func() []kind.Field
	normalizeConnection func(c kind.Connection) (kind.Connection, error)
	checkConnection     func(ctx context.Context, c kind.Connection) ([]string, error)
	rotateRoot          func(ctx context.Context, c kind.Connection) error
}

func (b *broken) Summary() string      { return b.summary() }
func (b *broken) Fields() []kind.Field { return b.fields() }

func (b *broken) Preflight(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
	return b.preflight(ctx, c)
}

func (b *broken) Normalize(o kind.Options) (kind.Options, error) { return b.normalize(o) }
func (b *broken) Check(_ kind.Options, v key.Value) ([]string, error) {
	return b.check(v)
}

func (b *broken) Generate(random io.Reader, k key.Key, from key.Value) (key.Value, error) {
	return b.generate(random, k, from)
}
func (b *broken) Stage(ctx context.Context, c kind.Change) error   { return b.stage(ctx, c) }
func (b *broken) Verify(ctx context.Context, c kind.Change) error  { return b.verify(ctx, c) }
func (b *broken) Retire(ctx context.Context, c kind.Change) error  { return b.retire(ctx, c) }
func (b *broken) Unstage(ctx context.Context, c kind.Change) error { return b.unstage(ctx, c) }
func (b *broken) InUse(ctx context.Context, c kind.Change) (int, string, error) {
	return b.inUse(ctx, c)
}

func (b *broken) Sample(ctx context.Context, c kind.Change, d time.Duration) (int, string, error) {
	return b.sample(ctx, c, d)
}

func (b *broken) Login(v key.Value) (string, error) { return b.login(v) }

func (b *broken) ConnectionFields() []kind.Field { return b.connectionFields() }

func (b *broken) NormalizeConnection(c kind.Connection) (kind.Connection, error) {
	return b.normalizeConnection(c)
}

func (b *broken) CheckConnection(ctx context.Context, c kind.Connection) ([]string, error) {
	return b.checkConnection(ctx, c)
}

func (b *broken) RotateRoot(ctx context.Context, c kind.Connection) error {
	return b.rotateRoot(ctx, c)
}

// whole is a broken kind of which nothing is broken yet.
func whole(k toy.Kind) *broken {
	return &broken{
		Kind: k, normalize: k.Normalize, check: func(v key.Value) ([]string, error) { return k.Check(nil, v) }, generate: k.Generate,
		stage: k.Stage, verify: k.Verify, inUse: k.InUse, sample: k.Sample, retire: k.Retire, unstage: k.Unstage, preflight: k.Preflight,
		summary: k.Summary, fields: k.Fields,
		login: k.Login, connectionFields: k.ConnectionFields, normalizeConnection: k.NormalizeConnection, checkConnection: k.CheckConnection, rotateRoot: k.RotateRoot,
	}
}

// login gives what stands in a version of the toy kind.
func login(v key.Version) (user, password string) {
	user, password, _ = strings.Cut(v.Value.Reveal(), ":")
	return user, password
}

// variant is one way to break the contract, and the case that is there to find it.
type variant struct {
	in, complaint string
	breaks        func(b *broken)
}

// brokenKinds are all variants.
func brokenKinds() map[string]variant {
	variants := maps.Clone(brokenTexts)
	for _, more := range []map[string]variant{
		brokenDescriptions, brokenServers, brokenPreflights, brokenFaults, brokenConnectors, brokenSenders, brokenReach,
	} {
		maps.Copy(variants, more)
	}
	return variants
}

// brokenElsewhere are the cases for which kinds of another form are broken, and the tests that have these.
var brokenElsewhere = map[string]func(t *testing.T){
	"render":                              TestBrokenRenderersFail,
	"verify":                              TestVerifiers,
	"verify while the server is down":     TestVerifiers,
	"credentials in the query of a value": TestValueWithCredentialsInItsQueryFails,
}

// A case that nothing fails proves nothing: there is a broken kind for each.
func TestEveryCaseHasABrokenKind(t *testing.T) {
	found := map[string]bool{}
	for _, v := range brokenKinds() {
		found[v.in] = found[v.in] || v.complaint != ""
	}
	for name := range brokenElsewhere {
		found[name] = true
	}
	known := map[string]bool{}
	for _, w := range []World{
		toyWorld(func(k toy.Kind) kind.Kind { return renders{k} }),
		verifierWorld(func(k toy.Kind) func(context.Context, kind.Change) error { return k.Verify }),
	} {
		for _, c := range cases(t, w) {
			known[c.name] = true
			if !found[c.name] {
				t.Errorf("no broken kind fails case %q", c.name)
			}
		}
	}
	for name := range found {
		if !known[name] {
			t.Errorf("there is no case %q, in which a broken kind should fail", name)
		}
	}
}

func TestBrokenKindsFail(t *testing.T) {
	variants := brokenKinds()
	variants["nothing is broken"] = variant{"rotation", "", func(*broken) {}}
	for name, v := range variants {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			const tries = 5 // a cut is a matter of time, and may miss on a machine that is busy
			for n := range tries {
				failures := complaints(t, v.in, func(testing.TB) World {
					return toyWorld(func(k toy.Kind) kind.Kind {
						b := whole(k)
						v.breaks(b)
						return b
					})
				})
				all := strings.Join(failures, "\n")
				switch {
				case strings.Contains(all, v.complaint) && (v.complaint == "") == (all == ""):
					return
				case n == tries-1 || !strings.HasPrefix(v.in, "cut "):
					t.Fatalf("case %q complains of %q, not that %q", v.in, failures, v.complaint)
				}
			}
		})
	}
}
