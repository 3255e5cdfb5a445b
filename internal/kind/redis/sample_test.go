// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// A client that logs in for some milliseconds each time is seen, at whichever node it is.
func TestSampleSeesShortSessions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.app("~* +@all", master, replica)
	c := w.staged()
	for _, r := range []*bed.Redis{master, replica} {
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			ticker := time.NewTicker(300 * time.Millisecond)
			defer ticker.Stop()
			for {
				one := w.client(r, c.From, "short")
				select { // for as long as it is logged in
				case <-time.After(20 * time.Millisecond):
				case <-end:
				}
				_ = one.Close()
				select {
				case <-ticker.C:
				case <-end:
					return
				}
			}
		}()
		n, what, err := w.kind.Sample(ctx, c, 5*time.Second)
		close(end)
		<-ended
		w.ok(err)
		if n == 0 || !strings.Contains(what, "of user app at "+r.Addr) || !strings.Contains(what, "(short)") {
			t.Errorf("seen: %d, %s", n, what)
		}
		w.unused(c)
	}
	n, what, err := w.kind.Sample(ctx, c, 300*time.Millisecond)
	w.ok(err)
	if n != 0 {
		t.Errorf("seen while nobody is logged in: %d, %s", n, what)
	}
	w.ok(replica.Pause())
	w.connect(kind.Options{login.FieldURL: master.AdminURL(), fieldTimeout: short, fieldNodes: replica.Addr})
	c.Connection = w.connection
	_, _, err = w.kind.Sample(ctx, c, time.Second)
	w.ok(replica.Resume())
	w.refuses(err, "node "+replica.Addr+" did not answer in time")
}

// A server with many sessions is asked less often. Samples cost it little in any case.
func TestCostOfSamples(t *testing.T) {
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* +@all")
	c := w.staged()
	for range 200 {
		w.client(r, c.To, "bystander")
	}
	cpu := func() float64 {
		info := readInfo(w.do(r, "INFO", "cpu"))
		user, err := strconv.ParseFloat(info["used_cpu_user"], 64)
		w.ok(err)
		system, err := strconv.ParseFloat(info["used_cpu_sys"], 64)
		w.ok(err)
		return user + system
	}
	const long = 2 * time.Second
	calls := func() int { return int(readSpending(w.do(r, "INFO", "commandstats")).calls) }
	spent, asked := cpu(), calls()
	n, _, err := w.kind.Sample(t.Context(), c, long)
	w.ok(err)
	spent, asked = cpu()-spent, calls()-asked
	t.Logf("%.1f samples a second cost %.2f %% of a core", float64(asked)/long.Seconds(), 100*spent/long.Seconds())
	if n != 0 || asked < 20*int(long.Seconds()) || spent/long.Seconds() > 0.05 {
		t.Errorf("%d sessions seen in %d samples that cost %.3f s", n, asked, spent)
	}
}

func TestPeriodOfSamples(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		before, after spending
		want          time.Duration
	}{
		{spending{}, spending{}, firstPeriod},
		{spending{calls: 10, micros: 100}, spending{calls: 9, micros: 90}, firstPeriod}, // started again, or CONFIG RESETSTAT
		{spending{calls: 10, micros: 1000}, spending{calls: 15, micros: 1050}, leastPeriod},
		{spending{calls: 10, micros: 1000}, spending{calls: 15, micros: 1800}, 10800 * time.Microsecond},
		{spending{}, spending{calls: 1, micros: 1 << 60}, maxPeriod},
	} {
		if got := periodFor(tt.before, tt.after); got != tt.want {
			t.Errorf("%v to %v: %v, want %v", tt.before, tt.after, got, tt.want)
		}
	}
	if got := readSpending("cmdstat_client:calls=3,usec=70,usec_per_call=23.33\r\n"); got != (spending{calls: 3, micros: 70}) {
		t.Errorf("%v", got)
	}
}

// A client that is gone at once is seen, or at least its login is counted. Clients that stay are nobody's secret.
func TestSampleCountsLoginsThatItMissed(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* +@all")
	c := w.staged()
	w.client(r, c.To, "before")
	for _, tt := range []struct {
		what  string
		visit func()
		short bool
	}{
		{"nobody logs in", func() {}, false},
		{"we look whether versions log in", func() { w.ok(w.kind.Verify(t.Context(), c)) }, false},
		{"somebody logs in and stays", func() { w.client(r, c.To, "stays") }, false},
		{"somebody logs in and is gone, again and again", func() {
			for range 5 {
				w.valid(r, c.From)
				<-time.After(50 * time.Millisecond)
			}
		}, true},
		{"the counts are reset", func() { w.do(r, "CONFIG", "RESETSTAT") }, true},
	} {
		visited := make(chan struct{})
		go func() {
			defer close(visited)
			<-time.After(300 * time.Millisecond)
			tt.visit()
		}()
		n, _, err := w.kind.Sample(t.Context(), c, time.Second)
		<-visited
		var missed kind.Unattributed
		if noticed := n > 0 || errors.As(err, &missed) && (missed.Logins > 0 || missed.Uncounted != ""); noticed != tt.short || !noticed && err != nil {
			t.Errorf("%s: %d sessions, %v", tt.what, n, err)
		}
	}
}

