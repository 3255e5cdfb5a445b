// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

func TestAddress(t *testing.T) {
	for text, want := range map[string]string{
		"cache": "cache:6379", "cache:7000": "cache:7000", "[::1]": "[::1]:6379", "[::1]:7000": "[::1]:7000", "10.0.0.7:1": "10.0.0.7:1",
		"": "", ":6379": "", "cache:": "", "cache:0": "", "cache:65536": "", "cache:redis": "", "::1": "", "a:1:2": "",
	} {
		if got, ok := address(text); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t, want %q", text, got, ok, want)
		}
	}
}

func TestDatabase(t *testing.T) {
	for text, want := range map[string]int{
		"redis://h": 0, "redis://h/": 0, "redis://h/3": 3, "redis://h?db=4": 4, "redis://h/5?db=4": 5, "redis://h/name": 0, "rediss://h:1/2?x=y#z": 2,
	} {
		u, err := dsn.Parse(text, urls.Schemes...)
		if got := database(u); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestReadUser(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for _, tt := range []struct {
		name   string
		reply  []any
		want   user
		rights string
	}{
		{
			"6.0",
			[]any{"flags", items("on", "allkeys", "allcommands"), "passwords", items(hash), "commands", "+@all", "keys", items("*")},
			user{on: true, passwords: []string{hash}},
			"~* +@all",
		},
		{
			"6.2",
			[]any{"flags", items("on", "nopass", "allchannels"), "passwords", []any{}, "commands", "-@all +get", "keys", items("a:*", "b"), "channels", items("*")},
			user{on: true, nopass: true},
			"~a:* ~b resetchannels &* -@all +get",
		},
		{
			"6.2, no channels",
			[]any{"flags", items("off", "skip-sanitize-payload"), "passwords", items(hash), "commands", "-@all", "keys", []any{}, "channels", []any{}},
			user{passwords: []string{hash}},
			"skip-sanitize-payload resetchannels -@all",
		},
		{
			"7.0",
			[]any{
				"flags", items("on", "sanitize-payload"), "passwords", items(hash, "cd"), "commands", "+@all -@dangerous -config|get", "keys", "~a %R~b %W~c\u00a0d",
				"channels", "&x &y*", "selectors",
				[]any{
					[]any{"commands", "-@all +get", "keys", "%R~s*", "channels", ""},
					[]any{"commands", "-@all +publish", "keys", "", "channels", "&z"},
				},
			},
			user{on: true, passwords: []string{hash, "cd"}},
			"~a %R~b %W~c\u00a0d resetchannels &x &y* +@all -@dangerous -config|get (%R~s* resetchannels -@all +get) (resetchannels &z -@all +publish)",
		},
		{"nothing", nil, user{}, ""},
		{"not of this world", []any{"flags", "on", 7, 8, "commands"}, user{}, ""},
	} {
		got := readUser(tt.reply)
		if got.on != tt.want.on || got.nopass != tt.want.nopass || !slices.Equal(got.passwords, tt.want.passwords) || strings.Join(got.rights, " ") != tt.rights {
			t.Errorf("%s: %+v, want %+v with %q", tt.name, *got, tt.want, tt.rights)
		}
	}
}

func TestReplication(t *testing.T) {
	for _, tt := range []struct {
		name, info string
		want       []string
	}{
		{"alone", "role:master\r\nconnected_slaves:0\r\n", nil},
		{"a master", "role:master\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0\r\nslave1:ip=::1,port=7000,state=wait_bgsave\r\n", []string{"10.0.0.2:6379", "[::1]:7000"}},
		{"a replica", "role:slave\r\nmaster_host:cache-0.cache\r\nmaster_port:6379\r\nmaster_link_status:down\r\n", []string{"cache-0.cache:6379"}},
		{"a replica in between", "master_host:a\r\nmaster_port:1\r\nslave0:ip=b,port=2,state=online\r\n", []string{"a:1", "b:2"}},
		{"without an address", "slave0:port=2\r\nslave1:ip=c,port=3\r\n", []string{"c:3"}},
	} {
		if got := replication(tt.info); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

const cluster7 = `07c3 127.0.0.1:30004@31004,host4 slave 67ed 0 1 4 connected
67ed 127.0.0.1:30002@31002,host2,shard-id=x master - 0 1 2 connected 5461-10922
292f 127.0.0.1:30003@31003 master,fail? - 0 1 3 disconnected
6ec2 127.0.0.1:30005@31005,? handshake - 0 0 0 connected
e7d1 127.0.0.1:30001@31001,host1 myself,master - 0 0 1 connected 0-5460
`

func TestClusterNodes(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		secure     bool
		want, err  string
	}{
		{"7", cluster7, false, "127.0.0.1:30004 127.0.0.1:30002 127.0.0.1:30003", ""},
		{"names are in certificates", cluster7, true, "host4:30004 host2:30002 127.0.0.1:30003", ""},
		{"a name without an address", "a :6379@16379,host master - 0 0 1 connected\n", false, "host:6379", ""},
		{"IPv6", "a ::1:6379@16379 master - 0 0 1 connected\n", false, "[::1]:6379", ""},
		{"before 4.0", "a 10.0.0.1:6379 master - 0 0 1 connected\n", false, "10.0.0.1:6379", ""},
		{"no address", "a :0@0 master - 0 0 1 connected\n", false, "", "CLUSTER FORGET"},
		{"noaddr", "a 10.0.0.1:6379@1 slave,noaddr b 0 0 1 connected\n", false, "", "CLUSTER FORGET"},
		{"not of this world", "a\n\nb c\nd e f\n", false, "", "CLUSTER FORGET"},
	} {
		got, err := clusterNodes(tt.text, "node:1", tt.secure)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestPlain(t *testing.T) {
	hash := digest(key.NewValue(appPassword))
	for _, tt := range []struct {
		err  error
		args []any
		want string
	}{
		{answer("ERR Error in ACL SETUSER modifier '#" + hash + "': x"), []any{"ACL", "SETUSER", "u", "#" + hash}, "node n:1 says to ACL SETUSER: ERR Error in ACL SETUSER modifier '#[hash]': x"},
		{answer("WRONGPASS invalid username-password pair"), []any{"INFO"}, "node n:1 refuses user admin: the password is wrong, or the user is off or not there"},
		{answer("NOPERM this user has no permissions"), []any{"CLIENT", "KILL", "USER", "u"}, "node n:1: user admin may not run CLIENT KILL; grant it with: ACL SETUSER admin +client|kill"},
		{fmt.Errorf("logging in: %w", noLogin), []any{"INFO"}, "node n:1 does not take a login of user admin: it has no such users, or is no Redis server"},
		{context.DeadlineExceeded, []any{"INFO"}, "node n:1 did not answer in time"},
		{goredis.ErrPoolTimeout, []any{"INFO"}, "node n:1 did not answer in time"},
		{context.Canceled, []any{"INFO"}, "node n:1: the call was cancelled"},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, []any{"INFO"}, "node n:1 cannot be reached: dial: refused"},
		{fault{"said already", nil}, []any{"INFO"}, "said already"},
	} {
		got := plain(tt.err, "n:1", "admin", tt.args)
		if got == nil || got.Error() != tt.want {
			t.Errorf("%v: %v, want %s", tt.err, got, tt.want)
		}
	}
	if plain(nil, "n:1", "admin", nil) != nil || together(nil, nil) != nil {
		t.Error("an error of nothing")
	}
	twice := together(errors.New("a"), nil, errors.New("a"), context.Canceled)
	if twice.Error() != "a; context canceled" || !errors.Is(twice, context.Canceled) {
		t.Errorf("together: %v", twice)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	k := New()
	for _, tt := range []struct {
		options kind.Options
		words   string
	}{
		{kind.Options{"nodes": "x"}, `option "nodes" is not known`},
		{kind.Options{login.OptionURL: "http://cache"}, "url: it is not a URL of the form redis://"},
		{kind.Options{login.OptionURL: "redis://app:secret@cache"}, "url: the URL holds a user or a password; leave both out"},
		{kind.Options{login.OptionURL: "redis://cache:secret"}, "url: the URL's host is not host:port"},
		{kind.Options{login.OptionURLs: "QUEUE_URL"}, "urls: one is not NAME=URL"},
		{kind.Options{login.OptionURLs: "QUEUE_URL=redis://:secret@q"}, "urls: QUEUE_URL: the URL holds a user or a password"},
		{kind.Options{login.OptionURLs: "A=redis://q A=redis://r"}, "urls: A is named twice"},
		{kind.Options{optionStrategy: "both"}, `strategy "both" is not known; use alternating or dual_password`},
		{kind.Options{kind.OptionUsername: "two words"}, "username: the name holds white space"},
		{kind.Options{kind.OptionUsername: `quo"te`}, "username: the name holds a quote"},
		{kind.Options{kind.OptionUsername: "quo'te"}, "username: the name holds a quote"},
		{kind.Options{kind.OptionUsername: "tab\tbed"}, "username: the name holds white space"},
		{kind.Options{kind.OptionUsername: strings.Repeat("x", 257)}, "username: the name is 257 bytes long"},
		{kind.Options{optionRules: "+@all >secret"}, "rules: one is a password or its hash"},
		{kind.Options{optionRules: "+@all (>secret ~a)"}, "rules: one is a password or its hash"},
		{kind.Options{optionRules: "+@all NoPass"}, "rules: NoPass is not a right"},
		{kind.Options{login.OptionVerify: "no"}, `verify_urls "no" is neither true nor false`},
	} {
		_, err := k.Normalize(tt.options)
		if err == nil || !strings.Contains(err.Error(), tt.words) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: %v, want %q", tt.options, err, tt.words)
		}
	}
	for _, value := range []string{"", "cache:6379", "redis://", "redis://two%20words:secret@h", "redis://h:port", "redis://a%22:secret@h", "redis://app:se/cret@h"} {
		if _, err := k.Check(nil, key.NewValue(value)); err == nil || strings.Contains(err.Error(), "cret") {
			t.Errorf("value %q: %v", value, err)
		}
	}
	if warnings, err := k.Check(nil, key.NewValue("redis://u:p@h")); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "without TLS") {
		t.Errorf("in the clear: %v, %v", warnings, err)
	}
	if warnings, err := k.Check(nil, key.NewValue("redis://h")); err != nil || len(warnings) != 1 {
		t.Errorf("a URL without a password: %v, %v", warnings, err)
	}
}

func TestConnectionsAreChecked(t *testing.T) {
	k := New()
	for _, tt := range []struct {
		options kind.Options
		secrets map[string]string
		words   string
	}{
		{kind.Options{}, nil, "url is empty; give a node's"},
		{kind.Options{login.FieldURL: "http://h"}, nil, "url: it is not a URL"},
		{kind.Options{login.FieldURL: "redis://a:secret@h/3"}, nil, "url: there is something after the host"},
		{kind.Options{login.FieldURL: "redis://a:secret@h?x=y"}, nil, "url: there is something after the host"},
		{kind.Options{login.FieldURL: "redis://a:secret@h,i"}, nil, "url names several hosts; name one, and the others in nodes"},
		{kind.Options{login.FieldURL: "redis://h"}, nil, "password is empty"},
		{kind.Options{login.FieldURL: "redis://a%20b:secret@h"}, nil, "username: the name holds white space"},
		{kind.Options{login.FieldURL: "redis://:secret@h", fieldTimeout: "1h"}, nil, `timeout "1h" is not a duration from 100ms to 30s`},
		{kind.Options{login.FieldURL: "redis://:secret@h", fieldNodes: "a,redis://:secret@b:1"}, nil, `nodes: number 2 is neither host:port nor announced=reachable`},
		{kind.Options{login.FieldURL: "rediss://:secret@h", login.FieldCA: "no"}, nil, "tls_ca holds no certificate in PEM"},
		{kind.Options{login.FieldURL: "rediss://:secret@h", login.FieldCert: "no"}, nil, "tls_cert and tls_key belong together"},
		{kind.Options{login.FieldURL: "rediss://:secret@h", login.FieldCert: "no"}, map[string]string{login.FieldKey: "secret"}, "tls_cert and tls_key are not a certificate and its private key"},
		{kind.Options{login.FieldURL: "redis://:secret@h", fieldServerName: "x"}, nil, "url is not rediss://"},
		{kind.Options{login.FieldURL: "redis://:secret@h"}, map[string]string{"url": "secret"}, "url is not a secret field"},
	} {
		c := kind.Connection{Options: tt.options, Secrets: map[string]key.Value{}}
		for name, text := range tt.secrets {
			c.Secrets[name] = key.NewValue(text)
		}
		if _, err := k.NormalizeConnection(c); err == nil || !strings.Contains(err.Error(), tt.words) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%v: %v, want %q", tt.options, err, tt.words)
		}
	}
	c, err := k.NormalizeConnection(kind.Connection{Options: kind.Options{login.FieldURL: "redis://%C3%BC:s%40cret@h:1/0"}})
	if err != nil || c.Options[login.FieldURL] != "redis://h:1" || c.Options[fieldUsername] != "ü" || c.Secrets[kind.FieldPassword].Reveal() != "s@cret" {
		t.Errorf("%v, %v", c.Options, err)
	}
}
