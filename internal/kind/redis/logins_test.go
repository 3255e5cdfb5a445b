// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// counter is a fake server that counts logins.
type counter struct {
	mu      sync.Mutex
	logins  int
	noHello bool          // it refuses HELLO, and does not count it
	held    chan struct{} // if not nil: closed when it has counted the next login that brings a name
	release chan struct{} // and that is answered when this is closed
}

func (c *counter) answer(args []string) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case args[0] == "INFO":
		return fmt.Sprintf("# Commandstats\r\ncmdstat_hello:calls=%d,usec=1\r\n", c.logins)
	case c.noHello && strings.EqualFold(args[0], "HELLO"):
		return "-ERR unknown command"
	}
	c.logins++
	if held := c.held; held != nil && slices.Contains(args, "SETNAME") {
		c.held = nil
		c.mu.Unlock()
		close(held)
		<-c.release
		c.mu.Lock()
	}
	return script(nil)(args)
}

// with changes the server.
func (c *counter) with(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// Logins of ours hide nobody else's, whenever they happen.
func TestOurLoginsHideNone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(c *counter, enter, first, second func()){
		"the session that counts logs in": func(_ *counter, _, first, second func()) {
			first()
			second()
		},
		"a login is under way at the first count": func(c *counter, enter, first, second func()) {
			first() // so that it has a session
			held := make(chan struct{})
			c.with(func() { c.held, c.release = held, make(chan struct{}) })
			var group sync.WaitGroup
			group.Go(enter)
			<-held
			first()
			close(c.release)
			group.Wait()
			second()
		},
		"the server refuses what it does not count": func(c *counter, enter, first, second func()) {
			c.with(func() { c.noHello = true })
			first()
			enter()
			second()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c counter
			w := fakeWorld(t, c.answer)
			u, err := dsn.Parse(w.connection.Options[login.FieldURL], urls.Schemes...)
			w.ok(err)
			addrs, err := addresses(u)
			w.ok(err)
			spent := func(k *Kind) (s spending) {
				s, err := k.spent(t.Context(), w.connection, addrs[0])
				w.ok(err)
				return s
			}
			enter := func() {
				other := New()
				defer other.Close() //nolint:errcheck // of a test
				spent(other)
			}
			var before, after spending
			test(&c, enter, func() { before = spent(w.kind) }, func() {
				c.with(func() { c.logins += 2 })
				after = spent(w.kind)
			})
			if got := (newcomers{}).unseen(before, after); got != 2 {
				t.Errorf("%d logins are unseen, want 2", got)
			}
		})
	}
}

// A server that does not count logins, or has reset its counts, is not taken for one where nobody has logged in. The plan and the
// connection have a note.
func TestServerThatDoesNotCountLogins(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for name, test := range map[string]struct {
		answer func(asked int) any // to INFO commandstats
		words  string
	}{
		"it refuses":   {func(int) any { return "-NOPERM this user has no permissions to run the 'info' command" }, "may not run INFO"},
		"it is silent": {func(int) any { return "# Commandstats\r\n" }, "does not count commands"},
		"it starts again": {func(asked int) any {
			return fmt.Sprintf("cmdstat_client|list:calls=%d,usec=1\r\ncmdstat_auth:calls=7\r\n", 1000/asked)
		}, "was reset"},
		"it has as many logins, and fewer looks than it was asked for": {func(int) any { return "cmdstat_client|list:calls=1,usec=1\r\ncmdstat_auth:calls=7\r\n" }, "was reset"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			w := fakeWorld(t, func(args []string) any {
				switch strings.ToUpper(strings.Join(args, " ")) {
				case "INFO COMMANDSTATS":
					asked++
					return test.answer(asked)
				case "ACL GETUSER APP":
					return []any{"flags", items("on"), "passwords", items(digest(key.NewValue(appPassword))), "commands", "+@all", "keys", items("*")}
				case "ACL GETUSER REDIS_URL_A", "ACL GETUSER REDIS_URL_B":
					return nil
				}
				return script(map[string]any{"INFO": info6, "CONFIG GET": items("aclfile", ""), "CLIENT LIST": "id=2 addr=127.0.0.1:2 name=hyvve-engine flags=N cmd=client user=admin\n"})(args)
			})
			c := w.plan()
			_, _, err := w.kind.Sample(ctx, c, 100*time.Millisecond)
			var missed kind.Unattributed
			if !errors.As(err, &missed) || missed.Logins != 0 || !strings.Contains(err.Error(), "cannot be counted") || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error %v, want that short logins cannot be counted: %s", err, test.words)
			}
			noted := func(what string, notes []string, err error) {
				t.Helper()
				w.ok(err)
				if n := countNotes(notes, "cannot be counted", test.words, "samples the node for six times observe="); n != 1 {
					t.Errorf("%s: notes %q", what, notes)
				}
			}
			blockers, notes, err := w.kind.Preflight(ctx, c)
			noted("plan", notes, err)
			if len(blockers) > 0 {
				t.Errorf("blockers %q", blockers)
			}
			notes, err = w.kind.CheckConnection(ctx, c.Connection)
			noted("connection", notes, err)
			c.Cut = true
			if _, notes, err = w.kind.Preflight(ctx, c); err != nil || countNotes(notes, "cannot be counted") > 0 {
				t.Errorf("a compromised key does not wait for samples: notes %q, %v", notes, err)
			}
		})
	}
}

// countNotes returns how many notes have all of these words.
func countNotes(notes []string, words ...string) (n int) {
	for _, note := range notes {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(note, word) }) {
			n++
		}
	}
	return n
}

// An administrator who may not run INFO can see no node and no login: plan, connection and samples say so, with the command to type.
func TestAdministratorWithoutInfo(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := rooted(t, administratorRule, r)
	w.app("~* +@all", r)
	c := w.staged()
	for _, rule := range []string{"-info", "-@dangerous", "-@all"} {
		w.do(r, "ACL", "SETUSER", "root", rule)
		_, _, err := w.kind.Sample(ctx, c, 100*time.Millisecond)
		w.refuses(err, "user root may not run INFO; grant it with: ACL SETUSER root +info")
		_, _, err = w.kind.Preflight(ctx, c)
		w.refuses(err, "user root may not run INFO; grant it with: ACL SETUSER root +info")
		_, err = w.kind.CheckConnection(ctx, c.Connection)
		w.refuses(err, "user root may not run INFO", "grant it with: ACL SETUSER root +info")
	}
}
