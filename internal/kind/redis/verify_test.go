// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Of a URL nothing changes but user and password, whatever rides on it.
func TestURLsSurvive(t *testing.T) {
	k := New()
	for _, rest := range []string{
		"cache", "cache:6379", "cache:6379/", "cache:6379/0", "cache/7?family=6&tls=true", "[::1]:7000/1?a=%2f&A=%2F&&b=#c", "a:1,b:2,c:3/0?replicaSet=x%20y+z", "cache?db=3",
	} {
		for _, scheme := range urls.Schemes {
			for _, info := range []string{"", "app:p%40ss@", ":p%3Ass@", "app@", "d%c3%a9faut:x@"} {
				options, err := k.Normalize(kind.Options{login.OptionURLs: "QUEUE_URL=" + scheme + "://queue:1/" + strings.Repeat("1", 2) + "?q=%2f B_URL=redis://b"})
				if err != nil {
					t.Fatal(err)
				}
				of := key.Key{Name: "redis-url", Options: options}
				from := key.NewValue(scheme + "://" + info + rest)
				if _, err := k.Check(options, from); err != nil {
					t.Errorf("%s: %v", rest, err)
				}
				to, err := k.Generate(rand.Reader, of, from)
				if err != nil {
					t.Fatal(err)
				}
				u, err := dsn.Parse(to.Reveal(), urls.Schemes...)
				if err != nil || u.Scheme != scheme || u.Rest != rest || u.User != "redis_url_a" || u.Password.Len() != 43 {
					t.Errorf("%s://%s%s becomes %s, %v", scheme, info, rest, u, err)
				}
				rendered, err := k.Render(options, key.Version{Value: to})
				queue := scheme + "://redis_url_a:" + u.Password.Reveal() + "@queue:1/11?q=%2f"
				if err != nil || rendered["QUEUE_URL"].Reveal() != queue || len(rendered) != 2 || strings.Join(k.Names(options), " ") != "B_URL QUEUE_URL" {
					t.Errorf("further names of %s: %v", rest, err)
				}
				if rendered, err := k.Render(options, key.Version{Value: key.NewValue("redis://cache")}); err != nil || rendered["B_URL"].Reveal() != "redis://b" {
					t.Errorf("further names of a URL without credentials: %v", err)
				}
			}
		}
	}
}

// Workloads' own URLs are tried, each with its database, before anybody is given them.
func TestVerifyTriesTheURLs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	other := start(t, bed.RedisOptions{}) // that the connection does not know
	for _, tt := range []struct {
		name    string
		options kind.Options
		rest    string
		words   []string
	}{
		{"fine", kind.Options{login.OptionURLs: "QUEUE_URL=redis://" + r.Addr + "/3"}, "/2?x=y", nil},
		{"a database that there is not", nil, "/99", []string{"REDIS_URL: node " + r.Addr + " says to SELECT: ERR DB index is out of range; write a database that there is, in the place of 99"}},
		{"another server", kind.Options{login.OptionURLs: "QUEUE_URL=redis://" + other.Addr}, "", []string{"QUEUE_URL: node " + other.Addr + " refuses user redis_url_a", "is it another server than those of connection main?"}},
		{"nobody there", kind.Options{login.OptionURLs: "QUEUE_URL=redis://127.0.0.1:1"}, "", []string{"QUEUE_URL: node 127.0.0.1:1 cannot be reached", "vault write hyvve/keys/redis-url verify_urls=false"}},
		{"TLS where there is none", kind.Options{login.OptionURLs: "QUEUE_URL=rediss://" + r.Addr}, "", []string{"QUEUE_URL: node " + r.Addr + " did not answer in time when TLS was to begin", "write redis://", "verify_urls=false"}},
		{"on trust", kind.Options{login.OptionURLs: "QUEUE_URL=redis://127.0.0.1:1", login.OptionVerify: "false"}, "/99", nil},
	} {
		w := newWorld(t, r, tt.options)
		w.connect(kind.Options{login.FieldURL: r.AdminURL(), fieldTimeout: short})
		w.app("~* +@all")
		w.adopted(r.UserURL("app", appPassword) + tt.rest)
		c := w.plan()
		if err := w.kind.Verify(ctx, c); err == nil {
			t.Errorf("%s: what was never staged is valid", tt.name)
		}
		if w.valid(r, c.To) {
			t.Errorf("%s: Verify has made the new version valid", tt.name)
		}
		w.ok(w.kind.Stage(ctx, c))
		if err := w.kind.Verify(ctx, c); tt.words == nil {
			w.ok(err)
		} else {
			w.refuses(err, tt.words...)
			if far := strings.Contains(err.Error(), "cannot be reached") || strings.Contains(err.Error(), "in time"); strings.Contains(err.Error(), "verify_urls") != far {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		w.unstage(c)
	}
}

// A value with a wrong password is refused in one sentence, and without a way around the check.
func TestImportWithAWrongPassword(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* +@all")
	err := w.kind.Verify(t.Context(), kind.Change{Key: w.key, To: key.Version{Number: 1, Value: key.NewValue(r.UserURL("app", "wrong"))}, Connection: w.connection})
	w.refuses(err, "node "+r.Addr+" refuses user app: the password is wrong, or the user is off or not there")
	if strings.Count(err.Error(), "refuses") != 1 || strings.Contains(err.Error(), "verify_urls") {
		t.Errorf("error: %v", err)
	}
}

// The wrong protocol is named, and not only that nothing came back.
func TestAnotherProtocol(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	plain, secure := start(t, bed.RedisOptions{}), start(t, bed.RedisOptions{TLS: true})
	postgres, err := bed.ForTest(t).Postgres(ctx)
	if err != nil {
		t.Fatal(err)
	}
	u, err := dsn.Parse(postgres.AdminURL("postgres"), "postgresql")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, plain, nil)
	for url, words := range map[string][]string{
		"rediss://admin:x@" + plain.Addr: {"did not answer in time when TLS was to begin", "write redis://"},
		"redis://admin:x@" + secure.Addr: {"cannot be reached: it closed the connection", "does it want TLS (rediss://)?"},
		"redis://admin:x@" + u.Host():    {"cannot be reached: it closed the connection", "is it a Redis server"},
		"rediss://admin:x@" + u.Host():   {"cannot be reached: it closed the connection", "is it a Redis server with TLS?"},
	} {
		w.connect(kind.Options{login.FieldURL: url, fieldTimeout: short})
		_, err := w.kind.CheckConnection(ctx, w.connection)
		w.refuses(err, words...)
	}
}

