// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

func TestMain(m *testing.M) {
	grace, late, sampleTime = 250*time.Millisecond, 250*time.Millisecond, 150*time.Millisecond
	if err := flag.Set("test.parallel", "8"); err != nil { // the directory's requests take time, and no processor
		panic(err)
	}
	os.Exit(m.Run())
}

// recorder is a test that may fail without consequence.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) Helper()                      {}
func (r *recorder) Logf(string, ...any)          {}
func (r *recorder) Cleanup(f func())             { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any)            { r.Errorf("%s", fmt.Sprint(args...)) }
func (r *recorder) Fatal(args ...any)            { r.Fatalf("%s", fmt.Sprint(args...)) }
func (r *recorder) Fatalf(f string, args ...any) { r.Errorf(f, args...); runtime.Goexit() }
func (r *recorder) Errorf(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(f, args...))
}

// record does something with a recorder and returns what it complains of.
func record(t *testing.T, do func(t testing.TB)) []string {
	t.Helper()
	r := &recorder{TB: t}
	var done sync.WaitGroup
	done.Go(func() { do(r) })
	done.Wait()
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failures
}

// complaints runs one case and returns what it complains of.
func complaints(t *testing.T, name string, open func() World) []string {
	t.Helper()
	for _, c := range cases(t, open()) {
		if c.name == name {
			return record(t, func(t testing.TB) { c.run(begin(t, open())) })
		}
	}
	t.Fatalf("there is no case %q for this kind", name)
	return nil
}

// split and value read and write the toy kind's values.
func split(v key.Value) (user, password string) {
	u, _ := dsn.Parse(v.Reveal(), "toy")
	return u.User, u.Password.Reveal()
}

func userOf(v key.Value) string {
	user, _ := split(v)
	return user
}

func with(o kind.Options, name, value string) kind.Options {
	more := kind.Options{name: value}
	maps.Copy(more, o)
	more[name] = value
	return more
}

func value(user, password string) key.Value {
	return key.NewValue("toy://" + user + ":" + password + "@directory")
}

func itself(k toy.Kind) kind.Kind { return k }

const administrator = "administrator-1" // its password

// toyWorld is a world around the toy kind, or around what a test makes of it.
func toyWorld(of func(toy.Kind) kind.Kind) World {
	d := toy.NewDirectory(administrator, 200*time.Microsecond)
	return World{
		Kind: of(toy.New(d)),
		Key:  key.Key{Name: "login", Env: "LOGIN", Options: kind.Options{kind.OptionConnection: "directory", kind.OptionUsername: "app", "url": "toy://directory"}},
		Connection: kind.Connection{
			Options: kind.Options{"url": "toy://admin@directory"},
			Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue(administrator)},
		},
		Stop:        func(testing.TB) { d.SetDown(true) },
		Start:       func(testing.TB) { d.SetDown(false) },
		Freeze:      func(testing.TB) func() { return d.Freeze() },
		Hostile:     func(testing.TB) func() []string { return d.Hostile() },
		Valid:       func(_ testing.TB, v key.Value) bool { return d.Valid(split(v)) },
		Credentials: func(testing.TB) []string { return d.Users() },
		Claim:       func(_ testing.TB, v key.Value, by key.Key) { d.Own(by.Mount+"/"+by.Name, userOf(v)) },
		Occupy: func(_ testing.TB, v key.Value) key.Value {
			d.Add(userOf(v), "somebody-else")
			return value(userOf(v), "somebody-else")
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

// importing returns a world whose first version is an operator's, and its directory.
func importing(first key.Value, of func(toy.Kind) kind.Kind) (w World, d *toy.Directory) {
	w = toyWorld(func(k toy.Kind) kind.Kind { d = k.Directory; return of(k) })
	d.Add(split(first))
	w.First = first
	return w, d
}

// A World that lacks what its kind is tested with is refused, by the names of what is missing.
func TestNothingIsSkippedSilently(t *testing.T) {
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
		w := toyWorld(itself)
		strip(&w)
		failures := record(t, func(t testing.TB) { cases(t, w) })
		if len(failures) != 1 || !strings.Contains(failures[0], want) {
			t.Errorf("without %s: %q", want, failures)
		}
	}
}

// imported is the toy kind without its Generator.
type imported struct{ full }

type full interface {
	kind.Kind
	kind.Server
	kind.Sampler
	kind.Preflighter
	kind.RootRotator
	kind.LoginNamer
	kind.Addresser
}

// The toy kind passes in each form that the suite knows.
func TestOtherForms(t *testing.T) {
	for name, open := range map[string]func() World{
		"with values of an operator": func() World {
			w, _ := importing(value("app_a", "first-password"), func(k toy.Kind) kind.Kind { return imported{k} })
			w.Values = []key.Value{value("app_b", "second-password"), value("app_c", "third-password")}
			return w
		},
		"with a login of before": func() World {
			w, _ := importing(value("legacy", "first-password"), itself)
			return w
		},
		"with a further name": rendering("LOGIN_NAME", "LOGIN_NAME", false),
		"verified alone":      verifying(func(_ Change, err error) error { return err }),
		"made by the server":  issuing(func(*issuer) {}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Run(t, func(testing.TB) World {
				w := open()
				w.Freeze = nil // it takes time, and TestContract of the toy has it
				return w
			})
		})
	}
}
