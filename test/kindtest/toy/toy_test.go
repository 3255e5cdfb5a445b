// SPDX-License-Identifier: Apache-2.0

package toy_test

import (
	"context"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

// split reads a value.
func split(v key.Value) (user, password string) {
	u, _ := dsn.Parse(v.Reveal(), "toy")
	return u.User, u.Password.Reveal()
}

func TestContract(t *testing.T) {
	kindtest.Run(t, func(testing.TB) kindtest.World {
		d := toy.NewDirectory("administrator-1", 500*time.Microsecond)
		return kindtest.World{
			Kind: toy.New(d),
			Key:  key.Key{Name: "login", Env: "LOGIN", Options: kind.Options{"connection": "directory", "url": "toy://directory"}},
			Connection: kind.Connection{
				Name: "directory", Options: kind.Options{"url": "toy://admin@directory"},
				Secrets: map[string]key.Value{"password": key.NewValue("administrator-1")},
			},
			Stop:    func(testing.TB) { d.SetDown(true) },
			Start:   func(testing.TB) { d.SetDown(false) },
			Freeze:  func(testing.TB) func() { return d.Freeze() },
			Hostile: func(testing.TB) func() []string { return d.Hostile() },
			Valid: func(_ testing.TB, v key.Value) bool {
				return d.Valid(split(v))
			},
			Use: func(t testing.TB, v key.Value) kindtest.Session {
				user, password := split(v)
				login, err := d.Login(context.Background(), user, password)
				if err != nil {
					t.Fatal(err)
				}
				return kindtest.Session{Alive: login.Alive, End: login.End}
			},
			Credentials: func(testing.TB) []string { return d.Users() },
			Claim: func(_ testing.TB, v key.Value, by key.Key) {
				user, _ := split(v)
				d.Own(by.Mount+"/"+by.Name, user)
			},
			Occupy: func(_ testing.TB, v key.Value) key.Value {
				user, _ := split(v)
				d.Add(user, "somebody-else")
				return key.NewValue("toy://" + user + ":somebody-else@directory")
			},
		}
	})
}