// A database that is no number is refused where it is written.
func TestDatabaseIsANumber(t *testing.T) {
	k := New()
	for rest, good := range map[string]bool{"": true, "/": true, "/0": true, "/15": true, "?db=3": true, "/abc": false, "/-1": false, "?db=x": false} {
		_, err := k.Check(nil, key.NewValue("redis://app:pw@h:1"+rest))
		_, also := k.Normalize(kind.Options{login.OptionURLs: "QUEUE_URL=redis://h:1" + rest})
		if (err == nil) != good || (also == nil) != good || err != nil && !strings.Contains(err.Error(), "is not a number") {
			t.Errorf("%q: %v, %v", rest, err, also)
		}
	}
}

// A user that may hardly do anything is logged in nevertheless.
func TestVerifyOfAUserWithoutRights(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("-@all")
	w.retire(w.staged())
}

func TestFirstVersion(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	for strategy, user := range map[string]string{alternating: "fresh_a", dualPassword: "fresh"} {
		w := newWorld(t, r, kind.Options{optionStrategy: strategy, kind.OptionUsername: "fresh", login.OptionURL: "redis://" + r.Addr + "/1", optionRules: "~fresh:* +@read +select"})
		c := w.staged()
		if n, what := w.inUse(c); n != 0 {
			t.Errorf("in use: %d, %s", n, what)
		}
		if got := w.rightsOf(r, user); !strings.Contains(got, "~fresh:*") || !strings.Contains(got, "+@read") {
			t.Errorf("%s: the user may %q", strategy, got)
		}
		w.ok(w.kind.Retire(ctx, c))
		w.ok(w.kind.Unstage(ctx, c))
		if got := w.users(r, defaultUser); len(got) != 0 {
			t.Errorf("%s: %v are left", strategy, got)
		}
	}
	w := newWorld(t, r, nil)
	if _, err := w.kind.Generate(rand.Reader, w.key, key.Value{}); err == nil || !strings.Contains(err.Error(), "url is empty") {
		t.Errorf("no URL: %v", err)
	}
	w = newWorld(t, r, kind.Options{login.OptionURL: "redis://" + r.Addr, optionRules: "+no-such-command"})
	c := w.plan()
	w.refuses(w.kind.Stage(ctx, c), "node "+r.Addr+" says to ACL SETUSER", "Unknown command or category name")
	w.ok(w.kind.Unstage(ctx, c))
	w = newWorld(t, r, nil)
	w.adopt(r.UserURL("nobody", appPassword))
	w.refuses(w.kind.Stage(ctx, w.plan()), "user nobody of version 1 is at no node of connection main; is it the connection of another server?")
}

// A value that an operator brings is as the operator has made it: looked at, and not changed.
func TestValueOfAnOperator(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.app("~* +@all", master, replica)
	w.do(master, "ACL", "SETUSER", "brought", "on", ">"+thirdPassword, "+@all")
	c := w.plan()
	c.To.Value = key.NewValue(master.UserURL("brought", thirdPassword))
	w.ok(w.kind.Stage(ctx, c))
	w.refuses(w.kind.Verify(ctx, c), "node "+replica.Addr+" refuses user brought")
	w.refuses(w.kind.Retire(ctx, c), "node "+replica.Addr, "user brought of version 2, which an operator brought, is not valid there; make it so")
	if !w.valid(replica, c.From) {
		t.Error("the old version was taken away where the new one is not valid")
	}
	w.ok(w.kind.Unstage(ctx, c))
	w.do(master, "ACL", "SETUSER", "app", "on", ">"+appPassword)
	w.do(replica, "ACL", "SETUSER", "brought", "on", ">"+thirdPassword, "+@all")
	w.ok(w.kind.Verify(ctx, c))
	w.retire(c)
	w.expect(c, false, true, master, replica)
}
