// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
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
