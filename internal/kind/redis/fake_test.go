// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// fake serves what a test says instead of Redis: releases that are not installed here, and what is no Redis. It returns its
// address. Errors are replies that begin with a minus sign and are no ACL rules.
func fake(t testing.TB, answer func(args []string) any) string {
	t.Helper()
	return kit.Serve(t, func(conn net.Conn) {
		for in := bufio.NewReader(conn); ; {
			args, err := request(in)
			if err != nil {
				return
			}
			if _, err := io.WriteString(conn, wire(answer(args))); err != nil {
				return
			}
		}
	})
}

func request(in *bufio.Reader) ([]string, error) {
	count, err := number(in)
	if err != nil {
		return nil, err
	}
	var args []string
	for range count {
		size, err := number(in)
		if err != nil {
			return nil, err
		}
		text := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(in, text); err != nil {
			return nil, err
		}
		args = append(args, string(text[:size]))
	}
	return args, nil
}

func number(in *bufio.Reader) (int, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// raw is what is no reply.
type raw string

func wire(reply any) string {
	switch r := reply.(type) {
	case nil:
		return "$-1\r\n"
	case []any:
		var text strings.Builder
		fmt.Fprintf(&text, "*%d\r\n", len(r))
		for _, item := range r {
			text.WriteString(wire(item))
		}
		return text.String()
	case raw:
		return string(r)
	case string:
		if strings.HasPrefix(r, "-") && !strings.HasPrefix(r, "-@") {
			return r + "\r\n"
		}
		return fmt.Sprintf("$%d\r\n%s\r\n", len(r), r)
	}
	return fmt.Sprintf(":%d\r\n", reply)
}

// items is a list as the driver returns it.
func items(texts ...string) []any {
	var all []any
	for _, text := range texts {
		all = append(all, text)
	}
	return all
}

// script answers by the first words of a command, and to logging in that it is fine.
func script(answers map[string]any) func([]string) any {
	return func(args []string) any {
		for n := len(args); n > 0; n-- {
			if reply, ok := answers[strings.ToUpper(strings.Join(args[:n], " "))]; ok {
				return reply
			}
		}
		switch strings.ToUpper(args[0]) {
		case "AUTH":
			return "OK"
		case "HELLO":
			return []any{}
		}
		return "-ERR unknown command"
	}
}

// fakeWorld is a connection to a fake, and a key of its.
func fakeWorld(t testing.TB, answer func([]string) any) *world {
	t.Helper()
	w := &world{t: t, kind: New()}
	t.Cleanup(func() { _ = w.kind.Close() })
	addr := fake(t, answer)
	w.connect(kind.Options{login.FieldURL: "redis://admin:password-of-the-admin@" + addr, fieldTimeout: "2s"})
	options, err := w.kind.Normalize(kind.Options{kind.OptionConnection: "main"})
	w.ok(err)
	w.key = key.Key{Name: "redis-url", Env: "REDIS_URL", Kind: "redis", Options: options}
	w.adopt("redis://app:" + appPassword + "@" + addr + "/0")
	return w
}

const info6 = "redis_version:6.0.16\r\nredis_mode:standalone\r\nrun_id:one\r\nconfig_file:\r\nrole:master\r\ncluster_enabled:0\r\n"

// Redis 6.0 has neither channels nor selectors, and tells a user's keys without their sign.
func TestRedis6(t *testing.T) {
	t.Parallel()
	var made []string
	made6 := func() any {
		if made == nil {
			return nil
		}
		return []any{"flags", items("on"), "passwords", items(strings.TrimPrefix(made[len(made)-2], "#"), strings.TrimPrefix(made[len(made)-1], "#")), "commands", "-@all +get +acl|whoami", "keys", items("app:*", "b\u00a0c")}
	}
	locked := false
	w := fakeWorld(t, func(args []string) any {
		switch strings.Join(args[:min(3, len(args))], " ") {
		case "ACL GETUSER app":
			if locked {
				return []any{"flags", items("off"), "passwords", []any{}, "commands", "-@all +get +acl|whoami", "keys", items("app:*", "b\u00a0c")}
			}
			return []any{"flags", items("on"), "passwords", items(digest(key.NewValue(appPassword))), "commands", "-@all +get +acl|whoami", "keys", items("app:*", "b\u00a0c")}
		case "ACL GETUSER redis_url_b":
			return nil
		case "ACL GETUSER redis_url_a":
			return made6()
		case "ACL SETUSER redis_url_a":
			made = args[3:]
			return "OK"
		case "ACL SETUSER app":
			locked = true
			return "OK"
		}
		return script(map[string]any{
			"INFO": info6, "CONFIG GET": items("aclfile", ""), "PING": "PONG", "CONFIG REWRITE": "-ERR The server is running without a config file",
			"CLIENT LIST": "id=1 addr=127.0.0.1:1 fd=8 name= flags=N db=0 cmd=get user=app\nid=2 addr=127.0.0.1:2 name=hyvve-engine flags=N cmd=client user=admin\n",
		})(args)
	})
	c := w.plan()
	w.ok(w.kind.Stage(t.Context(), c))
	want := "reset ~app:* ~b\u00a0c -@all +get +acl|whoami on #"
	if got := strings.Join(made, " "); !strings.HasPrefix(got, want) {
		t.Errorf("the new user is made with %q, want %q and the hash", got, want)
	}
	w.ok(w.kind.Verify(t.Context(), c))
	if n, what := w.inUse(c); n != 1 || !strings.Contains(what, "127.0.0.1:1") {
		t.Errorf("in use: %d, %s", n, what)
	}
	w.ok(w.kind.Retire(t.Context(), c))
}

func TestWhatIsNoServerForUs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		answers map[string]any
		words   []string
	}{
		{"a Sentinel", map[string]any{"INFO": "redis_version:7.0.15\r\nredis_mode:sentinel\r\nrun_id:one\r\n"}, []string{"is a Sentinel", "name a Redis server that it watches"}},
		{"Redis 5", map[string]any{"INFO": "redis_version:5.0.14\r\nredis_mode:standalone\r\n"}, []string{"is Redis 5.0.14", "need 6 or newer"}},
		{
			"a server that quotes what it was sent",
			map[string]any{"HELLO": "-ERR unknown command `HELLO`, with args beginning with: `2`, `AUTH`, `admin`, `password-of-the-admin`", "AUTH": "-ERR AUTH <password> called with password-of-the-admin"},
			[]string{"does not take a login of user admin"},
		},
		{"a server that quotes hashes", map[string]any{"INFO": "-ERR no #" + digest(key.NewValue(appPassword))}, []string{"#[hash]"}},
		{"a server that does not say who is who", map[string]any{
			"INFO": info6, "CLIENT LIST": "id=1 addr=127.0.0.1:1 name= cmd=get\n",
			"ACL GETUSER": nil,
		}, []string{"does not say whose its sessions are"}},
		{
			"a server of another protocol",
			map[string]any{"HELLO": raw("HTTP/1.1 400 Bad Request: password-of-the-admin\r\n\r\n"), "INFO": "x"},
			[]string{"does not answer as Redis does; is it another server?"},
		},
		{"a server that takes anything", map[string]any{"INFO": "hello\r\n"}, []string{"does not answer as Redis does: INFO has no redis_version"}},
		{"a server without ACLs", map[string]any{"INFO": info6}, []string{"says to ACL GETUSER: ERR unknown command"}},
		{
			"a node of a cluster that has no address",
			map[string]any{
				"INFO": "redis_version:7.0.15\r\ncluster_enabled:1\r\nrun_id:one\r\n", "CLUSTER NODES": "abc :0@0 master,noaddr - 0 0 1 connected\n",
			},
			[]string{"knows a node abc of the cluster without its address", "CLUSTER FORGET"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := fakeWorld(t, script(tt.answers))
			_, _, err := w.kind.InUse(t.Context(), w.plan())
			w.refuses(err, append(tt.words, "127.0.0.1:")...)
			if strings.Contains(err.Error(), "password-of-the-admin") {
				t.Errorf("error %q holds the administrator's password", err)
			}
		})
	}
}

