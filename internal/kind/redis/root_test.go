// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	rootPassword = "password-of-the-root"
	nextPassword = "next-password-of-the-root"
)

// rooted is a world whose connection logs in as a user of its own.
func rooted(t testing.TB, rules string, on ...*bed.Redis) *world {
	t.Helper()
	w := newWorld(t, on[0], nil)
	for _, r := range on {
		w.do(r, append([]string{"ACL", "SETUSER", "root", "on", ">" + rootPassword}, strings.Fields(rules)...)...)
	}
	w.connect(kind.Options{login.FieldURL: on[0].UserURL("root", rootPassword)})
	return w
}

// logsIn reports whether the root does with a password.
func (w *world) logsIn(r *bed.Redis, user, password string) bool {
	_, err := r.DoAs(w.t.Context(), user, password, "PING")
	return err == nil || !strings.Contains(err.Error(), "WRONGPASS")
}

func TestRotateRoot(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{Users: bed.UsersInACLFile})
	w := rooted(t, "+@all >third-password-of-the-root", master, replica)
	w.connection.Next = key.NewValue(nextPassword)
	for range 2 { // the second time the engine did not hear of the first
		w.ok(w.kind.RotateRoot(ctx, w.connection))
	}
	for _, r := range []*bed.Redis{master, replica} {
		w.ok(r.Stop())
		w.ok(r.Start(ctx))
		for password, want := range map[string]bool{rootPassword: false, nextPassword: true, "third-password-of-the-root": true} {
			if w.logsIn(r, "root", password) != want {
				t.Errorf("%s: %s logs in: %t", r.Addr, password, !want)
			}
		}
	}
	// Next is stored still, and in force.
	_, err := w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
	w.connection.Secrets[kind.FieldPassword], w.connection.Next = w.connection.Next, key.Value{}
	w.connection.Revision++
	_, err = w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
}

// A crash in the middle leaves nodes of which some have the new password beside the old, and others not.
func TestRotateRootAfterACrash(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, tt := range []struct{ name, master, replica string }{
		{"nothing was done", "", ""},
		{"one has both", ">" + nextPassword, ""},
		{"one has the new", ">" + nextPassword + " <" + rootPassword, ">" + nextPassword},
		{"all have the new", ">" + nextPassword + " <" + rootPassword, ">" + nextPassword + " <" + rootPassword},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			master, replica := replicated(t, bed.RedisOptions{})
			w := rooted(t, "+@all", master, replica)
			w.connection.Next = key.NewValue(nextPassword)
			for r, rules := range map[*bed.Redis]string{master: tt.master, replica: tt.replica} {
				w.do(r, append([]string{"ACL", "SETUSER", "root"}, strings.Fields(rules)...)...)
			}
			w.app("~* +@all", master, replica)
			c := w.staged() // rotations go on with either of the two
			w.ok(w.kind.RotateRoot(ctx, w.connection))
			for _, r := range []*bed.Redis{master, replica} {
				if w.logsIn(r, "root", rootPassword) || !w.logsIn(r, "root", nextPassword) {
					t.Errorf("%s: the new password is not the only one", r.Addr)
				}
			}
			w.retire(c)
		})
	}
}

func TestRotateRootIsRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	notes, err := w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
	if !strings.Contains(strings.Join(notes, "\n"), "replicate as the administrator, user admin: rotate-root is refused until") {
		t.Errorf("notes: %q", notes)
	}
	w.connection.Next = key.NewValue(nextPassword)
	w.refuses(w.kind.RotateRoot(ctx, w.connection), "node "+master.Addr, "127.0.0.1:", "replicate as user admin, with the password that would go", "masteruser and masterauth")
	if !w.logsIn(master, "admin", master.AdminPassword) || w.logsIn(master, "admin", nextPassword) || w.logsIn(replica, "admin", nextPassword) {
		t.Error("a refused rotation has changed passwords")
	}

	r := start(t, bed.RedisOptions{})
	w = rooted(t, "+@all", r)
	w.connection.Next = key.NewValue(nextPassword)
	w.do(r, "ACL", "SETUSER", "root", "nopass")
	w.refuses(w.kind.RotateRoot(ctx, w.connection), "user root is nopass", "ACL SETUSER root resetpass")
	w.connection.Next = key.Value{}
	w.refuses(w.kind.RotateRoot(ctx, w.connection), "there is no next password")
}

// requirepass is the password of default, which the configuration file keeps in the clear: the user's own line wins.
func TestRotateRootOfRequirepass(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.do(r, "CONFIG", "SET", "requirepass", rootPassword)
	w.do(r, "CONFIG", "REWRITE")
	if !strings.Contains(read1(t, r.ConfigPath), "requirepass") {
		t.Fatal("the configuration has no requirepass: this test proves nothing")
	}
	w.connect(kind.Options{login.FieldURL: r.UserURL("", rootPassword)})
	w.connection.Next = key.NewValue(nextPassword)
	w.ok(w.kind.RotateRoot(ctx, w.connection))
	w.ok(r.Stop())
	w.ok(r.Start(ctx))
	if w.logsIn(r, defaultUser, rootPassword) || !w.logsIn(r, defaultUser, nextPassword) {
		t.Error("after a restart the new password is not the only one")
	}
}

