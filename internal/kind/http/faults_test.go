// SPDX-License-Identifier: Apache-2.0

package http_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	of "github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/http"
)

// world is a key at a provider, as the engine would keep it.
type world struct {
	t      *testing.T
	p      *provider
	key    key.Key
	change kind.Change
}

// newWorld has a key with a first version that was imported, and a second one that is ordered. others are tokens that were there.
func newWorld(t *testing.T, p *provider, options kind.Options, others int) *world {
	t.Helper()
	for range others {
		p.add("of somebody else")
	}
	first := p.add("by hand")
	full, err := of.Kind{}.Normalize(options)
	if err != nil {
		t.Fatal(err)
	}
	k := key.Key{Name: "deploy-token", Env: "DEPLOY_TOKEN", Kind: "http", Mount: "abcdef", Options: full}
	w := &world{t: t, p: p, key: k}
	w.change.Connection, err = of.Kind{}.NormalizeConnection(p.connection())
	if err != nil {
		t.Fatal(err)
	}
	w.key, _ = k.WithFirst(key.Version{Value: key.NewValue(first.value)})
	order, err := of.Kind{}.Generate(strings.NewReader(strings.Repeat("random", 9)), w.key, w.key.Versions[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	w.key, _ = w.key.WithStaged(key.Version{Number: 2, Value: order})
	w.update()
	return w
}

// imported are the options of a key whose imported value has an id.
func imported(p *provider) kind.Options {
	o := kind.Options{"imported_id": strconv.Itoa(9007199254740993 + p.made + 1)}
	for name, value := range parameters {
		o[name] = value
	}
	return o
}

func (w *world) update() {
	w.change.Key = w.key
	w.change.From, _ = w.key.Version(1)
	w.change.To, _ = w.key.Version(2)
}

// store replaces the order or the value of version 2.
func (w *world) store(to key.Version) {
	w.t.Helper()
	k, err := w.key.WithIssued(2, w.change.To.Value, to)
	if err != nil {
		w.t.Fatal(err)
	}
	w.key = k
	w.update()
}

// issue is one attempt; its error holds no secret.
func (w *world) issue() error {
	w.t.Helper()
	order, ordered := of.Kind{}.Attempt(w.change.To.Value)
	if !ordered {
		w.t.Fatal("version 2 has a value already")
	}
	w.store(key.Version{Value: order})
	made, err := of.Kind{}.Issue(w.t.Context(), w.change)
	if err == nil {
		w.store(key.Version{Value: made.Value, Handle: made.Handle})
	}
	return w.silent(err)
}

// call makes a call of the kind.
func (w *world) call(do func(of.Kind, context.Context, kind.Change) error) error {
	w.t.Helper()
	return w.silent(do(of.Kind{}, w.t.Context(), w.change))
}

// silent fails if an error tells a secret.
func (w *world) silent(err error) error {
	w.t.Helper()
	if err == nil {
		return nil
	}
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	for _, secret := range append([]token{{value: administrator}}, w.p.tokens...) {
		if strings.Contains(fmt.Sprintf("%v %+v", err, err), secret.value) {
			w.t.Error("an error holds a secret")
		}
	}
	return err
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) fails(err error, want ...string) {
	w.t.Helper()
	for _, text := range want {
		if err == nil || !strings.Contains(err.Error(), text) {
			w.t.Errorf("%v, want %q", err, text)
		}
	}
}

// through stages, verifies and retires.
func (w *world) through() {
	w.t.Helper()
	w.ok(w.call(of.Kind.Stage))
	w.ok(w.call(of.Kind.Verify))
	k, err := w.key.Promoted(1, 2)
	w.ok(err)
	w.key = k
	w.update()
	w.ok(w.call(of.Kind.Retire))
	if w.p.valid(w.change.From.Value.Reveal()) || !w.p.valid(w.change.To.Value.Reveal()) {
		w.t.Error("after Retire the old value is valid, or the new one is not")
	}
}

// expectTokens wants so many values at the provider.
func (w *world) expectTokens(when string, want int) {
	w.t.Helper()
	if got := len(w.p.ids()); got != want {
		w.t.Errorf("%s: the provider has %d values, want %d", when, got, want)
	}
}

// An answer is lost, or is an error, after the value was made. The next attempt revokes that value, whichever page lists it.
func TestLostAnswers(t *testing.T) {
	for name, cursors := range map[string]bool{"links": false, "cursors": true} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t)
			p.cursors = cursors
			w := newWorld(t, p, imported(&provider{made: 5}), 5)
			p.set(func() { p.lost, p.broken = 1, 1 })
			w.fails(w.issue(), "breaks the connection off")
			w.expectTokens("after an answer that was lost", 7)
			w.fails(w.issue(), "status 500", "revoked at the next attempt")
			w.expectTokens("after an error", 7)
			w.ok(w.issue())
			w.expectTokens("after an answer", 7)
			w.through()
			w.expectTokens("after a rotation", 6)
		})
	}
}

