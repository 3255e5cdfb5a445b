// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest"
)

// An imported URL, and one that is generated for an owner that cannot log in.
func TestContract(t *testing.T) {
	t.Run("adopted", func(t *testing.T) {
		kindtest.Run(t, func(t testing.TB) kindtest.World { return contractWorld(t, true) })
	})
	t.Run("generated", func(t *testing.T) {
		kindtest.Run(t, func(t testing.TB) kindtest.World { return contractWorld(t, false) })
	})
}

func contractWorld(t testing.TB, adopted bool) kindtest.World {
	w := newWorld(t, "", nil)
	root := fmt.Sprintf("contract_root%d", worlds)
	password, err := w.postgres.NewRole(context.Background(), root)
	w.ok(err)
	w.exec("ALTER ROLE "+root+" SUPERUSER", "CREATE ROLE "+w.app+"_owner NOLOGIN")
	t.Cleanup(func() { // the suite rotates its password, so that nobody else can
		if conn, err := pgx.Connect(context.Background(), w.admin); err == nil {
			_, _ = conn.Exec(context.Background(), "ALTER ROLE "+root+" NOLOGIN")
			_ = conn.Close(context.Background())
		}
	})
	u, err := dsn.Parse(w.admin, urls.Schemes...)
	w.ok(err)
	world := kindtest.World{
		Kind: w.kind, Key: w.key,
		Connection: kind.Connection{Name: "main", Kind: "postgres", Revision: 1, Options: kind.Options{
			login.FieldURL: u.With(root, key.NewValue(password)).Text().Reveal(),
		}},
		Stop:  func(testing.TB) { w.ok(w.postgres.Stop()) },
		Start: func(testing.TB) { w.ok(w.postgres.Start(context.Background())) },
		Valid: func(_ testing.TB, v key.Value) bool {
			conn, err := w.session(key.Version{Value: v})
			if err != nil {
				return false
			}
			return conn.Close(context.Background()) == nil
		},
		Use: func(_ testing.TB, v key.Value) kindtest.Session {
			conn, err := w.session(key.Version{Value: v})
			w.ok(err)
			return kindtest.Session{
				Alive: func() bool { return conn.Ping(context.Background()) == nil },
				End:   func() { _ = conn.Close(context.Background()) },
			}
		},
		Hostile: w.hostile,
		Credentials: func(testing.TB) []string {
			conn := w.dial(w.admin)
			rows, err := conn.Query(context.Background(), "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND rolname <> $1 ORDER BY 1", root)
			w.ok(err)
			names, err := pgx.CollectRows(rows, pgx.RowTo[string])
			w.ok(err)
			return names
		},
	}
	world.Claim = func(_ testing.TB, v key.Value, by key.Key) {
		of, err := urls.Credential(key.Version{Value: v})
		w.ok(err)
		w.exec(markOf(by, key.Version{Number: 1}).statement(of.User))
	}
	world.Occupy = func(_ testing.TB, v key.Value) key.Value {
		of, err := urls.Credential(key.Version{Value: v})
		w.ok(err)
		const theirs = "somebody-else"
		w.exec("CREATE ROLE " + quote(of.User) + " LOGIN PASSWORD '" + theirs + "'")
		return of.With(of.User, key.NewValue(theirs)).Text()
	}
	if adopted {
		world.First = w.first.Value
		return world
	}
	world.Key.Options = kind.Options{kind.OptionConnection: "main", login.OptionURL: u.Without().Text().Reveal(), optionOwner: w.app + "_owner"}
	world.Key.Options, err = w.kind.Normalize(world.Key.Options)
	w.ok(err)
	return world
}

// hostile plants traps before everything else that a session could see, and statements in settings of the owner.
func (w *world) hostile(testing.TB) (ran func() []string) {
	evil := fmt.Sprintf("made_by_a_setting_%d", worlds)
	first := fmt.Sprintf("trap_contract_%d", worlds)
	var planted []*bed.Traps
	for _, schema := range []string{first, "public"} {
		traps, err := w.postgres.PlantTraps(context.Background(), w.admin, schema)
		w.ok(err)
		planted = append(planted, traps)
	}
	u, err := dsn.Parse(w.admin, urls.Schemes...)
	w.ok(err)
	w.admin += "&search_path=pg_catalog" // the test's own sessions
	w.exec("ALTER DATABASE " + quote(u.Path()) + " SET search_path TO " + quote(first) + ", pg_catalog, public")
	for _, role := range []string{w.app, w.app + "_owner"} {
		w.exec("SELECT set_config('search_path', 'public;CREATE/**/ROLE/**/"+evil+"/**/LOGIN;--', false)", "ALTER ROLE "+quote(role)+" SET search_path FROM CURRENT")
	}
	return func() []string {
		all := sprung(w.t, planted)
		var made bool
		w.ok(w.dial(w.admin).QueryRow(context.Background(), "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", evil).Scan(&made))
		if made {
			all = append(all, "a setting has made role "+evil)
		}
		return all
	}
}
