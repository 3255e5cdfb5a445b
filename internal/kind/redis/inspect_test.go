// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// current is the question whether the current version is as it should be.
func (w *world) current() kind.Change {
	w.t.Helper()
	return w.change(key.Version{}, first(w))
}

// inspect wants some problems, each with words in it.
func (w *world) inspect(c kind.Change, words ...string) kind.Finding {
	w.t.Helper()
	f, err := w.kind.Inspect(w.t.Context(), c)
	w.ok(err)
	if len(f.Problems) != len(words) {
		w.t.Fatalf("%d problems, want %d: %+v", len(f.Problems), len(words), f.Problems)
	}
	for i, p := range f.Problems {
		if !strings.Contains(p.Text, words[i]) || p.Remedy == "" {
			w.t.Errorf("problem %q, remedy %q, want %q", p.Text, p.Remedy, words[i])
		}
	}
	return f
}

// restore mends what is wrong, after a dry run that changes nothing.
func (w *world) restore(c kind.Change, on ...*bed.Redis) {
	w.t.Helper()
	users := func() (all string) {
		for _, r := range on {
			all += w.do(r, "ACL", "LIST")
		}
		return all
	}
	before := users()
	would, err := w.kind.Restore(w.t.Context(), c, true)
	w.ok(err)
	if users() != before {
		w.t.Error("a dry run changes users")
	}
	done, err := w.kind.Restore(w.t.Context(), c, false)
	w.ok(err)
	if len(done) == 0 || strings.Join(done, "\n") != strings.Join(would, "\n") {
		w.t.Errorf("done: %q, previewed: %q", done, would)
	}
	again, err := w.kind.Restore(w.t.Context(), c, false)
	w.ok(err)
	if len(again) != 0 {
		w.t.Errorf("done once more: %q", again)
	}
	for _, r := range on {
		if !w.valid(r, c.To) {
			w.t.Errorf("the current version is not valid at %s", r.Addr)
		}
	}
	w.inspect(c)
}

func allFixable(f kind.Finding) bool {
	for _, p := range f.Problems {
		if !p.Fixable || p.Ahead {
			return false
		}
	}
	return true
}

// A server without a file forgets its users when it is started again.
func TestServerThatForgets(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{Users: bed.UsersInMemory})
	w := newWorld(t, r, nil).mounted("aaaaaa")
	w.app("~app:* +@all -@dangerous")
	w.retire(w.staged())
	c := w.current()
	f := w.inspect(c)
	if f.ServerVersion != 2 || f.Kept == "" || strings.Contains(f.Kept, "#") {
		t.Errorf("%+v", f)
	}
	r.Kill()
	w.ok(r.Start(ctx))
	f = w.inspect(c, "there is no user redis_url_aaaaaa_a, and nobody knows what it was allowed to do")
	if allFixable(f) || f.Kept != "" || !strings.Contains(f.Problems[0].Remedy, "rules=") {
		t.Errorf("%+v", f)
	}
	_, err := w.kind.Restore(ctx, c, false)
	w.refuses(err, "there is no user redis_url_aaaaaa_a", "rules= of hyvve/keys/redis-url")
	c.Kept = `["~app:*","resetchannels","+@all","-@dangerous"]`
	if f = w.inspect(c, "there is no user redis_url_aaaaaa_a"); !allFixable(f) {
		t.Errorf("%+v", f)
	}
	w.restore(c, r)
	if got := w.rightsOf(r, "redis_url_aaaaaa_a"); !strings.Contains(got, "~app:*") || !strings.Contains(got, "-@dangerous") {
		t.Errorf("the user may %q", got)
	}
	w.retire(w.staged())
	// With rules= of the key neither Restore nor a rotation needs more.
	r.Kill()
	w.ok(r.Start(ctx))
	w.key.Options[optionRules] = "~app:* +@all"
	c = w.current()
	w.restore(c, r)
	r.Kill()
	w.ok(r.Start(ctx))
	w.retire(w.staged())
	for _, text := range []string{`["nopass"]`, `[">x"]`, `["+@all","on"]`, "{}", "x", "null"} {
		if rights := kept(text); rights != nil {
			t.Errorf("%s is taken for rights: %q", text, rights)
		}
	}
}

