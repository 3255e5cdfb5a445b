// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Rights that somebody has taken away are a problem, which an operator mends or means. Rights that were added are his.
func TestRightsThatAreTakenAway(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil).mounted("aaaaaa")
	w.app("~app:* ~other:* &news +@all -@dangerous")
	w.retire(w.staged())
	c := w.current()
	const user = "redis_url_aaaaaa_a"
	c.Kept = w.inspect(c).Kept
	before := w.rightsOf(r, user)
	for _, rules := range [][]string{
		{"resetkeys", "resetchannels", "-@all"}, {"resetkeys", "~app:*"}, {"-get"}, {"resetchannels"},
	} {
		w.do(r, append([]string{"ACL", "SETUSER", user}, rules...)...)
		f := w.inspect(c, "user "+user+" may do less")
		if f.Kept != "" || f.Problems[0].Fixable || !f.Problems[0].Rotates || !strings.Contains(f.Problems[0].Remedy, "/reconcile gives the rights back") {
			t.Errorf("%v: %+v", rules, f)
		}
		w.restore(c, r)
		if got := w.rightsOf(r, user); got != before {
			t.Errorf("after %v it may %s, and not %s", rules, got, before)
		}
	}
	w.do(r, "ACL", "SETUSER", user, "resetkeys", "~app:*", "-get")
	f := w.inspect(c, "may do less")
	_, rules, _ := strings.Cut(f.Problems[0].Remedy, "rules=")
	meant := c
	var err error
	meant.Key.Options, err = w.kind.Normalize(kind.Options{kind.OptionConnection: "main", optionRules: strings.Trim(rules, "'")})
	w.ok(err)
	if f := w.inspect(meant); !strings.Contains(f.Kept, "-get") {
		t.Errorf("what is meant is not kept: %+v", f)
	}
	w.restore(c, r)

	w.do(r, "ACL", "SETUSER", user, "~third:*", "+keys", "~*", "&*", "+@all") // more than it had
	if f := w.inspect(c); !strings.Contains(f.Kept, "~*") {
		t.Errorf("%+v", f)
	}
	// What a release before has kept says nothing of whose rights they were.
	w.do(r, "ACL", "SETUSER", user, "resetkeys")
	c.Kept = `["~app:*","resetchannels","+@all"]`
	w.inspect(c)
	if done, err := w.kind.Restore(ctx, c, false); err != nil || len(done) > 0 {
		t.Errorf("%q, %v", done, err)
	}
}

// A user with nopass is a problem. Before an operator ends it, a warning names the clients that will be refused.
func TestUserThatBecameNopass(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil).mounted("aaaaaa")
	w.app("~app:* +@all -@dangerous")
	w.retire(w.staged())
	c := w.current()
	const user = "redis_url_aaaaaa_a"
	w.do(r, "ACL", "SETUSER", user, "nopass")
	f := w.inspect(c, "user "+user+" is nopass")
	if f.Problems[0].Fixable || !strings.Contains(f.Problems[0].Remedy, "are refused from then on") {
		t.Errorf("%+v", f)
	}
	would, err := w.kind.Restore(t.Context(), c, true)
	w.ok(err)
	if len(would) != 1 || !strings.Contains(would[0], "are refused from then on") {
		t.Errorf("%q", would)
	}
	w.restore(c, r)
	if got := w.do(r, "ACL", "GETUSER", user); strings.Contains(got, "nopass") {
		t.Error("it is nopass still")
	}
	w.retire(w.staged()) // the mark is there again
}

// A journal keeps rules, but no password that somebody has put among them.
func TestPublicRules(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		defaultRules: defaultRules,
		"~app:* >S3CRET +@all (~x #S3CRET) (<S3CRET": "~app:* (hidden) +@all (~x (hidden) (hidden)",
		"(~x +@read) (-@all !S3CRET)":                "(~x +@read) (-@all (hidden)",
		"~a\u00a0>S3CRET":                            "~a (hidden)",
		"a:S3CRET@b redis://a:S3CRET@b":              "(hidden) redis://a@b",
	} {
		if got := kind.PublicOption((&Kind{}).Fields(), optionRules, text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
