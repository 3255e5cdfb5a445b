// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// busy opens sessions of a version, each about something else: subscribed, blocked, in a transaction, watching, with a name
// that looks like a field, listening to all, idle. Blocked says when the one that is blocked has ended.
func (w *world) busy(r *bed.Redis, v key.Version) (sessions []*goredis.Conn, blocked <-chan error) {
	w.t.Helper()
	ctx := context.Background()
	o, err := goredis.ParseURL(v.Value.Reveal())
	w.ok(err)
	o.Addr, o.MaxRetries, o.DisableIdentity, o.ReadTimeout = r.Addr, -1, true, -1
	one := goredis.NewClient(o)
	w.t.Cleanup(func() { _ = one.Close() })
	_, err = one.Subscribe(ctx, "news").Receive(ctx)
	w.ok(err)
	done := make(chan error, 1)
	waiting := one.Conn()
	id, err := waiting.ClientID(ctx).Result()
	w.ok(err)
	go func() { done <- waiting.BLPop(ctx, 0, "queue").Err() }()
	w.eventually(func() bool {
		for line := range strings.Lines(w.do(r, "CLIENT", "LIST")) {
			if fields := " " + line; strings.Contains(fields, " id="+strconv.FormatInt(id, 10)+" ") && strings.Contains(fields, " cmd=blpop ") {
				return true
			}
		}
		return false
	}, func() string { return "nobody is blocked" })
	for _, command := range [][]any{{"MULTI"}, {"WATCH", "x"}, {"CLIENT", "SETNAME", "user=somebody"}, {"PING"}} {
		conn := one.Conn()
		w.ok(conn.Do(ctx, command...).Err())
		sessions = append(sessions, conn)
	}
	return sessions, done
}

func TestCutEndsSessionsOfTheOldUser(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.app("~* &* +@all", master, replica)
	w.do(master, "ACL", "SETUSER", "bystander", "on", ">"+appPassword, "+@all")
	c := w.staged()
	sessions, blocked := w.busy(master, c.From)
	reader := w.client(replica, c.From, "")
	next := w.client(master, c.To, "")
	bystander := w.client(master, key.Version{Value: key.NewValue(master.UserURL("bystander", appPassword))}, "")
	if n, what := w.inUse(c); n != 7 || !strings.Contains(what, "6 of user app at "+master.Addr) || !strings.Contains(what, "1 of user app at "+replica.Addr) || !strings.Contains(what, "and 4 more") {
		t.Errorf("in use: %d, %s", n, what)
	}
	w.ok(w.kind.Retire(ctx, c)) // without cut: open sessions stay
	w.expect(c, false, true, master, replica)
	if err := sessions[3].Ping(ctx).Err(); err != nil {
		t.Errorf("a session was ended that nobody said to end: %v", err)
	}
	c.Cut = true
	for range 2 {
		w.ok(w.kind.Retire(ctx, c))
	}
	if err := <-blocked; err == nil {
		t.Error("a session that is blocked got an answer")
	}
	for i, one := range append(sessions, reader.Conn()) {
		if err := one.Ping(ctx).Err(); err == nil {
			t.Errorf("session %d of the old user lives", i)
		}
	}
	w.unused(c)
	for _, one := range []*goredis.Client{next, bystander} {
		if err := one.Ping(ctx).Err(); err != nil {
			t.Errorf("a session of another user was ended: %v", err)
		}
	}
	if err := replica.AwaitLink(ctx); err != nil {
		t.Error(err)
	}
}

// What is withdrawn ends its sessions with cut; without, the user stays for as long as it has some, locked.
func TestUnstageWithSessions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* &* +@all")
	c := w.staged()
	old, next := w.client(r, c.From, ""), w.client(r, c.To, "")
	w.ok(w.kind.Unstage(ctx, c))
	w.expect(c, true, false, r)
	w.ok(next.Ping(ctx).Err())
	if got := w.rightsOf(r, "redis_url_a"); got == "" {
		t.Error("the user is gone, and with it sessions that nobody said to end")
	}
	c.Cut = true
	w.unstage(c)
	if err := next.Ping(ctx).Err(); err == nil {
		t.Error("a session of the new user lives")
	}
	w.ok(old.Ping(ctx).Err())
	if got := w.rightsOf(r, "redis_url_a"); got != "" {
		t.Error("the user is there still")
	}
}

func TestCutOfDualPasswordEndsAllSessionsOfTheUser(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, kind.Options{optionStrategy: dualPassword})
	w.app("~* &* +@all")
	c := w.staged()
	old := w.client(r, c.From, "")
	c.Cut = true
	w.ok(w.kind.Retire(ctx, c))
	if err := old.Ping(ctx).Err(); err == nil {
		t.Error("a session of the old password lives")
	}
	w.expect(c, false, true, r)
	w.client(r, c.To, "")
}

// Many rotations act on one server at the same time, some of them given up: none disturbs another, and none waits forever
// for one of the administrator's few sessions.
func TestManyAtTheSameTime(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* &* +@all")
	var all []kind.Change
	for i := range 60 {
		c := w.change(first(w), key.Version{Number: 2})
		c.Key.Options = kind.Options{kind.OptionUsername: "many" + strconv.Itoa(i), login.OptionVerify: "true", optionStrategy: alternating}
		var err error
		c.To.Value, err = w.kind.Generate(zeros{}, c.Key, c.From.Value)
		w.ok(err)
		all = append(all, c)
	}
	var busy sync.WaitGroup
	errs := make([]error, len(all))
	for i, c := range all {
		busy.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			if i%3 == 0 { // the caller cancels
				go func() { _ = w.kind.Stage(ctx, c); cancel() }()
				cancel()
				return
			}
			defer cancel()
			if errs[i] = w.kind.Stage(ctx, c); errs[i] == nil {
				errs[i] = w.kind.Verify(ctx, c)
			}
		})
	}
	busy.Wait()
	w.ok(together(errs...))
	if n := strings.Count(w.do(r, "CLIENT", "LIST"), "user=admin"); n > adminSessions+1 {
		t.Errorf("the administrator has %d sessions", n)
	}
	// Started again, the server has ended all of them.
	w.do(r, "CONFIG", "REWRITE")
	r.Kill()
	w.ok(r.Start(t.Context()))
	w.ok(each(all, func(_ int, c kind.Change) error { return w.kind.Unstage(t.Context(), c) }))
	w.ok(w.kind.Close())
	w.eventually(func() bool { return strings.Count(w.do(r, "CLIENT", "LIST"), "user=admin") == 1 }, func() string { return "sessions of the administrator are left: " + w.do(r, "CLIENT", "LIST") })
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
