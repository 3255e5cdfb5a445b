// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// short is a timeout for nodes that are made to stand still.
const short = "500ms"

// soon is in what time an error has to come then: a call asks such a node twice at most.
const soon = 5 * time.Second

// replicated is a master with a replica.
func replicated(t testing.TB, o bed.RedisOptions) (master, replica *bed.Redis) {
	t.Helper()
	master = start(t, o)
	replica, err := master.Replica(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return master, replica
}

// replicates has a replica log in at its master as a user, from now on.
func (w *world) replicates(master, replica *bed.Redis, user, password string) {
	w.t.Helper()
	w.do(replica, "CONFIG", "SET", "masteruser", user, "masterauth", password)
	w.do(master, "CLIENT", "KILL", "TYPE", "replica")
	w.ok(replica.AwaitLink(context.Background()))
}

// partitioned wants calls to fail in time and name the node while it stands still.
func (w *world) partitioned(r *bed.Redis, call func() error) {
	w.t.Helper()
	w.ok(r.Pause())
	begun := time.Now()
	err := call()
	took := time.Since(begun)
	w.ok(r.Resume())
	w.refuses(err, "node "+r.Addr+" did not answer in time")
	if took > soon {
		w.t.Errorf("the error came after %v", took)
	}
}

func TestReplica(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.app("~* &* +@all", master, replica)
	c := w.staged()
	w.expect(c, true, true, master, replica)
	one := w.client(replica, c.From, "reader")
	if n, what := w.inUse(c); n != 1 || !strings.Contains(what, "1 of user app at "+replica.Addr) || !strings.Contains(what, "(reader)") {
		t.Errorf("in use: %d, %s", n, what)
	}
	w.ok(one.Close())
	w.retire(c)
	w.expect(c, false, true, master, replica)
	// The other way round: the connection names what is a replica now, or after a failover.
	w.connect(kind.Options{login.FieldURL: replica.AdminURL()})
	c = w.staged()
	w.expect(c, true, true, master, replica)
	w.unstage(c)
	w.expect(c, true, false, master, replica)
	w.do(replica, "REPLICAOF", "NO", "ONE")
	host, port, _ := strings.Cut(replica.Addr, ":")
	w.do(master, "CONFIG", "SET", "masteruser", "admin", "masterauth", master.AdminPassword)
	w.do(master, "REPLICAOF", host, port)
	w.ok(master.AwaitLink(ctx))
	c = w.staged()
	w.expect(c, true, true, master, replica)
	w.retire(c)
	w.expect(c, false, true, master, replica)
}

// A replica that nobody can know of any more, since its master does not list it, blocks where nodes names it.
func TestReplicaThatIsDownBlocks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.app("~* +@all", master, replica)
	w.do(replica, "CONFIG", "REWRITE")
	w.connect(kind.Options{login.FieldURL: master.AdminURL(), fieldNodes: replica.Addr})
	replica.Kill()
	w.eventually(func() bool { return strings.Contains(w.do(master, "INFO", "replication"), "connected_slaves:0") }, func() string { return "the replica is listed still" })
	c := w.plan()
	w.refuses(w.kind.Stage(ctx, c), "node "+replica.Addr+" cannot be reached")
	if users := w.users(master, defaultUser, "app"); len(users) != 0 {
		t.Errorf("users were made while a node was down: %v", users)
	}
	w.ok(replica.Start(ctx))
	w.ok(replica.AwaitLink(ctx))
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
	w.expect(c, true, true, master, replica)
}

func TestPartition(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.connect(kind.Options{login.FieldURL: master.AdminURL(), fieldTimeout: short})
	w.app("~* +@all", master, replica)
	c := w.plan()
	w.partitioned(replica, func() error { return w.kind.Stage(ctx, c) })
	w.expect(c, true, false, master, replica)
	w.ok(w.kind.Stage(ctx, c))
	w.partitioned(replica, func() error { return w.kind.Verify(ctx, c) })
	w.ok(w.kind.Verify(ctx, c))
	w.partitioned(replica, func() error {
		_, _, err := w.kind.InUse(ctx, c)
		return err
	})
	w.unused(c)
	// The version may be compromised: a node that is away does not keep it valid at the others.
	w.partitioned(replica, func() error { return w.kind.Retire(ctx, c) })
	w.expect(c, false, true, master)
	w.expect(c, true, true, replica)
	w.retire(c)
	w.expect(c, false, true, master, replica)
	// Withdrawing does what it can, too, and the rest later.
	c = w.staged()
	w.partitioned(replica, func() error { return w.kind.Unstage(ctx, c) })
	w.expect(c, true, false, master)
	w.unstage(c)
	w.expect(c, true, false, master, replica)
}

// Where a call ends in the middle, one node has the new user and another does not.
func TestUnstageAfterPartialStage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, strategy := range []string{alternating, dualPassword} {
		master, replica := replicated(t, bed.RedisOptions{})
		w := newWorld(t, master, kind.Options{optionStrategy: strategy})
		w.app("~* +@all", master, replica)
		before := w.rules(master) + w.rules(replica)
		c := w.plan()
		read, err := readTurn(c)
		w.ok(err)
		all, err := w.kind.standings(ctx, read, []node{{replica.Addr, map[string]string{}}})
		w.ok(err)
		_, err = w.kind.accept(ctx, read, all, func(standing) bool { return true })
		w.ok(err)
		w.expect(c, true, false, master)
		w.expect(c, true, true, replica)
		w.unstage(c)
		if after := w.rules(master) + w.rules(replica); after != before {
			t.Errorf("%s: users before:\n%s\nand after:\n%s", strategy, before, after)
		}
	}
}