// Clients that need no login, or have not logged in, come at the same time. None of them hides a login that no look has seen.
func TestClientsWithoutALoginHideNone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ password, says string }{
		{"nopass", ""},
		{"nopass", "PING"},
		{"nopass", "AUTH"},
		{"resetpass", ""},
		{"resetpass", "PING"},
		{"resetpass", "AUTH"},
		{"resetpass", "HELLO"},
	} {
		t.Run(tt.password+" "+tt.says, func(t *testing.T) {
			t.Parallel()
			r := start(t, bed.RedisOptions{})
			w := newWorld(t, r, nil)
			w.app("~* +@all")
			w.do(r, "ACL", "SETUSER", defaultUser, "on", "+@all", tt.password)
			c := w.staged()
			visited := make(chan struct{})
			go func() {
				defer close(visited)
				<-time.After(300 * time.Millisecond)
				for range 20 {
					say(t, r, tt.says)
				}
				u, err := dsn.Parse(c.From.Value.Reveal(), urls.Schemes...)
				if err != nil {
					t.Error(err)
				}
				for range 5 { // the server does both at once, so that no look sees the client
					say(t, r, "AUTH "+urls.UserOf(u)+" "+u.Password.Reveal()+"\r\nQUIT")
				}
			}()
			n, _, err := w.kind.Sample(t.Context(), c, time.Second)
			<-visited
			if n == 0 && !errors.As(err, new(kind.Unattributed)) {
				t.Errorf("%d sessions, %v", n, err)
			}
		})
	}
}

// say opens a connection that stays, and sends lines by it.
func say(t *testing.T, r *bed.Redis, lines string) {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { _ = conn.Close() })
	if lines == "" {
		return
	}
	if _, err := conn.Write([]byte(lines + "\r\n")); err != nil {
		t.Error(err)
	}
}

// A client that speaks RESP 3 has sent a HELLO that the server counts, whether the default user has a password or not.
func TestOnlyACountedHelloSpeaksRESP3(t *testing.T) {
	t.Parallel()
	for password, counted := range map[string]bool{"nopass": true, "resetpass": false} {
		r := start(t, bed.RedisOptions{})
		w := newWorld(t, r, nil)
		w.do(r, "ACL", "SETUSER", defaultUser, "on", "+@all", password)
		logins := readSpending(w.do(r, "INFO", "commandstats")).logins
		conn, err := net.Dial("tcp", r.Addr)
		w.ok(err)
		defer conn.Close() //nolint:errcheck // of a test
		_, err = conn.Write([]byte("HELLO 3\r\n"))
		w.ok(err)
		_, err = conn.Read(make([]byte, 1))
		w.ok(err)
		spoken := strings.Contains(w.do(r, "CLIENT", "LIST"), "resp=3")
		if after := readSpending(w.do(r, "INFO", "commandstats")).logins; spoken != counted || after < logins+1 {
			t.Errorf("%s: a client speaks RESP 3: %t; logins %d, before %d", password, spoken, after, logins)
		}
	}
}

// Which clients of a look have logged in since the one before.
func TestNewcomersThatHaveLoggedIn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what   string
		looks  []listed
		logins int
	}{
		{"a user", []listed{{user: "app"}}, 1},
		{"a client of the default user, with a login or without", []listed{{user: defaultUser}}, 0},
		{"one that has said HELLO", []listed{{user: defaultUser, hello: true}}, 1},
		{"one that logs in late", []listed{{user: defaultUser}, {user: "app"}, {user: "app"}}, 1},
		{"the node's link to its master", []listed{{user: noUser}}, 0},
		{"one that has sent an AUTH only, as ours before it has its name", []listed{{user: "admin", command: "auth"}}, 0},
		{"one that does something after its AUTH", []listed{{user: "app", command: "auth"}, {user: "app", command: "get"}}, 1},
		{"one of ours", []listed{{user: "admin"}, {user: "admin", own: true}}, 0},
	} {
		clients := newcomers{}
		look := clients.look(false)
		for _, one := range tt.looks {
			look(one)
		}
		if got := 10 - clients.unseen(spending{}, spending{logins: 10}); got != tt.logins {
			t.Errorf("%s: %d logins, want %d", tt.what, got, tt.logins)
		}
	}
}

// The server's log names clients that still try the retired user.
func TestRefusals(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.app("~* +@all", master, replica)
	c := w.staged()
	w.retire(c)
	n, what, err := w.kind.Refusals(ctx, c, "app", time.Hour)
	w.ok(err)
	if n != 0 || what != "" {
		t.Errorf("refused before anybody tries: %d, %s", n, what)
	}
	for range 3 {
		if w.valid(replica, c.From) {
			t.Fatal("the old version is valid")
		}
	}
	if w.valid(replica, key.Version{Value: key.NewValue(master.UserURL("bystander", appPassword))}) {
		t.Fatal("a user that there is not logs in")
	}
	n, what, err = w.kind.Refusals(ctx, c, "app", time.Hour)
	w.ok(err)
	if n != 3 || !strings.HasPrefix(what, "3 by user app at "+replica.Addr+`, the latest from "127.0.0.1:`) || !strings.HasSuffix(what, "s ago") || strings.Contains(what, ".0 ") {
		t.Errorf("refused: %d, %s", n, what)
	}
	// It names the user alone, so that a wrong password looks the same: why docs/redis.md says that this counts as no tripwire.
	if w.valid(replica, key.Version{Value: key.NewValue(replica.UserURL("app", "a-password-that-never-was"))}) {
		t.Fatal("a wrong password is taken")
	}
	if n, _, err = w.kind.Refusals(ctx, c, "app", time.Hour); err != nil || n != 4 {
		t.Errorf("with a wrong password, refused: %d, %v", n, err)
	}
	w.do(replica, "ACL", "LOG", "RESET")
	if n, _, err = w.kind.Refusals(ctx, c, "app", time.Hour); err != nil || n != 0 {
		t.Errorf("after ACL LOG RESET, refused: %d, %v", n, err)
	}
	w.do(master, "ACL", "SETUSER", "admin", "-acl|log")
	_, _, err = w.kind.Refusals(ctx, c, "app", time.Hour)
	w.refuses(err, "may not run ACL LOG; grant it with: ACL SETUSER admin +acl|log")
}