// Advice for a node that is away is given for no node that answers: starting it would not help.
func TestWhatAnotherNodeHasNamed(t *testing.T) {
	t.Parallel()
	const advice = "start it, or take it out there"
	for _, tt := range []struct {
		name, info string
		words      []string
	}{
		{"Redis 5", "redis_version:5.0.14\r\nredis_mode:standalone\r\n", []string{"is Redis 5.0.14", "need 6 or newer"}},
		{"a Sentinel", "redis_version:7.0.15\r\nredis_mode:sentinel\r\nrun_id:two\r\n", []string{"is a Sentinel"}},
		{"another server", "hello\r\n", []string{"INFO has no redis_version"}},
		{"nobody", "", []string{"cannot be reached", "127.0.0.1:", " has named it; " + advice}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			named := "127.0.0.1:1"
			if tt.info != "" {
				named = fake(t, script(map[string]any{"INFO": tt.info}))
			}
			host, port, _ := strings.Cut(named, ":")
			w := fakeWorld(t, script(map[string]any{"INFO": info6 + "slave0:ip=" + host + ",port=" + port + ",state=online\r\n"}))
			_, _, err := w.kind.InUse(t.Context(), w.plan())
			w.refuses(err, append(tt.words, "node "+named)...)
			if got := strings.Contains(err.Error(), advice); got != (tt.info == "") {
				t.Errorf("error %q, advice %v", err, got)
			}
		})
	}
}
