// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cluster, err := bed.ForTest(t).RedisCluster(ctx, 3, bed.RedisOptions{Users: bed.UsersInACLFile})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, cluster.Nodes[0], nil)
	w.app("~* &* +@all -@dangerous", cluster.Nodes...)
	for _, n := range cluster.Nodes {
		w.do(n, "ACL", "SAVE")
	}
	c := w.staged()
	w.expect(c, true, true, cluster.Nodes...)
	one := w.client(cluster.Nodes[2], c.From, "")
	if n, what := w.inUse(c); n != 1 || !strings.Contains(what, "at "+cluster.Nodes[2].Addr) {
		t.Errorf("in use: %d, %s", n, what)
	}
	w.ok(one.Close())

	replica, err := cluster.AddNode(ctx, cluster.Nodes[1]) // with the users that a new node has: not even the old one
	w.ok(err)
	w.unused(c)
	if !w.valid(replica, c.To) {
		t.Error("the new version is not valid at a node that was added")
	}
	w.retire(c)
	w.expect(c, false, true, cluster.Nodes...)

	c = w.plan()
	cluster.Nodes[2].Kill()
	w.refuses(w.kind.Stage(ctx, c), "node "+cluster.Nodes[2].Addr+" cannot be reached", "has named it; start it, or take it out there")
	if users := w.users(cluster.Nodes[0], defaultUser, "redis_url_a"); len(users) != 0 {
		t.Errorf("users were made while a node was down: %v", users)
	}
	w.ok(cluster.Nodes[2].Start(ctx))
	w.ok(cluster.AwaitOK(ctx))
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
	w.expect(c, true, true, cluster.Nodes...)
	w.unstage(c)
	w.expect(c, true, false, cluster.Nodes...)

	t.Run("rotate-root", func(t *testing.T) {
		const root, before = "root", "password-of-the-root"
		for _, n := range cluster.Nodes {
			w.do(n, append([]string{"ACL", "SETUSER", root, "on", ">" + before}, split(administratorRule)...)...)
		}
		w.connect(kind.Options{login.FieldURL: cluster.Nodes[0].UserURL(root, before)})
		notes, err := w.kind.CheckConnection(ctx, w.connection)
		w.ok(err)
		if len(notes) != 0 {
			t.Errorf("notes: %q", notes)
		}
		w.unstage(w.staged())
		w.connection.Next = key.NewValue("next-password-of-the-root")
		w.ok(w.kind.RotateRoot(ctx, w.connection))
		for _, n := range cluster.Nodes {
			w.ok(n.Stop())
			w.ok(n.Start(ctx))
			if _, err := n.DoAs(ctx, root, before, "INFO"); err == nil {
				t.Errorf("%s takes the old password", n.Addr)
			}
			if _, err := n.DoAs(ctx, root, w.connection.Next.Reveal(), "INFO"); err != nil {
				t.Errorf("%s does not take the new password: %v", n.Addr, err)
			}
		}
	})
}

// caOf is the CA of a bed's certificates.
func caOf(t testing.TB, b *bed.Bed) (*bed.Authority, string) {
	t.Helper()
	a, err := b.Authority()
	if err != nil {
		t.Fatal(err)
	}
	return a, read1(t, a.File)
}

// Servers that take nothing but TLS, by a CA of their own.
func TestTLS(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := bed.ForTest(t)
	master, err := b.RedisWith(ctx, bed.RedisOptions{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	replica, err := master.Replica(ctx)
	if err != nil {
		t.Fatal(err)
	}
	authority, ca := caOf(t, b)
	_, another := caOf(t, bed.ForTest(t))
	w := newWorld(t, master, nil)
	w.connect(kind.Options{login.FieldURL: master.AdminURL(), login.FieldCA: ca})
	w.app("~* +@all", master, replica)
	_, err = w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
	c := w.staged()
	if !strings.HasPrefix(c.To.Value.Reveal(), "rediss://redis_url_a:") {
		t.Error("the new version is no rediss:// URL of the first user")
	}
	w.expect(c, true, true, master, replica)
	w.retire(c)
	w.expect(c, false, true, master, replica)

	w.connect(kind.Options{login.FieldURL: master.AdminURL(), login.FieldCA: ca, fieldTimeout: short})
	c = w.plan()
	w.partitioned(replica, func() error { return w.kind.Stage(ctx, c) })
	w.unstage(c)

	w.do(master, "CONFIG", "SET", "tls-auth-clients", "yes") // for connections from now on
	w.do(replica, "CONFIG", "SET", "tls-auth-clients", "yes")
	certificate, err := authority.Client("hyvve")
	w.ok(err)
	w.connect(kind.Options{login.FieldURL: master.AdminURL(), login.FieldCA: ca})
	c = w.plan()
	w.refuses(w.kind.Stage(ctx, c), "node "+master.Addr+" cannot be reached")
	with := kind.Connection{Name: "main", Revision: 9, Options: kind.Options{login.FieldURL: master.AdminURL(), fieldNodes: replica.Addr, login.FieldCA: ca, login.FieldCert: read1(t, certificate.CertFile)}}
	with.Secrets = map[string]key.Value{login.FieldKey: key.NewValue(read1(t, certificate.KeyFile))}
	c.Connection, err = w.kind.NormalizeConnection(with)
	w.ok(err)
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
	w.ok(w.kind.Unstage(ctx, c))

	for what, options := range map[string]kind.Options{
		"certificate signed by unknown authority": {login.FieldURL: master.AdminURL()},
		"certificate is valid for":                {login.FieldURL: master.AdminURL(), login.FieldCA: ca, fieldServerName: "other.example"},
		"certificate signed by":                   {login.FieldURL: master.AdminURL(), login.FieldCA: another},
		"":                                        {login.FieldURL: "redis" + strings.TrimPrefix(master.AdminURL(), "rediss")},
	} {
		w.connect(options)
		c.Connection = w.connection
		w.refuses(w.kind.Stage(ctx, c), "node "+master.Addr+" cannot be reached", what)
		_, err := w.kind.CheckConnection(ctx, w.connection)
		w.refuses(err, "node "+master.Addr+" cannot be reached", what)
	}
}
