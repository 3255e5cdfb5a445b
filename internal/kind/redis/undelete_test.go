// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// A version whose user is the current version's is refused before anything is stored: with two users, every second one. So is
// one that could not be ended again.
func TestCheckUndelete(t *testing.T) {
	w := &world{t: t, kind: New()}
	t.Cleanup(func() { _ = w.kind.Close() })
	options, err := w.kind.Normalize(kind.Options{kind.OptionConnection: "main"})
	w.ok(err)
	w.key = key.Key{Name: "redis-url", Env: "REDIS_URL", Kind: "redis", Options: options, Mount: "aaaaaa"}
	w.adopt("redis://app:" + appPassword + "@127.0.0.1:6379/0")
	for range 4 {
		c := w.plan()
		w.key, err = w.key.Promoted(c.From.Number, c.To.Number)
		w.ok(err)
	}
	change := func(from, to int) kind.Change {
		c := w.change(w.key.Versions[from-1], w.key.Versions[to-1])
		c.Connection = kind.Connection{Name: "main", Kind: "redis", Options: kind.Options{fieldUsername: "admin"}}
		return c
	}
	for _, free := range []int{1, 2, 4} {
		w.ok(w.kind.CheckUndelete(change(5, free)))
	}
	taken := "as version 5 does, which is the current one; give its client the current value; or rotate the key, and undelete version 3 then"
	w.refuses(w.kind.CheckUndelete(change(5, 3)), "version 3 logs in as user ", taken, "vault write hyvve/rotate key=redis-url")
	w.refuses(w.kind.Undelete(t.Context(), change(5, 3)), taken)

	c := change(5, 1)
	c.Connection.Options[fieldUsername] = "app"
	w.refuses(w.kind.CheckUndelete(c), "connection main logs in as app, the user of version 1", ownAdmin)

	w.key.Options[optionStrategy] = dualPassword
	w.ok(w.kind.CheckUndelete(change(5, 3)))
	w.refuses(w.kind.CheckUndelete(change(5, 5)), "has the password of version 5")
	w.refuses(w.kind.CheckUndelete(change(5, 4)), "strategy=dual_password keeps the user", "give its client the current value")
	c = change(5, 3)
	c.Connection.Options[fieldUsername], err = w.kind.Login(c.To.Value)
	w.ok(err)
	w.ok(w.kind.CheckUndelete(c)) // it logs in with another password
}
