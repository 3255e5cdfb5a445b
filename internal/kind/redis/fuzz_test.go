// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// FuzzNodes has a node name others: none is dialed that no operator allows, and none that is named twice hides another.
func FuzzNodes(f *testing.F) {
	f.Add("role:master\r\nslave0:ip=::1,port=7000,state=online\r\n")
	f.Add("master_host:10.0.0.1\r\nmaster_port:6379\r\nslave0:ip=10.0.0.2.evil,port=6379\r\n,port=1\r\n")
	f.Add(cluster7)
	c, err := New().NormalizeConnection(kind.Connection{Options: kind.Options{
		login.FieldURL: "redis://:secret@10.9.9.9", fieldNodes: "10.9.9.8:7000", fieldHosts: "10.0.0.0/24:6379,*.cache.internal",
	}})
	if err != nil {
		f.Fatal(err)
	}
	a, err := readAdmin(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		nodes, err := clusterNodes(text, "node:1", true)
		if err != nil && len(nodes) > 0 {
			t.Error("an error, and nodes nevertheless")
		}
		for _, addr := range slices.Concat(replication(text), nodes) {
			if !a.allowed().dials(t.Context(), addr) {
				continue
			}
			host, port, err := net.SplitHostPort(addr)
			name := strings.ToLower(strings.TrimSuffix(host, "."))
			own := addr == "10.9.9.9:6379" || addr == "10.9.9.8:7000"
			network := port == "6379" && strings.HasPrefix(strings.TrimPrefix(name, "::ffff:"), "10.0.0.") || port == "6379" && strings.HasPrefix(name, "::ffff:")
			if err != nil || !own && !network && !strings.HasSuffix(name, ".cache.internal") {
				t.Errorf("%q is dialed", addr)
			}
		}
		if readInfo(text) == nil {
			t.Error("no fields")
		}
	})
}

// FuzzUser has a node tell what a user may do, in the forms of Redis 6 and 7. The rules made from it set no password and
// let nobody in, whatever the node says: other nodes are given them.
func FuzzUser(f *testing.F) {
	f.Add("~a %R~b >secret", "&x", "+@all -@dangerous nopass", "on")
	f.Add("~*\n#0000", "", "on reset", "nopass")
	f.Add("~a) >x (", "& >x", "+get|x allcommands", "skip-sanitize-payload")
	f.Fuzz(func(t *testing.T, keys, channels, commands, flag string) {
		in7 := []any{
			"flags", items(flag), "passwords", items(flag, commands), "commands", commands, "keys", keys, "channels", channels,
			"selectors",
			[]any{[]any{"commands", commands, "keys", keys, "channels", channels}},
		}
		in6 := []any{"flags", items(flag), "passwords", items(keys), "commands", commands, "keys", items(split(keys)...), "channels", items(split(channels)...)}
		for _, reply := range []any{in7, in6, items(keys, channels, commands), keys} {
			u := readUser(reply)
			for _, rule := range u.rights {
				inner, selector := strings.CutPrefix(rule, "(")
				for i, word := range split(strings.TrimSuffix(inner, ")")) {
					if !isRight(word) && word != "skip-sanitize-payload" || i > 0 && !selector {
						t.Errorf("rule %q of %q", rule, reply)
					}
				}
			}
			if err := checkRules(strings.Join(u.rights, " ")); err != nil {
				t.Errorf("%q: %v", u.rights, err)
			}
			if rights := kept(login.Keep(memory{User: "u", Rights: u.rights})); len(u.rights) > 0 && len(rights) != len(u.rights) {
				t.Errorf("%q is kept as %q", u.rights, rights)
			}
		}
		entries := []any{items("reason", "auth", "username", keys, "client-info", channels), keys}
		if n, _ := refused(entries, keys, time.Hour); n != 1 {
			t.Errorf("%d refusals, want 1", n)
		}
		for _, digest := range []string{keys, commands} {
			if m, ok := readMark(digest); ok && m.digest() != digest {
				t.Errorf("%q is read as %+v", digest, m)
			}
		}
	})
}