// A node that has forgotten what others know is mended from these.
func TestReplicaThatForgets(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, strategy := range []string{alternating, dualPassword} {
		master, replica := replicated(t, bed.RedisOptions{Users: bed.UsersInMemory})
		w := newWorld(t, master, kind.Options{optionStrategy: strategy})
		w.app("~app:* +@all", master, replica)
		w.retire(w.staged())
		c := w.current()
		replica.Kill()
		w.ok(replica.Start(ctx))
		w.ok(replica.AwaitLink(ctx))
		if f := w.inspect(c, "node "+replica.Addr+": version 2, the current one, does not log in: there is no user "); !allFixable(f) {
			t.Errorf("%+v", f)
		}
		w.restore(c, master, replica)
		name := map[string]string{alternating: "redis_url_a", dualPassword: "app"}[strategy]
		rights := func(r *bed.Redis) string { return strings.TrimPrefix(w.rightsOf(r, name), "sanitize-payload ") }
		if got, want := rights(replica), rights(master); got != want {
			t.Errorf("the user may %q at the replica, %q at its master", got, want)
		}
		replica.Kill()
		_, err := w.kind.Inspect(ctx, w.withNodes(c, replica.Addr))
		w.refuses(err, "node "+replica.Addr+" cannot be reached")
	}
}

// withNodes is a change whose connection names more nodes.
func (w *world) withNodes(c kind.Change, nodes string) kind.Change {
	w.t.Helper()
	w.connect(kind.Options{login.FieldURL: w.redis.AdminURL(), fieldNodes: nodes})
	c.Connection = w.connection
	return c
}

// Vault was restored from a snapshot of one to three rotations ago. Nobody is locked out, and the next rotation succeeds.
func TestVaultIsBehind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for behind := 1; behind <= 3; behind++ {
		for _, strategy := range []string{alternating, dualPassword} {
			r := start(t, bed.RedisOptions{})
			w := newWorld(t, r, kind.Options{optionStrategy: strategy}).mounted("aaaaaa")
			w.app("~* +@all")
			for range 4 - behind {
				w.retire(w.staged())
			}
			old := w.key
			for range behind {
				w.retire(w.staged())
			}
			latest := first(w)
			one := w.client(r, latest, "")
			w.key = old
			c := w.current()
			f, err := w.kind.Inspect(ctx, c)
			w.ok(err)
			if len(f.Problems) == 0 || !f.Problems[len(f.Problems)-1].Ahead || allFixable(f) || f.ServerVersion != 5 {
				t.Errorf("%s, %d behind: %+v", strategy, behind, f)
			}
			for _, p := range f.Problems {
				if strategy == alternating && p.Ahead && (!strings.Contains(fmt.Sprint(f.Problems), "Was Vault restored from an older snapshot?") || strings.Contains(p.Remedy, "lock it")) {
					t.Errorf("%d behind: %s; %s", behind, p.Text, p.Remedy)
				}
			}
			w.restore(c, r)
			after, err := w.kind.Inspect(ctx, c)
			w.ok(err)
			if notes := strings.Join(after.Notes, "\n"); strategy == alternating && !strings.Contains(notes, "has a password that Vault does not know, which clients may hold") {
				t.Errorf("%d behind: notes after Restore: %q", behind, notes)
			}
			valid := func(when string) {
				t.Helper()
				if !w.valid(r, latest) || one.Ping(ctx).Err() != nil {
					t.Errorf("%s, %d behind: the latest version is locked out %s", strategy, behind, when)
				}
			}
			valid("after Restore")
			// The engine takes a number that no mark has.
			w.key.Versions = append(w.key.Versions, key.Version{Number: f.ServerVersion, State: key.Aborted})
			next := w.plan()
			w.ok(w.kind.Stage(ctx, next))
			w.ok(w.kind.Verify(ctx, next))
			valid("after Stage")
			w.expect(next, true, true, r)
			w.ok(w.kind.Unstage(ctx, next))
			valid("after Unstage")
			w.expect(next, true, false, r)
			w.ok(w.kind.Stage(ctx, next))
			w.ok(one.Close())
			w.retire(next)
			w.expect(next, false, true, r)
			if f := w.inspect(w.current()); strategy == alternating && w.valid(r, latest) == (len(f.Notes) == 0) {
				t.Errorf("%d behind: the latest version is valid: %t; notes: %q", behind, w.valid(r, latest), f.Notes)
			}
			w.retire(w.staged())
		}
	}
}

