// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// use is the sessions of a role.
type use []seen

// seen is a session that was seen.
type seen struct {
	pid        int
	clientPort int // -1: the client came through a socket
	serverPort int // as the server names it
	words      string
}

func (u use) count() int { return len(u) }

func (u use) String() string {
	var words []string
	for _, s := range u[:min(len(u), login.FewSessions)] {
		words = append(words, s.words)
	}
	if more := len(u) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, " | ")
}

// census reads the sessions of a place for all callers. A query takes the server as long for many roles as for one, so
// callers that ask while one is in progress share the next: every result was read after its caller asked.
type census struct {
	mu      sync.Mutex
	next    *look // that those who ask now share; nil: nobody has asked yet
	running bool

	samples sampler // of the same place
}

// looking returns the sessions of roles.
type looking func(ctx context.Context, roles []string) (map[string]use, error)

// look is one look at the sessions of several roles.
type look struct {
	at     looking // of who asked first
	roles  []string
	askers int                // that still wait
	ctx    context.Context    // ends when nobody waits any more
	cancel context.CancelFunc // of ctx

	done  chan struct{} // closed when what follows is set
	found map[string]use
	err   error
}

// ask returns the sessions of a role, by way of a look that begins from now on.
func (c *census) ask(ctx context.Context, role string, at looking) (use, error) {
	c.mu.Lock()
	l := c.next
	if l == nil {
		l = &look{at: at, done: make(chan struct{})}
		l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
		c.next = l
	}
	l.roles = append(l.roles, role)
	l.askers++
	if !c.running {
		c.running = true
		go c.run()
	}
	c.mu.Unlock()
	select {
	case <-l.done:
		return l.found[role], l.err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if l.askers--; l.askers == 0 {
			l.cancel()
			if c.next == l {
				c.next = nil
			}
		}
		return nil, ctx.Err()
	}
}

// run looks until nobody asks.
func (c *census) run() {
	for {
		c.mu.Lock()
		l := c.next
		c.next, c.running = nil, l != nil
		c.mu.Unlock()
		if l == nil {
			return
		}
		l.found, l.err = l.at(l.ctx, l.roles)
		l.cancel()
		close(l.done)
	}
}

// sessions returns those of a role at a place: of this moment, or seen within d. Then it also returns how many logins to each
// database were not seen.
func (k *Kind) sessions(ctx context.Context, c kind.Connection, at place, role string, d time.Duration) (found use, missed map[string]int, err error) {
	if d == 0 {
		found, err = k.census(c, at).ask(ctx, role, func(ctx context.Context, roles []string) (map[string]use, error) {
			return k.lookAt(ctx, c, at, roles)
		})
	} else {
		found, missed, err = k.sampler(c, at).ask(ctx, role, d, func(roles []string, long time.Duration, logins *shortLogins) (map[string]use, map[string]int, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), long+patience)
			defer cancel()
			return k.sampleAt(ctx, c, at, roles, long, logins)
		})
	}
	return found, missed, plain(err, at)
}

func (k *Kind) census(c kind.Connection, at place) *census {
	k.mu.Lock()
	defer k.mu.Unlock()
	revision := fmt.Sprintf("%s/%d/", c.Name, c.Revision)
	name := revision + at.host
	if of, ok := k.looks[name]; ok {
		return of
	}
	maps.DeleteFunc(k.looks, func(other string, _ *census) bool { // of an earlier revision
		return strings.HasPrefix(other, c.Name+"/") && !strings.HasPrefix(other, revision)
	})
	k.looks[name] = &census{}
	return k.looks[name]
}

// lookAt returns the sessions of roles at a place.
func (k *Kind) lookAt(ctx context.Context, c kind.Connection, at place, roles []string) (map[string]use, error) {
	var found map[string]use
	err := k.admin(ctx, c, at, func(conn *pgx.Conn) error {
		var err error
		found, _, err = readUses(conn.Query(ctx, repeated(roles, 1, 0, time.Minute, nil)))
		return err
	})
	return found, err
}

func inWords(pid int, age *float64, parts ...string) string {
	word := fmt.Sprintf("pid %d", pid)
	for _, part := range parts {
		if part != "" {
			word += " " + kind.Line(part, login.MostWord)
		}
	}
	if age != nil {
		word += fmt.Sprintf(", open for %s", (time.Duration(max(*age, 0)) * time.Second).Round(time.Second))
	}
	return word
}
