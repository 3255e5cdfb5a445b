// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"strings"
	"testing"
)

func TestHostsAllow(t *testing.T) {
	for _, c := range []struct {
		rules         string
		allow, refuse string
	}{
		{"db", "db:5432 DB:1 db.:5 db", "db2:5432 a.db:5432 d:5432"},
		{"db:5432", "db:5432", "db:5433 db"},
		{"*.example.com", "a.example.com:1 a.b.EXAMPLE.com", "example.com:1 aexample.com:1 a.example.com.evil:1 .example.com"},
		{"*.example.com:6379", "a.example.com:6379", "a.example.com:6380"},
		{"10.0.0.7", "10.0.0.7:5432 [::ffff:10.0.0.7]:5432", "10.0.0.8:5432 db:5432"},
		{"10.0.0.0/8, fd00::/8", "10.9.9.9:1 [fd00::1]:6379 fd00::1", "11.0.0.1:1 [fe80::1]:6379 10.evil.example:1"},
		{"10.0.0.0/8:6379 [fd00::/8]:6379", "10.1.1.1:6379 [fd00::1]:6379", "10.1.1.1:6380 [fd00::1]:6380"},
		{"::1 [::2]:5", "[::1]:9 [::2]:5", "[::2]:6 localhost:9"},
		{"/run/postgresql", "/run/postgresql", "/run/postgresql2 /run"},
		{"*", "anything:1 10.0.0.1:2 /run/x", ""},
		{"", "", "db:5432 localhost:1 10.0.0.1:2"},
		{"0.0.0.0/0", "1.2.3.4:5", "[::1]:5 db:5"},
		{"::ffff:10.0.0.7", "10.0.0.7:1", "10.0.0.8:1"},
	} {
		h, err := ParseHosts(c.rules)
		if err != nil {
			t.Errorf("%q: %v", c.rules, err)
			continue
		}
		for _, at := range strings.Fields(c.allow) {
			if !h.AllowAddress(at) {
				t.Errorf("%q refuses %s", c.rules, at)
			}
		}
		for _, at := range strings.Fields(c.refuse) {
			if h.AllowAddress(at) {
				t.Errorf("%q allows %s", c.rules, at)
			}
		}
	}
}

func TestParseHostsRefuses(t *testing.T) {
	for _, text := range []string{
		"db:", "db:0", "db:70000", "db:x", "*", "*x", "*.", "a.*.b", "10.0.0.0/33", "10.0.0.0/8/8", "redis://u:s3cret@h", "[::1", "[::1]5", ":5", "a b:x", "::ffff:10.0.0.0/104",
	} {
		_, err := ParseHosts(text)
		if text == "*" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A server on this machine matches every name of the machine; no other server does.
func TestHostsOf(t *testing.T) {
	for _, own := range []string{"127.0.0.1:5432", "localhost:5432", "[::1]:5432", "/run/postgresql"} {
		for _, at := range []string{"127.0.0.1:6432", "localhost", "LOCALHOST:1", "127.8.8.8:1", "[::1]:9", "/tmp/pg"} {
			if !HostsOf("db:5432", own).AllowAddress(at) {
				t.Errorf("%s refuses %s", own, at)
			}
		}
		if HostsOf(own).AllowAddress("db:5432") || HostsOf(own).AllowAddress("10.0.0.1:5432") {
			t.Errorf("%s allows another machine", own)
		}
	}
	h := HostsOf("db:5432", "10.0.0.7:1", "[fd00::1]:2", "fd00::2")
	for at, want := range map[string]bool{
		"db:6432": true, "10.0.0.7:9": true, "[fd00::1]:9": true, "[fd00::2]:9": true, "localhost:5432": false, "127.0.0.1:5432": false,
		"10.0.0.8:1": false, "db.evil:5432": false, "/run/postgresql": false,
	} {
		if h.AllowAddress(at) != want {
			t.Errorf("%s: %v", at, !want)
		}
	}
	if both := h.And(HostsOf("localhost")); !both.AllowAddress("db:1") || !both.AllowAddress("127.0.0.1:1") || both.Empty() {
		t.Error("And lacks one of the two")
	}
}

func TestOpenHosts(t *testing.T) {
	for text, open := range map[string]bool{"*": true, "db, *:5432": true, "0.0.0.0/0": true, "::/0": true, "": false, "db": false, "*.example.com": false, "10.0.0.0/8": false} {
		notes := OpenHosts(Connection{Options: Options{FieldAllowedHosts: text}})
		if (len(notes) == 1) != open {
			t.Errorf("%q: %q", text, notes)
		}
	}
}