// Vault, or the server, was restored to the middle of a rotation of two passwords: the current version logs in, and so does
// one that Vault does not know. That is said, nobody is locked out, and the next rotation succeeds.
func TestTwoPasswordsOfWhichVaultKnowsOne(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, behind := range []string{"Vault", "the server"} {
		r := start(t, bed.RedisOptions{})
		w := newWorld(t, r, kind.Options{optionStrategy: dualPassword}).mounted("aaaaaa")
		w.app("~* +@all")
		w.retire(w.staged())
		old := w.key
		c := w.staged()
		other, version, text := c.To, 3, "node "+r.Addr+" is ahead of Vault: user app has the password of version 3, too, which Vault does not know"
		if behind == "Vault" {
			w.key = old
		} else {
			other, version, text = c.From, 2, "node "+r.Addr+": user app has the password of version 2 again, which Vault has retired"
			hashes := w.do(r, "ACL", "LIST")
			w.retire(c)
			for line := range strings.Lines(hashes) {
				if fields := strings.Fields(line); fields[1] == "app" {
					w.do(r, append([]string{"ACL", "SETUSER"}, fields[1:]...)...)
				}
			}
		}
		f, err := w.kind.Inspect(ctx, w.current())
		w.ok(err)
		if len(f.Problems) != 1 || !strings.Contains(f.Problems[0].Text, text) || f.Problems[0].Ahead != (behind == "Vault") || f.Problems[0].Fixable == f.Problems[0].Ahead || f.ServerVersion != 3 {
			t.Errorf("%s is behind: %+v", behind, f)
		}
		w.restore(w.current(), r)
		f, err = w.kind.Inspect(ctx, w.current())
		w.ok(err)
		if len(f.Problems) != 0 || !strings.Contains(strings.Join(f.Notes, "; "), fmt.Sprintf("user app may still have the password of version %d", version)) {
			t.Errorf("%s is behind, after Restore: %+v", behind, f)
		}
		if behind == "Vault" { // the engine takes a number that no mark has
			w.key.Versions = append(w.key.Versions, key.Version{Number: f.ServerVersion, State: key.Aborted})
		}
		w.retire(w.staged())
		if !w.valid(r, other) {
			t.Errorf("%s is behind: a client that holds version %d is locked out", behind, version)
		}
		_, mark, _ := strings.Cut(f.Notes[0], "ACL SETUSER app !")
		w.do(r, "ACL", "SETUSER", "app", "!"+mark)
		if f := w.inspect(w.current()); len(f.Notes) != 0 {
			t.Errorf("%s is behind: notes after the mark is gone: %q", behind, f.Notes)
		}
	}
}

