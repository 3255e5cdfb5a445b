// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const thirdPassword = "third-password-of-the-application"

// passwords are how many a user has at a server, but marks.
func (w *world) passwords(r *bed.Redis, user string) int {
	w.t.Helper()
	for line := range strings.Lines(w.do(r, "ACL", "LIST")) {
		if fields := strings.Fields(line); fields[1] == user {
			return strings.Count(line, " #") - strings.Count(line, " #"+hex.EncodeToString([]byte(markMagic)))
		}
	}
	return -1
}

// Nobody else's password goes, nor anything of what the user may do, and no session ends.
func TestDualPassword(t *testing.T) {
	t.Parallel()
	master, replica := replicated(t, bed.RedisOptions{})
	both := []*bed.Redis{master, replica}
	w := newWorld(t, master, kind.Options{optionStrategy: dualPassword})
	w.app(">"+thirdPassword+" ~app:* &* +@all -@dangerous", both...)
	rights := w.rightsOf(master, "app")
	third := key.Version{Value: key.NewValue(master.UserURL("app", thirdPassword))}
	expect := func(c kind.Change, passwords int, from, to bool) {
		t.Helper()
		w.expect(c, from, to, both...)
		for _, r := range both {
			if got := w.passwords(r, "app"); got != passwords {
				t.Errorf("the user has %d passwords, want %d", got, passwords)
			}
			if !w.valid(r, third) {
				t.Error("somebody else's password is gone")
			}
			if got := w.rightsOf(r, "app"); got != rights {
				t.Errorf("the user may %q, before %q", got, rights)
			}
		}
	}
	c := w.plan()
	one := w.client(master, c.From, "")
	expect(c, 2, true, false)
	w.ok(w.kind.Stage(t.Context(), c))
	w.unstage(c)
	expect(c, 2, true, false)
	for range 2 {
		c = w.staged()
		if !strings.HasPrefix(c.To.Value.Reveal(), "redis://app:") {
			t.Error("the new version has another user")
		}
		expect(c, 3, true, true)
		if n, what := w.inUse(c); n != 0 || !strings.Contains(what, "both versions are passwords of user app, whose sessions the server does not tell apart: leases and reports are the evidence") {
			t.Errorf("in use: %d, %s", n, what)
		}
		w.retire(c)
		expect(c, 2, false, true)
	}
	if err := one.Ping(t.Context()).Err(); err != nil {
		t.Errorf("a session was ended: %v", err)
	}
}

func TestDualPasswordOfDefault(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, kind.Options{optionStrategy: dualPassword})
	w.do(r, "ACL", "SETUSER", defaultUser, "resetpass", ">"+appPassword)
	w.adopt("redis://:" + appPassword + "@" + r.Addr + "/0")
	c := w.staged()
	if !strings.HasPrefix(c.To.Value.Reveal(), "redis://:") {
		t.Error("the new version names a user, which clients of Redis 5 do not know")
	}
	w.expect(c, true, true, r)
	w.retire(c)
	w.expect(c, false, true, r)
	w.ok(r.Stop())
	w.ok(r.Start(t.Context()))
	w.expect(c, false, true, r)
}

func TestDualPasswordIsRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, kind.Options{optionStrategy: dualPassword})
	w.do(r, "ACL", "SETUSER", "app", "on", "nopass", "+@all")
	w.adopt("redis://app@" + r.Addr)
	c := w.plan()
	w.refuses(w.kind.Stage(ctx, c), "user app is nopass", "give it one with ACL SETUSER app and a password")
	w.do(r, "ACL", "SETUSER", "app", "resetpass", "off", ">"+appPassword)
	w.adopted(r.UserURL("app", appPassword))
	c = w.plan()
	w.refuses(w.kind.Stage(ctx, c), "user app is off; turn it on with ACL SETUSER app on")
	w.do(r, "ACL", "SETUSER", "app", "on")
	c.To.Value = key.NewValue("redis://other:" + thirdPassword + "@" + r.Addr)
	w.refuses(w.kind.Stage(ctx, c), "has another user, other, than version 1, app", "strategy=dual_password keeps the user")
	c.To.Value = c.From.Value
	w.refuses(w.kind.Stage(ctx, c), "have the same password; rotate without value=")
	w.ok(w.kind.Unstage(ctx, c))
	if !w.valid(r, c.From) {
		t.Error("withdrawing what was refused has taken the old password away")
	}
}

// Replicas that log in with the password that goes would lose their master.
func TestDualPasswordOfReplicas(t *testing.T) {
	t.Parallel()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, kind.Options{optionStrategy: dualPassword})
	for _, r := range []*bed.Redis{master, replica} {
		w.do(r, "ACL", "SETUSER", defaultUser, "resetpass", ">"+appPassword)
	}
	w.replicates(master, replica, "", appPassword)
	w.adopt("redis://:" + appPassword + "@" + master.Addr)
	c := w.staged()
	w.eventually(func() bool { n, _ := w.inUse(c); return n == 1 }, func() string { return "the replica is not counted" })
	if _, what := w.inUse(c); !strings.Contains(what, "(a replica)") || !strings.Contains(what, "give replicas one of their own, with masteruser and masterauth") {
		t.Errorf("in use: %s", what)
	}
	if n, what := w.inUse(w.change(c.To, c.From)); n != 0 { // going back takes away what no replica has
		t.Errorf("in use, going back: %d, %s", n, what)
	}
	w.replicates(master, replica, "admin", master.AdminPassword)
	w.retire(c)
	w.expect(c, false, true, master, replica)
}