func TestAdministratorsPasswordChangedBehindOurBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := rooted(t, "+@all", r)
	w.app("~* +@all")
	c := w.plan()
	w.do(r, "ACL", "SETUSER", "root", ">changed-by-somebody", "<"+rootPassword)
	err := w.kind.Stage(ctx, c)
	w.refuses(err, "node "+r.Addr+" refuses user root: the password is wrong", "hyvve/connections/main", "password=-")
	if strings.Contains(err.Error(), rootPassword) {
		t.Errorf("error %q holds the administrator's password", err)
	}
	w.connect(kind.Options{login.FieldURL: r.UserURL("root", "changed-by-somebody")})
	c.Connection = w.connection
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
}

// A node without persistence is started again, and has forgotten its users, the administrator among them, whose password
// nobody knows. The remedy, as it is printed, lets the administrator in, and then there is one remedy for the key.
func TestAdministratorIsForgotten(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{Users: bed.UsersInMemory})
	w := rooted(t, adminRights, r)
	w.app("~app:* +@all -@dangerous")
	w.retire(w.staged())
	c := w.current()
	c.Kept = w.inspect(c).Kept
	w.connection.Next = key.NewValue(nextPassword)
	w.ok(w.kind.RotateRoot(ctx, w.connection))
	r.Kill()
	w.ok(r.Start(ctx))
	_, err := w.kind.Inspect(ctx, c)
	w.refuses(err, "has the node been started again without its users?", "vault write hyvve/connections/main password=-")
	statement, _, _ := strings.Cut(err.Error()[strings.Index(err.Error(), "ACL SETUSER root"):], ";")
	w.do(r, strings.Fields(strings.ReplaceAll(statement, "PASSWORD", "of-my-choice"))...)
	w.connect(kind.Options{login.FieldURL: r.UserURL("root", "of-my-choice")})
	if _, err := w.kind.CheckConnection(ctx, w.connection); err != nil {
		t.Fatal(err)
	}
	c.Connection = w.connection
	w.inspect(c, "there is no user redis_url_a")
	next := w.plan()
	next.Kept = c.Kept
	if blockers, _, err := w.kind.Preflight(ctx, next); err != nil || len(blockers) != 0 {
		t.Errorf("a second remedy: %q, %v", blockers, err)
	}
	w.restore(c, r)
}

// The rule in the documentation is all that an administrator needs.
const administratorRule = adminRights

func TestAdministratorWithTheDocumentedRule(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	if !strings.Contains(read1(t, "../../../docs/redis.md"), administratorRule) {
		t.Error("docs/redis.md does not give the rule that this test proves")
	}
	for _, users := range []bed.RedisUsers{bed.UsersInConfig, bed.UsersInACLFile} {
		master, replica := replicated(t, bed.RedisOptions{Users: users})
		w := rooted(t, administratorRule, master, replica)
		w.app("~* &* +@all", master, replica)
		notes, err := w.kind.CheckConnection(ctx, w.connection)
		w.ok(err)
		if len(notes) != 0 {
			t.Errorf("notes: %q", notes)
		}
		c := w.staged()
		w.unstage(c)
		c = w.staged()
		w.unused(c)
		c.Cut = true
		w.retire(c)
		w.expect(c, false, true, master, replica)
		_, _, err = w.kind.Refusals(ctx, c, "app", time.Hour)
		w.ok(err)
		w.connection.Next = key.NewValue(nextPassword)
		w.ok(w.kind.RotateRoot(ctx, w.connection))
		if log := w.do(master, "ACL", "LOG"); strings.Contains(log, "root") {
			t.Errorf("the server has denied something: %s", log)
		}
	}
}

// What is missing is named when the connection is written, all at once.
func TestAdministratorWithLess(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	for _, tt := range []struct {
		rules string
		err   []string
		notes []string
	}{
		{"+ping", []string{"node " + r.Addr, "user root may not run INFO, ACL GETUSER, ACL SETUSER, ACL DELUSER, CLIENT LIST", "ACL SETUSER root +info +acl|getuser +acl|setuser +acl|deluser +client|list"}, nil},
		{administratorRule + " -acl|setuser", []string{"may not run ACL SETUSER; grant it with: ACL SETUSER root +acl|setuser"}, nil},
		{administratorRule + " -client|kill", nil, []string{"may not run CLIENT KILL", "compromised=true", "+client|kill"}},
		{administratorRule + " -acl|log", nil, []string{"may not run ACL LOG", "tries a user that is retired", "+acl|log"}},
		{administratorRule + " -config|rewrite", nil, []string{"ACL users on " + r.Addr + " are lost when it restarts", "+config|rewrite"}},
		{administratorRule + " -config|get", nil, []string{"ACL users on " + r.Addr + " are lost when it restarts", "+config|get"}},
	} {
		w := newWorld(t, r, nil)
		w.do(r, "ACL", "DELUSER", "root")
		w = rooted(t, tt.rules, r)
		notes, err := w.kind.CheckConnection(ctx, w.connection)
		if tt.err != nil {
			w.refuses(err, tt.err...)
			continue
		}
		w.ok(err)
		for _, word := range tt.notes {
			if !strings.Contains(strings.Join(notes, "\n"), word) {
				t.Errorf("%s: notes %q do not say %q", tt.rules, notes, word)
			}
		}
	}
	if users := newWorld(t, r, nil).users(r, defaultUser, "root"); len(users) != 0 {
		t.Errorf("looking has made users: %v", users)
	}
}
