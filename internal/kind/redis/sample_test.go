// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

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
		{spending{10, 100, 0, 0}, spending{9, 90, 0, 0}, firstPeriod}, // started again, or CONFIG RESETSTAT
		{spending{10, 1000, 0, 0}, spending{15, 1050, 0, 0}, leastPeriod},
		{spending{10, 1000, 0, 0}, spending{15, 1800, 0, 0}, 10800 * time.Microsecond},
		{spending{0, 0, 0, 0}, spending{1, 1 << 60, 0, 0}, mostPeriod},
	} {
		if got := periodFor(tt.before, tt.after); got != tt.want {
			t.Errorf("%v to %v: %v, want %v", tt.before, tt.after, got, tt.want)
		}
	}
	if got := readSpending("cmdstat_client:calls=3,usec=70,usec_per_call=23.33\r\n"); got != (spending{3, 70, 0, 0}) {
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
		if noticed := n > 0 || errors.As(err, &missed) && missed.Logins > 0; noticed != tt.short || !noticed && err != nil {
			t.Errorf("%s: %d sessions, %v", tt.what, n, err)
		}
	}
}

// Clients that need no login, or have not logged in yet, come at the same time. None of them hides a login that no look has seen.
func TestClientsWithoutALoginHideNone(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"nopass", "resetpass"} {
		r := start(t, bed.RedisOptions{})
		w := newWorld(t, r, nil)
		w.app("~* +@all")
		w.do(r, "ACL", "SETUSER", defaultUser, "on", "+@all", password)
		c := w.staged()
		visited := make(chan struct{})
		go func() {
			defer close(visited)
			<-time.After(300 * time.Millisecond)
			for range 20 {
				conn, err := net.Dial("tcp", r.Addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close() //nolint:errcheck // of a test
				if password == "nopass" {
					_, _ = conn.Write([]byte("PING\r\n"))
				}
			}
			for range 5 {
				w.valid(r, c.From)
			}
		}()
		n, _, err := w.kind.Sample(t.Context(), c, time.Second)
		<-visited
		if n == 0 && !errors.As(err, new(kind.Unattributed)) {
			t.Errorf("%s: %d sessions, %v", password, n, err)
		}
	}
}

// Which clients of a look have logged in since the one before.
func TestNewcomersThatHaveLoggedIn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what   string
		open   bool
		looks  []listed
		logins int
	}{
		{"a user", false, []listed{{user: "app", command: "get"}}, 1},
		{"the default user's client", false, []listed{{user: defaultUser, command: "get"}}, 1},
		{"the default user's client, without a login", true, []listed{{user: defaultUser, command: "get"}}, 0},
		{"one that has said HELLO", true, []listed{{user: defaultUser, command: "get", hello: true}}, 1},
		{"one that says AUTH", true, []listed{{user: defaultUser, command: "auth"}}, 1},
		{"one that has said nothing", false, []listed{{user: defaultUser, command: "null"}}, 0},
		{"one that logs in late", false, []listed{{user: defaultUser, command: "null"}, {user: "app", command: "get"}, {user: "app", command: "get"}}, 1},
		{"one of ours", false, []listed{{user: "admin", command: "auth"}, {user: "admin", command: "client|list", own: true}}, 0},
	} {
		clients := newcomers{open: tt.open, by: map[string]newcomer{}}
		look := clients.look(false)
		for _, one := range tt.looks {
			look(one)
		}
		if got := 10 - clients.unseen(spending{}, spending{logins: 10}); got != tt.logins {
			t.Errorf("%s: %d logins, want %d", tt.what, got, tt.logins)
		}
	}
}

// Whoever tries the retired user still is in the server's log.
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
	w.do(master, "ACL", "SETUSER", "admin", "-acl|log")
	_, _, err = w.kind.Refusals(ctx, c, "app", time.Hour)
	w.refuses(err, "may not run ACL LOG; grant it with: ACL SETUSER admin +acl|log")
}
