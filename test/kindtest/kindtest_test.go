// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

func TestMain(m *testing.M) {
	grace, late = 250*time.Millisecond, 250*time.Millisecond
	os.Exit(m.Run())
}

// recorder is a test that may fail without consequence.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Logf(string, ...any) {
}
func (r *recorder) Error(args ...any) { r.Errorf("%s", fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatal(args ...any)                 { r.Fatalf("%s", fmt.Sprint(args...)) }
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }

// record does something with a recorder and gives what it complains of.
func record(t *testing.T, do func(t testing.TB)) []string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(r)
	}()
	<-done
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failures)
}

// complaints runs one case and gives what it complains of.
func complaints(t *testing.T, name string, open func(t testing.TB) World) []string {
	t.Helper()
	for _, c := range cases(t, open(t)) {
		if c.name == name {
			return record(t, func(t testing.TB) { c.run(begin(t, open(t))) })
		}
	}
	t.Fatalf("there is no case %q for this kind", name)
	return nil
}

// toyWorld is a world around the toy kind, or around what a test makes of it.
func toyWorld(of func(toy.Kind) kind.Kind) World {
	const password = "administrator-1"
	d := toy.NewDirectory(password, 200*time.Microsecond)
	split := func(v key.Value) (string, string) {
		user, password, _ := strings.Cut(v.Reveal(), ":")
		return user, password
	}
	return World{
		Kind: of(toy.Kind{Directory: d}),
		Key:  key.Key{Name: "login", Env: "LOGIN", Options: kind.Options{kind.OptionConnection: "directory"}},
		Connection: kind.Connection{
			Options: kind.Options{"url": "toy://admin@directory"},
			Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue(password)},
		},
		Stop:        func(testing.TB) { d.SetDown(true) },
		Start:       func(testing.TB) { d.SetDown(false) },
		Freeze:      func(testing.TB) func() { return d.Freeze() },
		Hostile:     func(testing.TB) func() []string { return d.Hostile() },
		Valid:       func(_ testing.TB, v key.Value) bool { return d.Valid(split(v)) },
		Credentials: func(testing.TB) []string { return d.Users() },
		Occupy: func(_ testing.TB, v key.Value) key.Value {
			user, _ := split(v)
			d.Add(user, "somebody-else")
			return key.NewValue(user + ":somebody-else")
		},
		Use: func(t testing.TB, v key.Value) Session {
			user, password := split(v)
			login, err := d.Login(context.Background(), user, password)
			if err != nil {
				t.Fatal(err)
			}
			return Session{Alive: login.Alive, End: login.End}
		},
	}
}

// A World that lacks what its kind is tested with is refused, by the names of what is missing.
func TestNothingIsSkippedSilently(t *testing.T) {
	as := func(k toy.Kind) kind.Kind { return k }
	for want, strip := range map[string]func(w *World){
		"Kind":                   func(w *World) { w.Kind = nil },
		"Key with":               func(w *World) { w.Key.Name = "" },
		"Stop":                   func(w *World) { w.Stop = nil },
		"Start":                  func(w *World) { w.Start = nil },
		"Valid":                  func(w *World) { w.Valid = nil },
		"Use":                    func(w *World) { w.Use = nil },
		"Credentials":            func(w *World) { w.Credentials = nil },
		"Connection":             func(w *World) { w.Connection = kind.Connection{} },
		"First, since":           func(w *World) { w.Kind = imported{toy.Kind{}} },
		"two Values, since":      func(w *World) { w.Kind = imported{toy.Kind{}} },
		"a Key without versions": func(w *World) { w.Key.Versions = []key.Version{{Number: 1}} },
	} {
		w := toyWorld(as)
		strip(&w)
		failures := record(t, func(t testing.TB) { cases(t, w) })
		if len(failures) != 1 || !strings.Contains(failures[0], want) {
			t.Errorf("without %s: %q", want, failures)
		}
	}
}

// imported is the toy kind without its Generator.
type imported struct{ full }

