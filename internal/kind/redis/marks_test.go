// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func TestMark(t *testing.T) {
	t.Parallel()
	for _, m := range []mark{
		{}, markOf(key.Key{Name: "redis-url", Mount: "abcdef"}, 7), {mount: "m", version: maxVersion, kept: true},
	} {
		got, ok := readMark(m.digest())
		if !ok || got != m || len(m.digest()) != 64 {
			t.Errorf("%+v is read as %+v, %t", m, got, ok)
		}
		changed := []byte(m.digest())
		changed[45] ^= 1
		if _, ok := readMark(string(changed)); ok {
			t.Errorf("%s is taken for a mark", changed)
		}
	}
	if _, ok := readMark(digest(key.NewValue("x"))); ok {
		t.Error("a password is taken for a mark")
	}
	if markOf(key.Key{Name: "a.b"}, 1).of(key.Key{Name: "a-b"}) {
		t.Error("two keys have the same mark")
	}
}

// mounted is another key of the same name in another mount, at the same server.
func (w *world) mounted(mount string) *world {
	other := *w
	other.key.Mount = mount
	other.key.Versions = nil
	return &other
}

// A locked user cannot be logged in as by its mark, also if somebody turns it on.
func TestMarkIsNoPassword(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{Users: bed.UsersInACLFile})
	w := newWorld(t, r, nil)
	w.app("~* +@all")
	c := w.staged()
	w.retire(c)
	own := markOf(w.key, 1).digest()
	if !strings.Contains(w.do(r, "ACL", "LIST"), "user app off #"+own) {
		t.Errorf("the locked user has no mark: %s", w.do(r, "ACL", "LIST"))
	}
	w.ok(r.Stop())
	w.ok(r.Start(t.Context()))
	if !strings.Contains(w.do(r, "ACL", "LIST"), "#"+own) {
		t.Error("the mark is lost with a restart")
	}
	w.do(r, "ACL", "SETUSER", "app", "on")
	for _, password := range []string{own, markMagic, "", appPassword} {
		if _, err := r.DoAs(t.Context(), "app", password, "PING"); err == nil {
			t.Errorf("%q logs in", password)
		}
	}
}

// Two mounts with keys of the same name share a server. Neither touches a user of the other.
func TestTwoMounts(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	one := newWorld(t, r, nil).mounted("aaaaaa")
	one.app("~* +@all")
	two := one.mounted("bbbbbb")
	r2 := r.UserURL("app2", appPassword)
	two.do(r, "ACL", "SETUSER", "app2", "on", ">"+appPassword, "~*", "+@all")
	two.adopt(r2)
	for range 4 {
		c1, c2 := one.staged(), two.staged()
		one.expect(c1, true, true, r)
		two.expect(c2, true, true, r)
		one.retire(c1)
		two.expect(c2, true, true, r)
		two.retire(c2)
		one.expect(c1, false, true, r)
		two.expect(c2, false, true, r)
	}
	if c := one.plan(); !strings.Contains(c.To.Value.Reveal(), "//redis_url_aaaaaa_") {
		t.Error("the user's name does not contain the mount")
	}
}

