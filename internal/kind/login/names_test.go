// SPDX-License-Identifier: Apache-2.0

package login

import (
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var two = []string{"_a", "_b"}

func TestNamesAreDistinct(t *testing.T) {
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
			for _, login := range (Names{Limit: limit, Suffixes: two}).Of(k) {
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

func TestNames(t *testing.T) {
	for name, of := range map[string]struct {
		k    key.Key
		want []string
	}{
		"usual":    {key.Key{Name: "database-url", Mount: "ab23cd"}, []string{"database_url_ab23cd_a", "database_url_ab23cd_b"}},
		"username": {key.Key{Name: "database-url", Mount: "ab23cd", Options: kind.Options{kind.OptionUsername: "App"}}, []string{"App_a", "App_b"}},
		"hashed":   {key.Key{Name: "orders.db", Mount: "ab23cd"}, []string{"orders_db_ab23cd_" + key.ShortHash("orders.db") + "_a", "orders_db_ab23cd_" + key.ShortHash("orders.db") + "_b"}},
	} {
		if got := (Names{Limit: 63, Suffixes: two}).Of(of.k); !slices.Equal(got, of.want) {
			t.Errorf("%s: %q, not %q", name, got, of.want)
		}
	}
}

func TestLoginsTakeTurns(t *testing.T) {
	k := key.Key{Name: "database-url", Options: kind.Options{kind.OptionUsername: "app"}}
	names := Names{Limit: 63, Suffixes: []string{"_a", "_b", "_c"}}
	for _, of := range []struct {
		login string
		turns int
		want  string
	}{
		{"", 1, "app_a"}, {"somebody", 2, "app_b"}, {"app_a", 1, "app_b"}, {"app_c", 1, "app_a"}, {"app_b", 2, "app_a"}, {"app_a", 3, "app_b"},
	} {
		if got := names.Next(k, of.login, of.turns); got != of.want {
			t.Errorf("%d turns after %q comes %s, not %s", of.turns, of.login, got, of.want)
		}
	}
}

// A login of a release before marks is the key's, too.
func TestLoginsOfEarlierReleases(t *testing.T) {
	k := key.Key{Name: "orders.db", Mount: "ab23cd"}
	names := Names{Limit: 63, Suffixes: []string{"_a", "_b", "_c"}, Legacy: 6}
	if !names.ArePair(k, "orders_b", "orders_a") || names.ArePair(k, "orders_a", "orders_a") || names.ArePair(k, "orders_a", "orders_c") {
		t.Errorf("the pair is %q", names.Pair(k))
	}
	for login, want := range map[string]bool{"orders_a": true, "orders_c": false, names.Of(k)[2]: true, "orders_db_a": false, "": false} {
		if names.Ours(k, login) != want {
			t.Errorf("%s is the key's: %t", login, !want)
		}
	}
}
