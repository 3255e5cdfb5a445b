// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

func TestConnectionsWithoutTheirServer(t *testing.T) {
	b := newBackendTest(t)
	b.read("config") // opens the mount
	for want, data := range map[string]map[string]any{
		"kind is empty":               {"url": "postgresql://root@db/postgres"},
		`kind "token" has no`:         {"kind": "token"},
		"url is empty":                {"kind": "postgres"},
		"password is empty":           {"kind": "postgres", "url": "postgresql://root@db/postgres"},
		"names no database":           {"kind": "postgres", "url": "postgresql://root:canary-x@db"},
		"number 2 is not host":        {"kind": "postgres", "url": "postgresql://root:canary-x@db/postgres", "replicas": "a:1 postgresql://root:canary-x@elsewhere/x"},
		"belong together":             {"kind": "postgres", "url": "postgresql://root:canary-x@db/postgres", "tls_cert": "x"},
		"cannot be reached":           {"kind": "postgres", "url": "postgresql://root:canary-x@127.0.0.1:1/postgres"},
		"percent-encoded":             {"kind": "postgres", "url": "postgresql://root:canary-%zz@db/postgres"},
		"pgbouncers: number 1 is not": {"kind": "postgres", "url": "postgresql://root:canary-x@db/postgres", "pgbouncers": "postgresql://a:canary-y@h/pgbouncer"},
		`url: the URL's query holds the parameter "password"`:                    {"kind": "postgres", "url": "postgresql://root@db/postgres?sslmode=require&password=canary-q"},
		`url: the URL's query holds the parameter "sslpassword"`:                 {"kind": "postgres", "url": "postgresql://root:canary-x@db/postgres?SSLPassword=canary-q"},
		`pgbouncers: number 1: the URL's query holds the parameter "password"`:   {"kind": "postgres", "url": "postgresql://root:canary-x@db/postgres", "pgbouncers": "postgresql://a@h/pgbouncer?p%61ssword=canary-y"},
		`url: the URL's query holds the parameter "auth_token"`:                  {"kind": "redis", "url": "redis://root@cache:6379?auth_token=canary-y"},
		`url: the URL's query holds the parameter "service", which makes a clie`: {"kind": "postgres", "url": "postgresql://root:canary-x@db/postgres?service=canary"},
	} {
		b.refuses(logical.UpdateOperation, "connections/main", data, want)
	}
	b.write("connections/main", map[string]any{"kind": "postgres", "url": "postgresql://root:canary-root@127.0.0.1:1/postgres", "verify_connection": false})
	read := b.read("connections/main").Data
	if read["url"] != "postgresql://root@127.0.0.1:1/postgres" || read["kind"] != "postgres" {
		t.Errorf("read: %v", read)
	}
	b.write("connections/main", map[string]any{"pgbouncers": "postgresql://a@127.0.0.1:3/pgbouncer", "verify_connection": false}) // the password stays
	b.refuses(logical.UpdateOperation, "connections/main", map[string]any{"replicas": "127.0.0.1:2", "verify_connection": false}, "replicas was changed, which decides where password is sent")
	b.write("connections/main", map[string]any{"replicas": "127.0.0.1:2", "password": "canary-root", "verify_connection": false})
	if resp := b.call(logical.UpdateOperation, "connections/main/rotate-root", nil); !resp.IsError() || !strings.Contains(resp.Error().Error(), "cannot be reached") {
		t.Errorf("rotate-root: %v", resp)
	}
	if read := b.read("connections/main").Data; read["root_rotation_unfinished"] != true || read["replicas"] != "127.0.0.1:2" {
		t.Errorf("read: %v", read)
	}
	b.refuses(logical.UpdateOperation, "connections/nope/rotate-root", nil, "is not known")
	b.refuses(logical.UpdateOperation, "keys/database-url", map[string]any{"kind": "postgres", "connection": "nope"}, `connection "nope" is not known`)
	b.refuses(logical.UpdateOperation, "keys/database-url", map[string]any{"kind": "postgres", "connection": "main", "urls": "DIRECT_URL"}, "urls: one is not NAME=URL")
	b.refuses(logical.UpdateOperation, "keys/database-url", map[string]any{"kind": "postgres", "connection": "main", "url": "postgresql://a:canary-b@db/x"}, "leave both out")
	b.refuses(logical.UpdateOperation, "presets/hyvve", map[string]any{"database": "nope"}, `connection "nope" is not known`)
	b.refuses(logical.UpdateOperation, "presets/hyvve", map[string]any{"redis": "main"}, "REDIS_URL needs one of kind redis")
	b.write("connections/cache", map[string]any{"kind": "redis", "url": "redis://root:canary-cache@127.0.0.1:1", "verify_connection": false})
	b.write("presets/hyvve", map[string]any{"database": "main", "redis": "cache"})
	if key := b.read("keys/redis-url").Data; key["kind"] != "redis" || key["connection"] != "cache" || key["strategy"] != "alternating" {
		t.Errorf("key: %v", key)
	}
	if key := b.read("keys/database-url").Data; key["kind"] != "postgres" || key["connection"] != "main" {
		t.Errorf("key: %v", key)
	}
	b.refuses(logical.UpdateOperation, "keys/redis-url", map[string]any{"value": "redis://:canary-redis@127.0.0.1:1/0"}, "nothing was stored")
	b.refuses(logical.UpdateOperation, "keys/database-url", map[string]any{"value": "postgresql://app:canary-app@127.0.0.1:1/app"}, "nothing was stored")
	presents := b.read("workloads/api").Data["presents"].([]string)
	if !slices.Contains(presents, "database-url") || !slices.Contains(presents, "redis-url") {
		t.Errorf("workload api presents %v", presents)
	}
	if resp := b.call(logical.DeleteOperation, "connections/main", nil); !resp.IsError() || !strings.Contains(resp.Error().Error(), "is used by key database-url") {
		t.Errorf("deleting a connection in use: %v", resp)
	}
	if text := b.answers.String() + b.log.String(); strings.Contains(text, "canary") {
		t.Error("a password stands in an answer or a log")
	}
}

