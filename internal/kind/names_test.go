// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func TestLoginNamesAreDistinct(t *testing.T) {
	const limit = 63
	alike := strings.Repeat("n", 61)
	names := []string{
		"orders-db", "orders.db", "orders_db", "orders-db-a", "orders-db.a", alike + "one", alike + "two", alike, "n", "a", "a-a", "a.a",
		strings.Repeat("n", 54), strings.Repeat("n", 55), strings.Repeat("n", 47), strings.Repeat("n", 48), strings.Repeat("-a", 60)[1:],
	}
	seen := map[string]string{}
	for _, mount := range []string{"aaaaaa", "bbbbbb"} {
		for _, name := range names {
			k := key.Key{Name: name, Mount: mount}
			for _, login := range LoginNames(k, limit) {
				if of := mount + "/" + name; seen[login] != "" {
					t.Errorf("%s and %s have the same login %s", seen[login], of, login)
				} else {
					seen[login] = of
				}
				if len(login) > limit {
					t.Errorf("key %s: login %s has %d bytes", name, login, len(login))
				}
				if readable := strings.NewReplacer("-", "_", ".", "_").Replace(name); len(readable) <= 47 && !strings.HasPrefix(login, readable+"_") {
					t.Errorf("key %s: login %s does not begin with the key's name", name, login)
				}
			}
		}
	}
}

func TestLoginNames(t *testing.T) {
	for name, of := range map[string]struct {
		k    key.Key
		want [2]string
	}{
		"usual":    {key.Key{Name: "database-url", Mount: "ab23cd"}, [2]string{"database_url_ab23cd_a", "database_url_ab23cd_b"}},
		"username": {key.Key{Name: "database-url", Mount: "ab23cd", Options: Options{OptionUsername: "App"}}, [2]string{"App_a", "App_b"}},
		"hashed":   {key.Key{Name: "orders.db", Mount: "ab23cd"}, [2]string{"orders_db_ab23cd_" + key.ShortHash("orders.db") + "_a", "orders_db_ab23cd_" + key.ShortHash("orders.db") + "_b"}},
	} {
		if got := LoginNames(of.k, 63); got != of.want {
			t.Errorf("%s: %q, not %q", name, got, of.want)
		}
	}
}