// full is what the toy kind is but for its Generator.
type full interface {
	kind.Kind
	kind.Server
	kind.Sampler
	kind.Preflighter
	kind.Connector
	kind.LoginNamer
	kind.Addresser
}

// renders is the toy kind with a further name.
type renders struct{ toy.Kind }

func (renders) Names(kind.Options) []string { return []string{"LOGIN_USER"} }

func (renders) Render(_ kind.Options, v key.Value) (map[string]key.Value, error) {
	user, _, _ := strings.Cut(v.Reveal(), ":")
	return map[string]key.Value{"LOGIN_USER": key.NewValue(user)}, nil
}

// The toy kind passes in each form that the suite knows.
func TestOtherForms(t *testing.T) {
	for name, open := range map[string]func(t testing.TB) World{
		"with values of an operator": func(testing.TB) World {
			var d *toy.Directory
			w := toyWorld(func(k toy.Kind) kind.Kind { d = k.Directory; return imported{k} })
			d.Add("app-a", "first-password")
			w.First = key.NewValue("app-a:first-password")
			w.Values = []key.Value{key.NewValue("app-b:second-password"), key.NewValue("app-c:third-password")}
			return w
		},
		"with a login of before": func(testing.TB) World {
			var d *toy.Directory
			w := toyWorld(func(k toy.Kind) kind.Kind { d = k.Directory; return k })
			d.Add("legacy", "first-password")
			w.First = key.NewValue("legacy:first-password")
			return w
		},
		"with a further name": func(testing.TB) World { return toyWorld(func(k toy.Kind) kind.Kind { return renders{k} }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Run(t, func(t testing.TB) World {
				w := open(t)
				w.Freeze = nil // it takes time, and TestContract of the toy has it
				return w
			})
		})
	}
}

// A renderer whose names are not what it renders, and one that quotes.
func TestBrokenRenderersFail(t *testing.T) {
	for want, k := range map[string]kind.Kind{
		"Names":          misnames{},
		"holds a secret": quotes{},
		"the key's own":  ownName{},
	} {
		failures := complaints(t, "render", func(testing.TB) World {
			w := toyWorld(func(of toy.Kind) kind.Kind { return of })
			return World{Kind: struct {
				kind.Kind
				kind.Generator
				kind.Renderer
			}{w.Kind, toy.Kind{}, k.(kind.Renderer)}, Key: w.Key}
		})
		if !strings.Contains(strings.Join(failures, "\n"), want) {
			t.Errorf("%T: %q, not %q", k, failures, want)
		}
	}
}

type misnames struct{ renders }

func (misnames) Names(kind.Options) []string { return []string{"LOGIN_NAME"} }

type quotes struct{ renders }

func (q quotes) Render(o kind.Options, v key.Value) (map[string]key.Value, error) {
	if !strings.HasPrefix(v.Reveal(), "app-a:") {
		return nil, fmt.Errorf("%q is no login", v.Reveal())
	}
	return q.renders.Render(o, v)
}

type ownName struct{ renders }

func (ownName) Names(kind.Options) []string { return []string{"LOGIN"} }

func (ownName) Render(_ kind.Options, v key.Value) (map[string]key.Value, error) {
	return map[string]key.Value{"LOGIN": v}, nil
}

// addressed has values that are URLs, and takes any.
type addressed struct{ kind.Kind }

func (addressed) Check(kind.Options, key.Value) ([]string, error) { return nil, nil }

func TestValueWithCredentialsInItsQueryFails(t *testing.T) {
	failures := complaints(t, "credentials in the query of a value", func(testing.TB) World {
		w := toyWorld(func(k toy.Kind) kind.Kind { return addressed{k} })
		const url = "toy://app:first-password@directory/"
		return World{Kind: w.Kind, Key: w.Key, First: key.NewValue(url), Values: []key.Value{key.NewValue(url + "2"), key.NewValue(url + "3")}}
	})
	if !strings.Contains(strings.Join(failures, "\n"), "a value with password= in its query is not refused by the name password") {
		t.Errorf("the case complains of %q", failures)
	}
}