// An earlier release stored URLs as they were written.
func TestStoredURLsAreReadWithoutPasswords(t *testing.T) {
	options := connectionData(kind.Connection{Name: "main", Kind: "postgres", Options: kind.Options{
		"url": "postgresql://root@db/postgres?sslmode=require&pass%77ord=canary-1&application_name=x", "replicas": "a:1,b:2",
		"pgbouncers": "postgresql://a@h/pgbouncer?password=canary-2\npostgresql://b:canary-3@h/pgbouncer", "tls_ca": "-----BEGIN",
	}}).Options
	want := map[string]string{
		"url": "postgresql://root@db/postgres?sslmode=require&pass%77ord=REDACTED&application_name=x", "replicas": "a:1,b:2",
		"pgbouncers": "postgresql://a@h/pgbouncer?password=REDACTED\npostgresql://b@h/pgbouncer", "tls_ca": "-----BEGIN",
	}
	for name, text := range want {
		if options[name] != text {
			t.Errorf("%s is read as %q, want %q", name, options[name], text)
		}
	}
	if text := redacted("A_URL=redis://h/0?password=canary B=x"); text != "A_URL=redis://h/0?password=REDACTED B=x" {
		t.Errorf("a template is read as %q", text)
	}
}

// A stored password is sent nowhere but where it was given for, and the journal keeps who tried otherwise.
func TestStoredPasswordStaysWhereItWasGivenFor(t *testing.T) {
	b := newBackendTest(t)
	b.read("config")
	impostor, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer impostor.Close() //nolint:errcheck // a test's own
	called := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := impostor.Accept()
			if err != nil {
				return
			}
			called <- struct{}{}
			_ = conn.Close()
		}
	}()
	at := impostor.Addr().String()
	b.write("connections/main", map[string]any{"kind": "postgres", "url": "postgresql://root@127.0.0.1:1/postgres", "password": "canary-pg", "pgbouncer_password": "canary-console", "verify_connection": false})
	b.write("connections/cache", map[string]any{"kind": "redis", "url": "redis://root@127.0.0.1:1", "password": "canary-redis", "verify_connection": false})
	moves := []struct {
		path string
		data map[string]any
		want string
	}{
		{"main", map[string]any{"url": "postgresql://root@" + at + "/postgres"}, "url was changed"},
		{"main", map[string]any{"url": "postgresql://root@127.0.0.1:1/postgres?sslmode=disable"}, "url was changed"},
		{"main", map[string]any{"url": "postgresql://other@127.0.0.1:1/postgres"}, "url was changed"},
		{"main", map[string]any{"replicas": at}, "replicas was changed"},
		{"main", map[string]any{"pgbouncers": "postgresql://a@" + at + "/pgbouncer"}, "pgbouncer_password=-"},
		{"cache", map[string]any{"url": "redis://root@" + at}, "password=-"},
		{"cache", map[string]any{"url": "rediss://root@127.0.0.1:1"}, "url was changed"},
		{"cache", map[string]any{"username": "other"}, "username was changed"},
		{"cache", map[string]any{"nodes": at}, "nodes was changed"},
	}
	before := len(b.list("journal"))
	for _, m := range moves {
		for _, verify := range []bool{true, false} {
			m.data["verify_connection"] = verify
			b.refuses(logical.UpdateOperation, "connections/"+m.path, m.data, m.want)
		}
	}
	select {
	case <-called:
		t.Error("the impostor was called")
	default:
	}
	ids := b.list("journal")[before:]
	if len(ids) != len(moves) {
		t.Fatalf("%d refused writes, the same twice each, left %d entries", len(moves), len(ids))
	}
	entry := b.read("journal/" + ids[0]).Data
	if text := fmt.Sprint(entry); !strings.Contains(text, at) || !strings.Contains(text, "postgresql://root@127.0.0.1:1/postgres") || entry["connection"] != "main" || !strings.Contains(entry["refused"].(string), "url was changed") {
		t.Errorf("entry: %v", entry)
	}
	b.write("connections/cache", map[string]any{"timeout": "2s", "verify_connection": false})
	b.write("connections/cache", map[string]any{"url": "redis://root:canary-again@127.0.0.1:2", "verify_connection": false})
	for want, data := range map[string]map[string]any{
		"password ends with a newline":           {"password": "canary-n\n"},
		"pgbouncer_password ends with a newline": {"pgbouncer_password": "canary-n\n"},
	} {
		b.refuses(logical.UpdateOperation, "connections/main", data, want)
	}
	if v := b.read("journal/verify").Data; v["whole"] != true {
		t.Errorf("verify: %v", v)
	}
	for _, id := range b.list("journal") {
		b.read("journal/" + id)
	}
	if text := b.answers.String() + b.log.String(); strings.Contains(text, "canary") {
		t.Error("a password stands in an answer or a log")
	}
}