// A replica that joins after Stage is brought up to date by whichever of the calls comes next.
func TestNodeThatJoinsLater(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master := start(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.app("~app:* +@all -@dangerous")
	c := w.staged()
	for what, call := range map[string]func() error{
		"Verify": func() error { return w.kind.Verify(ctx, c) },
		"InUse": func() error {
			_, _, err := w.kind.InUse(ctx, c)
			return err
		},
		"Retire": func() error { return w.kind.Retire(ctx, c) },
	} {
		joined, err := master.Replica(ctx)
		w.ok(err)
		w.ok(call())
		if !w.valid(joined, c.To) {
			t.Errorf("%s: the new version is not valid at a replica that joined before", what)
		}
		rights := func(r *bed.Redis) string {
			return strings.Join(strings.Fields(w.do(r, "ACL", "GETUSER", "redis_url_a")), " ")
		}
		if rights(joined) != rights(master) {
			t.Errorf("%s: %s at the replica, %s at its master", what, rights(joined), rights(master))
		}
	}
}

// A node that keeps no users has lost the new one when it was started again.
func TestNodeThatForgets(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, strategy := range []string{alternating, dualPassword} {
		master, replica := replicated(t, bed.RedisOptions{Users: bed.UsersInMemory})
		w := newWorld(t, master, kind.Options{optionStrategy: strategy})
		w.app("~* +@all", master, replica)
		c := w.staged()
		forget := func() {
			replica.Kill()
			w.ok(replica.Start(ctx))
			w.ok(replica.AwaitLink(ctx))
			if w.valid(replica, c.To) {
				t.Fatal("the replica has not forgotten anything: this test proves nothing")
			}
		}
		forget()
		w.inUse(c)
		if !w.valid(replica, c.To) {
			t.Errorf("%s: the new version is not valid at the replica after InUse", strategy)
		}
		forget()
		w.ok(w.kind.Verify(ctx, c))
		forget()
		w.retire(c)
		w.expect(c, false, true, master, replica)
	}
}

// A revert's question, with the versions turned around, makes nothing.
func TestRevertBringsNothing(t *testing.T) {
	t.Parallel()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	w.app("~* +@all", master, replica)
	c := w.staged()
	w.do(replica, "ACL", "DELUSER", "app")
	if n, what := w.inUse(w.change(c.To, c.From)); n != 0 {
		t.Errorf("in use: %d, %s", n, what)
	}
	if users := w.users(replica, defaultUser, "redis_url_a"); len(users) != 0 {
		t.Errorf("users at the replica: %v", users)
	}
	w.unstage(c)
}

// A node that announces an address which leads nowhere from here is reached as nodes says.
func TestAnnouncedAddress(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master := start(t, bed.RedisOptions{})
	replica, err := master.Replica(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, master, nil)
	w.app("~* +@all", master, replica)
	w.do(replica, "CONFIG", "SET", "replica-announce-ip", "127.0.0.9", "replica-announce-port", "1")
	w.do(master, "CLIENT", "KILL", "TYPE", "replica") // it announces itself when it connects
	w.eventually(func() bool { return strings.Contains(w.do(master, "INFO", "replication"), "ip=127.0.0.9,port=1") }, func() string { return "the replica announces nothing" })
	c := w.plan()
	w.connect(kind.Options{login.FieldURL: master.AdminURL(), fieldHosts: "127.0.0.0/8"})
	c.Connection = w.connection
	w.refuses(w.kind.Stage(ctx, c), "node 127.0.0.9:1 cannot be reached", master.Addr+" has named it", "nodes=127.0.0.9:1=host:port")
	w.connect(kind.Options{login.FieldURL: master.AdminURL(), fieldNodes: "127.0.0.9:1=" + replica.Addr})
	c.Connection = w.connection
	w.ok(w.kind.Stage(ctx, c))
	w.expect(c, true, true, master, replica)
}

// A node that joins has the users of its own files: not always the administrator, or not with the password of today.
func TestNodeThatDoesNotKnowTheAdministrator(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	master, replica := replicated(t, bed.RedisOptions{})
	w := rooted(t, "+@all", master)
	w.app("~* +@all", master)
	c := w.plan()
	w.refuses(w.kind.Stage(ctx, c), "node "+replica.Addr+" refuses user root", master.Addr+" has named it; give it the administrator that the other nodes have")
	w.do(replica, "ACL", "SETUSER", "root", "on", ">"+rootPassword, "+@all")
	w.ok(w.kind.Stage(ctx, c))
	w.expect(c, true, true, master)
	w.expect(c, false, true, replica) // which has never had the old user
}

// A call ends with its context, also where a server takes connections and answers nothing.
func TestCancelledCall(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.connect(kind.Options{login.FieldURL: r.AdminURL(), fieldTimeout: "30s"})
	w.app("~* +@all")
	c := w.plan()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.kind.Stage(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	w.ok(w.kind.Stage(t.Context(), c))
	w.ok(r.Pause())
	for what, call := range map[string]func(context.Context) error{
		"Stage":  func(ctx context.Context) error { return w.kind.Stage(ctx, c) },
		"Verify": func(ctx context.Context) error { return w.kind.Verify(ctx, c) },
		"a login": func(ctx context.Context) error {
			a, err := readAdmin(w.connection)
			w.ok(err)
			return a.enter(ctx, r.Addr, w.connection.Secrets[kind.FieldPassword])
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now()
		time.AfterFunc(50*time.Millisecond, cancel)
		if err := call(ctx); !errors.Is(err, context.Canceled) || time.Since(begun) > soon {
			t.Errorf("%s: %v after %v", what, err, time.Since(begun))
		}
	}
	w.ok(r.Resume())
	w.ok(w.kind.Verify(t.Context(), c))
}
