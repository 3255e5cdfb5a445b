// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// A user that is made at run time outlives a crash where its server has a place for users, made to write it there.
func TestRedisKeepsUsersWhereItCan(t *testing.T) {
	for _, tt := range []struct {
		name  string
		users RedisUsers
		save  []string
		kept  bool
	}{
		{"config", UsersInConfig, []string{"CONFIG", "REWRITE"}, true},
		{"aclfile", UsersInACLFile, []string{"ACL", "SAVE"}, true},
		{"memory, config", UsersInMemory, []string{"CONFIG", "REWRITE"}, false},
		{"memory, acl", UsersInMemory, []string{"ACL", "SAVE"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ForTest(t).RedisWith(t.Context(), RedisOptions{Users: tt.users})
			if err != nil {
				t.Fatal(err)
			}
			mustDo(t, r, "ACL", "SETUSER", "app", "on", ">first", "+ping")
			if _, err := r.Do(t.Context(), tt.save...); (err == nil) != tt.kept {
				t.Errorf("%v: %v", tt.save, err)
			}
			r.Kill()
			if err := r.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := r.DoAs(t.Context(), "app", "first", "PING"); (err == nil) != tt.kept {
				t.Errorf("logging in after a restart: %v", err)
			}
			if _, err := r.DoAs(t.Context(), "default", r.password, "PING"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Redis reads no password from where another user of the machine could read it.
func TestRedisPasswordsAreNotOnTheCommandLine(t *testing.T) {
	r, err := ForTest(t).RedisWith(t.Context(), RedisOptions{Users: UsersInMemory})
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(r.process.cmd.Args, " ")
	if strings.Contains(line, r.password) || strings.Contains(line, r.AdminPassword) || r.ConfigPath != "" {
		t.Errorf("started as %q, with configuration at %q", line, r.ConfigPath)
	}
}

func TestRedisServesTLS(t *testing.T) {
	b := ForTest(t)
	r, err := b.RedisWith(t.Context(), RedisOptions{TLS: true, Settings: map[string]string{"maxmemory": "64mb"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(r.AdminURL(), "rediss://admin:") || !strings.HasPrefix(r.URL, "rediss://:") {
		t.Errorf("URLs %s and %s", r.AdminURL(), r.URL)
	}
	if got := mustDo(t, r, "CONFIG", "GET", "maxmemory"); got != "maxmemory\n67108864" {
		t.Errorf("a further setting: %q", got)
	}
	replica, err := r.Replica(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustDo(t, r, "SET", "a", "1")
	mustDo(t, r, "WAIT", "1", "5000")
	if got := mustDo(t, replica, "GET", "a"); got != "1" {
		t.Errorf("the replica has %q", got)
	}
	plain := *r
	plain.authority = nil
	if _, err := plain.Do(t.Context(), "PING"); err == nil {
		t.Error("the server serves without TLS, too")
	}
}

// A replica keeps its link when its login ceases to be valid, until the link is lost. That is why a rotation has to give
// it the new one.
func TestRedisReplicaNeedsItsLogin(t *testing.T) {
	r, err := ForTest(t).Redis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	replica, err := r.Replica(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustDo(t, r, "ACL", "SETUSER", "replica", "on", ">first", "+psync", "+replconf", "+ping")
	mustDo(t, replica, "CONFIG", "SET", "masteruser", "replica", "masterauth", "wrong")
	mustDo(t, r, "SET", "a", "1")
	mustDo(t, r, "WAIT", "1", "5000")
	if got := mustDo(t, replica, "GET", "a"); got != "1" {
		t.Errorf("the replica has %q", got)
	}
	mustDo(t, r, "CLIENT", "KILL", "TYPE", "replica")
	err = until(t.Context(), "the refusal", func(context.Context) error {
		if !strings.Contains(replica.process.tail(), "WRONGPASS") {
			return errors.New("not in the replica's log")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mustDo(t, replica, "CONFIG", "SET", "masterauth", "first")
	if err := replica.AwaitLink(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRedisStandsStill(t *testing.T) {
	r, err := ForTest(t).Redis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if c, err := r.dial(ctx); err != nil {
		t.Errorf("a server that stands still accepts no connection: %v", err)
	} else {
		if reply, err := c.do("PING"); err == nil {
			t.Errorf("a server that stands still says %q", reply)
		}
		_ = c.Close()
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	mustDo(t, r, "PING")
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := r.Stop(); err != nil || time.Since(begun) > stopPatience/2 {
		t.Errorf("stopping one that stands still took %s, %v", time.Since(begun), err)
	}
}

func TestRedisCluster(t *testing.T) {
	begun := time.Now()
	lap := func(what string) {
		t.Logf("%s after %s", what, time.Since(begun).Round(10*time.Millisecond))
		begun = time.Now()
	}
	c, err := ForTest(t).RedisCluster(t.Context(), 3, RedisOptions{Users: UsersInACLFile})
	if err != nil {
		t.Fatal(err)
	}
	lap("started")
	for node, key := range map[int]string{0: "b", 1: "c", 2: "a"} { // by their slots: 3300, 7365, 15495
		mustDo(t, c.Nodes[node], "SET", key, "1")
	}
	if _, err := c.AddNode(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	lap("joined by a master")
	replica, err := c.AddNode(t.Context(), c.Nodes[1])
	if err != nil {
		t.Fatal(err)
	}
	lap("joined by a replica")
	if role := mustDo(t, replica, "ROLE"); !strings.HasPrefix(role, "slave\n") {
		t.Errorf("the replica's role: %q", role)
	}
	mustDo(t, c.Nodes[0], "ACL", "SETUSER", "app", "on", ">first", "+ping")
	if users := mustDo(t, c.Nodes[1], "ACL", "USERS"); strings.Contains(users, "app") {
		t.Error("users travel between nodes")
	}
	if got := len(c.Addrs()); got != 5 || strings.Count(c.AdminURL(), "addr=") != 4 {
		t.Errorf("%d addresses, URL %s", got, c.AdminURL())
	}
	c.Nodes[2].Kill()
	if err := c.Nodes[2].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitOK(t.Context()); err != nil {
		t.Error(err)
	}
	lap("complete again")
}

func mustDo(t *testing.T, r *Redis, args ...string) string {
	t.Helper()
	reply, err := r.Do(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}
