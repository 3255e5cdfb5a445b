// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func take(t *testing.T, b *Budget, units int64, cut func()) *Share {
	t.Helper()
	s, ok := b.Take(t.Context(), units, cut)
	if !ok {
		t.Fatalf("%d units were not to be had", units)
	}
	return s
}

// connections returns how many are open.
func connections(c *Conns) int {
	b, unlock := c.books.Lock()
	defer unlock()
	return len(b.all)
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		never := func() { t.Error("a request was cut whose client has done its part") }
		done := take(t, b, 4, never)
		if !done.Keep() {
			t.Error("it counts as cut")
		}
		var slow, second *Share
		ended := 0
		slow = take(t, b, 3, func() { go func() { ended++; slow.Return() }() })
		second = take(t, b, 3, func() { go func() { ended++; second.Return() }() })
		if _, ok := b.Take(t.Context(), 7, never); ok || ended != 0 || b.Held() != 10 {
			t.Errorf("more than can be cleared was given, or somebody was cut for nothing: %d, %d held", ended, b.Held())
		}
		third := take(t, b, 2, never)
		if !slow.Cut() || second.Cut() || b.Held() != 9 || ended != 1 {
			t.Errorf("the slowest was not the one that was cut: %d held", b.Held())
		}
		if slow.Keep() {
			t.Error("one that was cut counts as whole")
		}
		third.Keep()
		done.Wait(1) // the answer is smaller than the request was
		if b.Held() != 6 {
			t.Errorf("%d held", b.Held())
		}
		done.cut = func() { go done.Return() }
		take(t, b, 5, never).Keep()
		if !second.Cut() || done.Cut() || b.Held() != 8 {
			t.Errorf("%d held", b.Held())
		}
		for _, s := range []*Share{done, third, second, slow, nil} {
			s.Return()
			s.Return() // once more does nothing
			s.Wait(1)
		}
		if b.Held() != 5 {
			t.Errorf("%d held at last", b.Held())
		}
	})
}

// One that was cut and does not end keeps what it holds: the budget stays a bound, and a client that waits gets an error after a while.
func TestBudgetIsABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		stuck := take(t, b, 1, func() {})
		begun := time.Now()
		if _, ok := b.Take(t.Context(), 1, func() {}); ok || time.Since(begun) != patience {
			t.Errorf("given: %v, after %s", ok, time.Since(begun))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := b.Take(ctx, 1, func() {}); ok {
			t.Error("given to somebody who is gone")
		}
		stuck.Return()
		take(t, b, 1, func() {})
		b.account.Do(func(a *account) {
			if a.wanted != 0 || a.leaving != 0 || a.held != 1 {
				t.Errorf("%d wanted, %d leaving, %d held", a.wanted, a.leaving, a.held)
			}
		})
	})
}

// At the limit, who has been silent for the longest time makes room, and nobody whose request is under way.
func TestConns(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			entered <- struct{}{}
			<-leave
		}
	})}
	conns := NewConns(3)
	conns.Bound(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	defer server.Close() //nolint:errcheck // nothing is pending
	open := func(text string) net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	answered := func(c net.Conn) bool {
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}
	const short, long = "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /long HTTP/1.1\r\nHost: x\r\n\r\n"
	busy := open(long)
	<-entered
	half := open("GET / HT")
	kit.Until(t, "it is open", func() bool { return connections(conns) == 2 })
	idle := open(short)
	if !answered(idle) {
		t.Fatal("no answer")
	}
	another := open(short)
	if !answered(another) {
		t.Error("a new connection had no answer, beside a half-sent request")
	}
	if _, err := half.Read(make([]byte, 1)); err == nil {
		t.Error("the half-sent request still has its connection")
	}
	for range 2 { // now those that were idle go
		one := open(long)
		<-entered
		defer one.Close() //nolint:errcheck // nothing is pending
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("the idle connection is still there")
	}
	if answered(open(short)) || connections(conns) != 3 {
		t.Errorf("one more than may be was answered, beside three whose requests are under way; %d are open", connections(conns))
	}
	close(leave)
	if !answered(busy) {
		t.Error("a request that was under way had no answer")
	}
	_ = busy.Close()
	kit.Until(t, "a place is free", func() bool { return connections(conns) < 3 })
}