// With the same username= two keys want the same users. The second one is refused, in each of its steps.
func TestUserOfAnotherMount(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	one := newWorld(t, r, kind.Options{kind.OptionUsername: "shared"}).mounted("aaaaaa")
	one.app("~* +@all")
	two := one.mounted("bbbbbb")
	two.do(r, "ACL", "SETUSER", "app2", "on", ">"+appPassword, "~*", "+@all")
	two.adopt(r.UserURL("app2", appPassword))
	first, second := one.staged(), two.plan()
	refused := func(when string) {
		t.Helper()
		before := one.rules(r)
		two.refuses(two.kind.Stage(ctx, second), `user shared_a belongs to a key of another mount ("aaaaaa"; this one is "bbbbbb"), by its mark`, "username=")
		w := second
		w.Cut = true
		two.ok(two.kind.Unstage(ctx, w))
		if after := one.rules(r); after != before {
			t.Errorf("%s: users before:\n%s\nand after:\n%s", when, before, after)
		}
	}
	refused("in use")
	one.retire(first)
	next := one.staged()
	one.retire(next)
	refused("locked") // shared_a is locked by now
	// An imported user that is another key's is not locked, and not staged beside.
	three := one.mounted("cccccc")
	three.key.Options = kind.Options{kind.OptionUsername: "third", optionStrategy: alternating, login.OptionVerify: "true"}
	three.adopt(next.To.Value.Reveal())
	c := three.plan()
	three.refuses(three.kind.Stage(ctx, c), "user shared_b belongs to a key of another mount", "take the mark away: ACL SETUSER shared_b !")
	three.refuses(three.kind.Retire(ctx, c), "user shared_b belongs to")
	one.expect(next, false, true, r)
}

// Vault was restored from a snapshot: the server knows newer versions. Nothing is changed there.
func TestServerIsAhead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for behind := 1; behind <= 3; behind++ {
		r := start(t, bed.RedisOptions{})
		w := newWorld(t, r, nil).mounted("aaaaaa")
		w.app("~* +@all")
		for range 4 - behind {
			w.retire(w.staged())
		}
		old := w.key
		var latest kind.Change
		for range behind {
			latest = w.staged()
			w.retire(latest)
		}
		one := w.client(r, latest.To, "")
		before := w.rules(r)
		w.key = old
		c := w.plan()
		w.refuses(w.kind.Stage(ctx, c), "the server is ahead of Vault", "hyvve/keys/redis-url/reconcile")
		w.ok(w.kind.Unstage(ctx, c))
		w.kind.Retire(ctx, c) //nolint:errcheck // it may have nothing to do
		if after := w.rules(r); after != before {
			t.Errorf("%d behind: users before:\n%s\nand after:\n%s", behind, before, after)
		}
		w.ok(one.Ping(ctx).Err())
	}
}

// What releases before marks have made continues: the pair of today's names, one of it locked without a mark.
func TestUsersOfEarlierReleases(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, options := range []kind.Options{nil, {kind.OptionUsername: "shared"}} {
		r := start(t, bed.RedisOptions{})
		w := newWorld(t, r, options).mounted("aaaaaa")
		base := "redis_url"
		if options != nil {
			base = "shared"
		}
		w.do(r, "ACL", "SETUSER", base+"_a", "on", ">"+appPassword, "~*", "+@all")
		w.do(r, "ACL", "SETUSER", base+"_b", "off", "resetpass", "~*", "+@all")
		w.adopt(r.UserURL(base+"_a", appPassword))
		// A rotation that an earlier release has begun.
		c := w.plan()
		var err error
		c.To.Value, err = w.kind.Generate(rand.Reader, key.Key{Name: w.key.Name, Options: w.key.Options}, c.From.Value)
		w.ok(err)
		w.ok(w.kind.Stage(ctx, c))
		w.ok(w.kind.Verify(ctx, c))
		if !strings.Contains(c.To.Value.Reveal(), base+"_b") {
			t.Error("the version is not of the other user of the pair")
		}
		w.unstage(c)
		for range 3 {
			c = w.staged()
			w.retire(c)
			w.expect(c, false, true, r)
		}
		if want := userNames.Of(w.key); !strings.Contains(c.To.Value.Reveal(), want[0]) && !strings.Contains(c.To.Value.Reveal(), want[1]) {
			t.Error("the pair is that of earlier releases still")
		}
	}
	// The same names, and nothing that shows whose they are.
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, kind.Options{kind.OptionUsername: "shared"}).mounted("aaaaaa")
	w.do(r, "ACL", "SETUSER", "shared_a", "off", "~*", "+@all")
	w.app("~* +@all")
	w.refuses(w.kind.Stage(ctx, w.plan()), "there is a user shared_a already that this key has not made")
}
