// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		hosts, addr string
		want        bool
	}{
		{"", "cache:6379", true}, // url's
		{"", "node-1:7000", true},
		{"", "cache:6380", false},
		{"", "other:6379", false},
		{"", "127.0.0.1:7001", true}, // what localhost in nodes= resolves to
		{"", "127.0.0.1:7002", false},
		{"*.cache.internal", "a.cache.internal:1", true},
		{"*.cache.internal", "a.b.Cache.Internal.:1", true},
		{"*.cache.internal", "cache.internal:1", false},
		{"*.cache.internal", "evilcache.internal:1", false},
		{"*.cache.internal", "cache.internal.evil:1", false},
		{"x, *.cache.internal:6379", "a.cache.internal:6379", true},
		{"x, *.cache.internal:6379", "a.cache.internal:6380", false},
		{"10.0.0.7", "10.0.0.7:1", true},
		{"10.0.0.7", "10.0.0.70:1", false},
		{"10.0.0.7", "::ffff:10.0.0.7:1", false},
		{"10.0.0.7", "[::ffff:10.0.0.7]:1", true},
		{"10.0.0.0/24:6379", "10.0.0.200:6379", true},
		{"*", "anything:1", true},
		{"10.0.0.0/24:6379", "10.0.0.200:22", false},
		{"10.0.0.0/24", "10.0.1.1:1", false},
		{"10.0.0.0/24", "10.0.0.1.evil.example:1", false},
		{"fd00::/8", "[fd00::1]:1", true},
		{"[fd00::1]:7", "[fd00::1]:7", true},
		{"fd00::1", "[fd00:0::1]:9", true},
		{"[fd00::1]:7", "[fd00::1]:8", false},
	} {
		c, err := New().NormalizeConnection(kind.Connection{Options: kind.Options{
			login.FieldURL: "redis://:secret@cache", fieldNodes: "node-1:7000,localhost:7001", fieldHosts: tt.hosts,
		}})
		if err != nil {
			t.Fatalf("%s: %v", tt.hosts, err)
		}
		a, err := readAdmin(c)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.allowed().dials(t.Context(), tt.addr); got != tt.want {
			t.Errorf("hosts=%s: %s is allowed: %t", tt.hosts, tt.addr, got)
		}
	}
	_, err := New().NormalizeConnection(kind.Connection{Options: kind.Options{login.FieldURL: "redis://:secret@cache", fieldHosts: "ok,redis://:secret@b:1"}})
	if err == nil || !strings.Contains(err.Error(), "hosts: number 2 is not a host name") || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// trap counts who connects to it.
func trap(t *testing.T) (addr string, calls *atomic.Int32) {
	t.Helper()
	calls = &atomic.Int32{}
	return kit.Serve(t, func(net.Conn) { calls.Add(1) }), calls
}

// A client that may replicate can announce any address. The kind does not dial it and sends no password there.
func TestAddressThatNobodyAllows(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master := start(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	addr, calls := trap(t)
	w.connect(kind.Options{login.FieldURL: master.AdminURL(), fieldHosts: "*.cache.internal"})
	w.app("~* +@all")
	before := w.rules(master)
	c := w.plan()
	_, port, err := net.SplitHostPort(addr)
	w.ok(err)
	attacker := w.client(master, c.From, "").Conn()
	w.ok(attacker.Do(ctx, "REPLCONF", "listening-port", port, "ip-address", "127.0.0.1").Err())
	w.ok(attacker.Do(ctx, "REPLCONF", "capa", "eof", "capa", "psync2").Err())
	_ = attacker.Do(ctx, "PSYNC", "?", "-1").Err()
	w.eventually(func() bool { return strings.Contains(w.do(master, "INFO", "replication"), "port="+port) }, func() string { return "the attacker is no replica" })
	words := []string{"node " + master.Addr + ` names a node at "` + addr + `", which is not allowed`, "add it to hosts= (or nodes=) of hyvve/connections/main"}
	w.refuses(w.kind.Stage(ctx, c), words...)
	_, _, err = w.kind.InUse(ctx, c)
	w.refuses(err, words...)
	notes, err := w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
	if text := strings.Join(notes, "\n"); !strings.Contains(text, "rotations are stopped: "+words[0]) {
		t.Errorf("notes: %s", text)
	}
	w.refuses(w.kind.Verify(ctx, c), words...)
	if after := w.rules(master); after != before {
		t.Errorf("users before:\n%s\nand after:\n%s", before, after)
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("an address that nobody allows was dialed %d times", n)
	}
	c.Cut = true // what is compromised is locked nevertheless
	w.refuses(w.kind.Retire(ctx, c), words...)
	if w.valid(master, c.From) {
		t.Error("the old version is valid")
	}
}

// The words that a replica announces itself with cannot hide another replica, nor what the server is.
func TestAnnouncedWords(t *testing.T) {
	t.Parallel()
	info := readInfo("run_id:one\r\nredis_mode:standalone\r\nslave0:ip=x\r\nrun_id:two\r\ncluster_enabled:1\r\n,port=1\r\n")
	if info["run_id"] != "one" || clustered(info) {
		t.Errorf("%v", info)
	}
	got := replication("slave0:ip=10.0.0.9,ip=x\r\nslave1:ip=10.0.0.9,port=1\r\n,port=2\r\nslave1:ip=10.0.0.8,port=6379\r\nslavery:ip=1,port=1\r\n")
	if text := fmt.Sprint(got); !strings.Contains(text, "10.0.0.8:6379") || strings.Contains(text, " 1:1") {
		t.Errorf("%v", got)
	}
}

func TestTooManyNodes(t *testing.T) {
	t.Parallel()
	var info strings.Builder
	info.WriteString(info6)
	for i := range 2000 {
		fmt.Fprintf(&info, "slave%d:ip=127.0.0.1,port=%d,state=online\r\n", i, 1+i)
	}
	w := fakeWorld(t, script(map[string]any{"INFO": info.String()}))
	_, _, err := w.kind.InUse(t.Context(), w.plan())
	w.refuses(err, "names more than 1000 nodes")
}

// A node names thousands of addresses that nobody allows. Each name that an operator gave is looked up once for all of them.
func TestStrangersCostFewLookups(t *testing.T) {
	var lookups atomic.Int32
	resolver := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = resolver })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		lookups.Add(1)
		return nil, errors.New("there is no name server")
	}}
	var info strings.Builder
	info.WriteString(info6)
	for i := range 2000 {
		fmt.Fprintf(&info, "slave%d:ip=10.0.%d.%d,port=7001,state=online\r\n", i, i/250, i%250)
	}
	w := fakeWorld(t, script(map[string]any{"INFO": info.String()}))
	w.connection.Options[fieldNodes] = "cache.invalid:7001"
	_, strangers, err := w.kind.explore(t.Context(), w.connection)
	if n := lookups.Load(); len(strangers) != 2000 || n == 0 || n > 100 {
		t.Errorf("%d strangers, and %d questions to a name server (%v)", len(strangers), n, err)
	}
}
