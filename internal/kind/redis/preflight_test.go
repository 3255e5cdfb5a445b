// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Preflight reports what a later step would fail at, before the first change, and changes nothing itself.
func TestPreflight(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := rooted(t, administratorRule, master, replica)
	w.app("~* +@all", master, replica)
	c := w.plan()
	before := w.rules(master) + w.rules(replica)
	blocked := func(c kind.Change, words ...string) {
		t.Helper()
		blockers, notes, err := w.kind.Preflight(ctx, c)
		w.ok(err)
		if len(blockers) != len(words) || len(notes) != 0 {
			t.Fatalf("blockers %q, notes %q", blockers, notes)
		}
		for i, word := range words {
			if !strings.Contains(blockers[i], word) {
				t.Errorf("blocker %q does not say %q", blockers[i], word)
			}
		}
	}
	blocked(c)
	for rule, need := range map[string]string{
		"acl|deluser": "may not run ACL DELUSER", "client|list": "may not run CLIENT LIST", "acl|setuser": "may not run ACL SETUSER",
	} {
		w.do(replica, "ACL", "SETUSER", "root", "-"+rule)
		blocked(c, "node "+replica.Addr+": user root "+need+"; grant it with: ACL SETUSER root +"+rule)
		w.do(replica, "ACL", "SETUSER", "root", "+"+rule)
	}
	w.do(master, "ACL", "SETUSER", "root", "-client|kill")
	blocked(c)
	cut := c
	cut.Cut = true
	blocked(cut, "grant it with: ACL SETUSER root +client|kill")
	w.do(master, "ACL", "SETUSER", "root", "+client|kill")
	blocked(cut)

	w.do(replica, "ACL", "SETUSER", "redis_url_a", "on", ">somebodys", "+get")
	blocked(c, "node "+replica.Addr+": there is a user redis_url_a already that this key has not made")
	w.do(replica, "ACL", "DELUSER", "redis_url_a")
	w.do(replica, "ACL", "DELUSER", "app")
	_, notes, err := w.kind.Preflight(ctx, c)
	w.ok(err)
	if len(notes) != 1 || !strings.Contains(notes[0], "node "+replica.Addr+" has no user app of version 1") {
		t.Errorf("notes %q", notes)
	}
	w.do(master, "ACL", "DELUSER", "app")
	blockers, _, err := w.kind.Preflight(ctx, c)
	w.ok(err)
	if len(blockers) != 1 || !strings.Contains(blockers[0], "user app of version 1 is at no node") {
		t.Errorf("blockers %q", blockers)
	}
	for _, r := range []*bed.Redis{master, replica} {
		w.do(r, "ACL", "SETUSER", "app", "on", ">"+appPassword, "~*", "+@all")
	}
	brought := c
	brought.To.Value = key.NewValue(master.UserURL("theirs", appPassword))
	blocked(brought, "user theirs of version 2, which an operator brought, is not valid there", "user theirs of version 2")
	if after := w.rules(master) + w.rules(replica); after != before {
		t.Errorf("users before:\n%s\nand after:\n%s", before, after)
	}
	w.ok(w.kind.Stage(ctx, c))
	blocked(c) // once more, after a crash

	connection := w.connection
	connection.Options = kind.Options{login.FieldURL: master.UserURL("root", rootPassword)}
	c.Connection, err = w.kind.NormalizeConnection(connection)
	w.ok(err)
	blocked(c, `names a node at "`+replica.Addr+`", which is not allowed`)
	w.ok(replica.Pause())
	connection.Options = kind.Options{login.FieldURL: master.UserURL("root", rootPassword), fieldNodes: replica.Addr, fieldTimeout: short}
	c.Connection, err = w.kind.NormalizeConnection(connection)
	w.ok(err)
	_, _, err = w.kind.Preflight(ctx, c)
	w.ok(replica.Resume())
	w.refuses(err, "node "+replica.Addr+" did not answer in time")
}