// The server was restored from a file that is one rotation old.
func TestServerIsBehind(t *testing.T) {
	t.Parallel()
	for rotations := 1; rotations <= 3; rotations++ {
		r := start(t, bed.RedisOptions{Users: bed.UsersInACLFile})
		w := newWorld(t, r, nil)
		w.app("~* +@all")
		for range rotations {
			w.retire(w.staged())
		}
		file := read1(t, r.ACLPath)
		previous := first(w)
		w.retire(w.staged())
		w.ok(os.WriteFile(r.ACLPath, []byte(file), 0o600))
		w.do(r, "ACL", "LOAD")
		c := w.current()
		f, err := w.kind.Inspect(t.Context(), c)
		w.ok(err)
		if len(f.Problems) == 0 || !allFixable(f) {
			t.Errorf("%d rotations: %+v", rotations, f)
		}
		w.restore(c, r)
		if !w.valid(r, previous) {
			t.Error("who has the version before is locked out")
		}
		for range 3 {
			w.retire(w.staged())
		}
		if w.valid(r, previous) {
			t.Error("the version before is valid for ever")
		}
	}
}

// A change made by hand is reported, and undone only if an operator says so.
func TestChangedByHand(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* +@all")
	byHand := key.Version{Value: key.NewValue(r.UserURL("app", thirdPassword))}
	imported := w.current()
	w.inspect(imported)
	w.do(r, "ACL", "SETUSER", "app", "resetpass", ">"+thirdPassword)
	if f := w.inspect(imported, "user app, which an operator brought, is off or has another password"); allFixable(f) {
		t.Errorf("%+v", f)
	}
	_, err := w.kind.Restore(ctx, imported, false)
	w.refuses(err, "user app, which an operator brought", "vault write hyvve/rotate key=redis-url gives")
	one := w.client(r, byHand, "")
	before := w.key
	next := w.staged() // the remedy, as it is printed
	if n, _ := w.inUse(next); n != 1 || !w.valid(r, byHand) {
		t.Errorf("%d clients with the password of the operator are seen, or it is gone", n)
	}
	w.ok(one.Close())
	w.unstage(next)
	w.key = before
	w.do(r, "ACL", "SETUSER", "app", "resetpass", ">"+appPassword)
	w.retire(w.staged())
	c := w.current()
	for rule, words := range map[string]string{
		"off":               "user redis_url_a is off",
		"resetpass":         "user redis_url_a is locked",
		"-@all +@all reset": "user redis_url_a is locked",
	} {
		w.do(r, append([]string{"ACL", "SETUSER", "redis_url_a"}, split(rule)...)...)
		if f := w.inspect(c, words); allFixable(f) {
			t.Errorf("%s: %+v", rule, f)
		}
		w.restore(c, r)
	}
	w.do(r, "ACL", "SETUSER", "redis_url_a", "resetpass", ">"+thirdPassword)
	if f := w.inspect(c, "user redis_url_a has another password"); allFixable(f) || !f.Problems[0].Rotates {
		t.Errorf("%+v", f)
	}
	if would, err := w.kind.Restore(ctx, c, true); err != nil || !strings.Contains(strings.Join(would, ""), "beside a password that Vault does not know, which still logs in") {
		t.Errorf("Restore would do %q, %v", would, err)
	}
	w.restore(c, r)
	if f := w.inspect(c); !strings.Contains(strings.Join(f.Notes, ""), "user redis_url_a has a password that Vault does not know") {
		t.Errorf("notes: %q", f.Notes)
	}
	if !w.valid(r, key.Version{Value: key.NewValue(r.UserURL("redis_url_a", thirdPassword))}) {
		t.Error("Restore has taken a password away")
	}
	// Another mount's user is in the place of ours.
	other := w.mounted("bbbbbb")
	w.do(r, "ACL", "SETUSER", "redis_url_a", "resetpass", ">"+thirdPassword, "#"+markOf(other.key, 3).digest())
	if f := w.inspect(c, `belongs to a key of another mount ("bbbbbb"`); allFixable(f) {
		t.Errorf("%+v", f)
	}
	_, err = w.kind.Restore(ctx, c, false)
	w.refuses(err, "belongs to a key of another mount")
}