// A newline at the end of a value is named before what it leads to.
func TestNewlineAtTheEndOfAValueIsNamed(t *testing.T) {
	b := newBackendTest(t)
	b.read("config")
	for _, data := range []map[string]any{
		{"kind": "token", "format": "base64", "rule": "encryption-master-key", "value": strings.Repeat("QUFB", 10) + "QUE=\n"},
		{"kind": "external", "value": "canary\n"},
	} {
		b.refuses(logical.UpdateOperation, "keys/one", data, "key one: value ends with a newline")
		if said := b.call(logical.UpdateOperation, "keys/one", data).Error().Error(); strings.Contains(said, "openssl rand") { // which adds the newline
			t.Error(said)
		}
	}
	b.refuses(logical.UpdateOperation, "keys/one", map[string]any{"kind": "token", "format": "base64", "rule": "encryption-master-key", "value": "QUFB\n"}, "besides: ")
}

// A preset that is written again gives its new keys to the workloads that are there. What else they lack it says, by a command that
// works. A list that drops keys is noticed.
func TestPresetExtendsWorkloads(t *testing.T) {
	b := newBackendTest(t)
	b.write("connections/main", map[string]any{"kind": "postgres", "url": "postgresql://root:canary-root@127.0.0.1:1/postgres", "verify_connection": false})
	b.write("presets/hyvve", map[string]any{"generate": true, "workloads": "api,agents"})
	before := b.read("workloads/agents").Data["presents"].([]string)
	resp := b.call(logical.UpdateOperation, "presets/hyvve", map[string]any{"database": "main", "workloads": "agents"})
	if made := fmt.Sprint(resp.Data); !strings.Contains(made, "database-url of workload agents") {
		t.Errorf("made: %s", made)
	}
	after := b.read("workloads/agents").Data["presents"].([]string)
	if !slices.Contains(after, "database-url") || len(after) != len(before)+1 {
		t.Errorf("%v became %v", before, after)
	}
	b.write("workloads/agents", map[string]any{"remove_presents": before[0]}) // at somebody's will
	resp = b.call(logical.UpdateOperation, "presets/hyvve", map[string]any{"database": "main", "workloads": "agents"})
	_, command, ok := strings.Cut(strings.Join(resp.Warnings, "\n"), "vault write hyvve/workloads/agents ")
	command, _, _ = strings.Cut(command, "\n")
	if !ok || len(b.read("workloads/agents").Data["presents"].([]string)) != len(before) {
		t.Fatalf("warnings: %q", resp.Warnings)
	}
	data := map[string]any{}
	for _, field := range strings.Fields(command) {
		name, value, _ := strings.Cut(field, "=")
		data[name] = value
	}
	b.write("workloads/agents", data)
	resp = b.call(logical.UpdateOperation, "presets/hyvve", map[string]any{"database": "main", "workloads": "agents"})
	if strings.Contains(fmt.Sprint(resp.Warnings), "hyvve/workloads/agents") {
		t.Errorf("warnings when nothing is missing: %q", resp.Warnings)
	}
	resp = b.call(logical.UpdateOperation, "workloads/agents", map[string]any{"presents": "database-url"})
	if !strings.Contains(fmt.Sprint(resp.Warnings), before[0]) || strings.Contains(fmt.Sprint(resp.Warnings), "database-url") {
		t.Errorf("warnings of a list that drops keys: %q", resp.Warnings)
	}
}