// A value that the provider makes after nobody waits for it any more is revoked by the next step.
func TestLateValues(t *testing.T) {
	p := newProvider(t)
	w := newWorld(t, p, imported(p), 0)
	w.ok(w.issue())
	late := func(attempt int) {
		label := ""
		p.set(func() {
			for _, t := range p.tokens {
				if strings.HasPrefix(t.Name, "hyvve-abcdef-deploy-token-") {
					label = t.Name[:strings.LastIndex(t.Name, "-")]
				}
			}
			p.add(label + "-" + strconv.Itoa(attempt))
		})
	}
	late(7)
	w.ok(w.call(of.Kind.Stage))
	w.expectTokens("after Stage", 2)
	late(8)
	w.through()
	w.expectTokens("after Retire", 1)
}

// After a revert a value may come late of which no version is left. It is reported, and revoked by nobody.
func TestValuesOfNoVersionAreReported(t *testing.T) {
	p := newProvider(t)
	w := newWorld(t, p, imported(p), 0)
	lost := p.add("hyvve-abcdef-deploy-token-abc-1")
	_, notes, err := of.Kind{}.Preflight(t.Context(), w.change)
	w.ok(err)
	if text := strings.Join(notes, "; "); !strings.Contains(text, strconv.Itoa(lost.ID)) || !strings.Contains(text, "revoke them there") {
		t.Errorf("the plan says %q", text)
	}
	found, err := of.Kind{}.Inspect(t.Context(), kind.Change{Key: w.key, To: w.change.From, Connection: w.change.Connection})
	w.ok(err)
	if text := strings.Join(found.Notes, "; "); !strings.Contains(text, strconv.Itoa(lost.ID)) || len(found.Problems) > 0 {
		t.Errorf("an inspection says %q, %v", text, found.Problems)
	}
	w.ok(w.issue())
	w.through()
	w.expectTokens("after a rotation", 2)
}

func TestLyingProviders(t *testing.T) {
	for name, tt := range map[string]struct {
		lie  func(p *provider, w *world)
		call func(of.Kind, context.Context, kind.Change) error // nil: Issue
		want string
	}{
		"the old id": {func(p *provider, w *world) {
			p.answer = func(t token) any { return answered(w.key.Options["imported_id"], t.value) }
		}, nil, "as it calls version 1"},
		"the old value": {func(p *provider, w *world) {
			p.answer = func(t token) any { return answered(t.ID, w.change.From.Value.Reveal()) }
		}, nil, "value of version 1 as a new one"},
		"the value as an id": {func(p *provider, _ *world) { p.answer = func(t token) any { return answered(t.value, t.value) } }, nil, "is its id"},
		"no value":           {func(p *provider, _ *world) { p.answer = func(t token) any { return answered(t.ID, "") } }, nil, "create_value"},
		"a value of lines": {func(p *provider, _ *world) {
			p.answer = func(t token) any { return answered(t.ID, t.value+"\r\nX: y") }
		}, nil, "control character"},
		"no id":         {func(p *provider, _ *world) { p.answer = func(t token) any { return answered(nil, t.value) } }, nil, "create_id"},
		"an id of dots": {func(p *provider, _ *world) { p.answer = func(t token) any { return answered("..", t.value) } }, nil, "is not the id"},
		"the password as id": {func(p *provider, _ *world) {
			p.answer = func(t token) any { return answered("x"+administrator, t.value) }
		}, nil, "is a secret"},
		"the old value as id": {func(p *provider, w *world) {
			p.answer = func(t token) any { return answered(w.change.From.Value.Reveal(), t.value) }
		}, nil, "is a secret"},
		"an order": {func(p *provider, w *world) {
			p.answer = func(t token) any { return answered(t.ID, "hyvve-order:hyvve-a/1") }
		}, nil, "is not a value"},
		"not listed":      {func(p *provider, w *world) { p.unseen = p.tokens[1].ID }, of.Kind.Stage, "does not list version 2"},
		"another's token": {func(p *provider, _ *world) { p.answer = func(t token) any { return answered(1, t.value) } }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t)
			w := newWorld(t, p, imported(p), 0)
			if tt.call != nil {
				w.ok(w.issue())
			}
			p.set(func() { tt.lie(p, w) })
			if tt.call == nil {
				err := w.issue()
				if tt.want == "" {
					w.ok(err)
					w.fails(w.call(of.Kind.Stage), "does not list version 2")
					return
				}
				w.fails(err, tt.want)
				p.set(func() { p.answer = nil })
				w.ok(w.issue())
			} else {
				w.fails(w.call(tt.call), tt.want)
				p.set(func() { p.unseen = 0 })
			}
			w.through()
			w.expectTokens("after a rotation", 1)
		})
	}
}

func answered(id, value any) any {
	return map[string]any{"data": map[string]any{"id": id, "token": value}}
}

// A provider says that it has revoked a value, and takes it still.
func TestRevocationsThatDoNothing(t *testing.T) {
	p := newProvider(t)
	w := newWorld(t, p, imported(p), 0)
	w.ok(w.issue())
	w.ok(w.call(of.Kind.Stage))
	p.set(func() { p.keeps = true })
	w.fails(w.call(of.Kind.Retire), "still lists version 1")
	w.fails(w.call(of.Kind.Unstage), "still lists version 2")
	p.set(func() { p.unseen = p.tokens[0].ID })
	w.fails(w.call(of.Kind.Retire), "takes version 1 still")
	p.set(func() { p.keeps, p.unseen = false, 0 })
	w.through()
}

// A provider that does not name values lists one that no version is. Only an operator can tell whose it is.
func TestProvidersWithoutNames(t *testing.T) {
	p := newProvider(t)
	p.nameless = true
	w := newWorld(t, p, imported(p), 0)
	p.set(func() { p.lost = 1 })
	w.fails(w.issue(), "breaks the connection off")
	lost := p.ids()[1]
	w.fails(w.issue(), "lists 1 values that no version", lost, "Revoke at the provider", "others=ID")
	w.ok(w.call(of.Kind.Unstage))
	found, err := of.Kind{}.Inspect(t.Context(), kind.Change{Key: w.key, To: w.change.From, Connection: w.change.Connection})
	if w.ok(err); len(found.Problems) != 1 || !strings.Contains(found.Problems[0].Text, lost) {
		t.Errorf("an inspection finds %v", found.Problems)
	}
	blockers, _, err := of.Kind{}.Preflight(t.Context(), w.change)
	w.ok(err)
	if !strings.Contains(strings.Join(blockers, "; "), lost) {
		t.Errorf("the plan is blocked by %q", blockers)
	}
	w.expectTokens("while an operator is waited for", 2)

	w.key.Options["others"] = lost
	w.update()
	w.ok(w.issue())
	w.through()
	w.expectTokens("after a rotation beside another's value", 2)
}

// A value that was imported without its id is revoked by hand; what was retired is refused then.
func TestImportedValues(t *testing.T) {
	p := newProvider(t)
	w := newWorld(t, p, parameters, 0)
	_, notes, err := of.Kind{}.Preflight(t.Context(), w.change)
	w.ok(err)
	if text := strings.Join(notes, "; "); !strings.Contains(text, "set imported_id") {
		t.Errorf("the plan says %q", text)
	}
	w.ok(w.issue())
	w.ok(w.call(of.Kind.Stage))
	w.fails(w.call(of.Kind.Retire), "revoke it there by hand")
	p.set(func() { p.tokens = p.tokens[1:] })
	w.through()
}

// Workloads may get the id beside the value, and the id and the value may log in together.
func TestIDs(t *testing.T) {
	p := newProvider(t)
	options := imported(p)
	options["id_env"] = "ACCESS_KEY_ID"
	w := newWorld(t, p, options, 0)
	w.ok(w.issue())
	for n, id := range p.ids() {
		rendered, err := of.Kind{}.Render(w.key.Options, w.key.Versions[n])
		if err != nil || rendered["ACCESS_KEY_ID"].Reveal() != id {
			t.Errorf("version %d has another id (%v)", n+1, err)
		}
	}
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		got = user + " " + password
	}))
	defer s.Close()
	w.change.Connection.Options["verify_url"], w.change.Connection.Options["verify_format"] = s.URL, "Basic {{basic}}"
	w.ok(w.call(of.Kind.Verify))
	if got != p.ids()[1]+" "+w.change.To.Value.Reveal() {
		t.Error("the id and the value do not log in together")
	}
	delete(w.key.Options, "imported_id")
	w.change.To.Value, _ = of.Kind{}.Generate(strings.NewReader(strings.Repeat("random", 9)), w.key, key.Value{})
	if err := (of.Kind{}).CheckChange(w.change); err == nil || !strings.Contains(err.Error(), "imported_id") {
		t.Errorf("an imported value without an id, where workloads get it: %v", err)
	}
}
