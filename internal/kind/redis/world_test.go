// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func TestMain(m *testing.M) { bed.Main(m) }

const appPassword = "first-password-of-the-application"

// world is a server or several, a connection to them, and a key that an application presents there.
type world struct {
	t          testing.TB
	redis      *bed.Redis // the connection's own
	kind       *Kind
	connection kind.Connection
	key        key.Key
}

// newWorld is on a server whose user app has the key's first version.
func newWorld(t testing.TB, r *bed.Redis, options kind.Options) *world {
	t.Helper()
	w := &world{t: t, redis: r, kind: New()}
	t.Cleanup(func() { _ = w.kind.Close() })
	w.connect(kind.Options{login.FieldURL: r.AdminURL()})
	if options == nil {
		options = kind.Options{}
	}
	options[kind.OptionConnection] = "main"
	options, err := w.kind.Normalize(options)
	w.ok(err)
	w.key = key.Key{Name: "redis-url", Env: "REDIS_URL", Kind: "redis", Options: options}
	return w
}

// connect writes the connection again.
func (w *world) connect(options kind.Options) {
	w.t.Helper()
	if _, ok := options[fieldHosts]; !ok {
		options[fieldHosts] = "127.0.0.1"
	}
	c := kind.Connection{Name: "main", Kind: "redis", Options: options, Revision: w.connection.Revision + 1}
	var err error
	w.connection, err = w.kind.NormalizeConnection(c)
	w.ok(err)
}

// adopt makes a URL the key's first version.
func (w *world) adopt(url string) {
	w.t.Helper()
	_, err := w.kind.Check(w.key.Options, key.NewValue(url))
	w.ok(err)
	w.key, err = w.key.WithFirst(key.Version{Value: key.NewValue(url)})
	w.ok(err)
}

// app makes a user on some servers, and adopts its URL at the connection's.
func (w *world) app(rules string, on ...*bed.Redis) {
	w.t.Helper()
	if len(on) == 0 {
		on = []*bed.Redis{w.redis}
	}
	for _, r := range on {
		w.do(r, append([]string{"ACL", "SETUSER", "app", "on", ">" + appPassword}, split(rules)...)...)
	}
	w.adopt(w.redis.UserURL("app", appPassword))
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// refuses wants an error with some words in it, and no secret.
func (w *world) refuses(err error, words ...string) {
	w.t.Helper()
	if err == nil {
		w.t.Fatalf("no error; it should say %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			w.t.Errorf("error %q does not say %q", err, word)
		}
	}
	for _, v := range w.key.Versions {
		if u, _ := dsn.Parse(v.Value.Reveal(), urls.Schemes...); !u.Password.Empty() && (strings.Contains(err.Error(), u.Password.Reveal()) || strings.Contains(err.Error(), digest(u.Password))) {
			w.t.Errorf("error %q holds a password or its hash", err)
		}
	}
}

func (w *world) do(r *bed.Redis, args ...string) string {
	w.t.Helper()
	reply, err := r.Do(context.Background(), args...)
	w.ok(err)
	return reply
}

// plan stores a next version.
func (w *world) plan() kind.Change {
	w.t.Helper()
	current, ok := w.key.Current()
	next := key.Version{Number: w.key.NextNumber()}
	var err error
	next.Value, err = w.kind.Generate(rand.Reader, w.key, current.Value)
	w.ok(err)
	if ok {
		w.key, err = w.key.WithStaged(next)
		w.ok(err)
	} else {
		next.State = key.Staged
		w.key.Versions = []key.Version{next}
	}
	return w.change(current, next)
}

func (w *world) change(from, to key.Version) kind.Change {
	return kind.Change{Key: w.key, From: from, To: to, Connection: w.connection}
}

// staged is a next version that servers know.
func (w *world) staged() kind.Change {
	w.t.Helper()
	c := w.plan()
	for range 2 {
		w.ok(w.kind.Stage(context.Background(), c))
		w.ok(w.kind.Verify(context.Background(), c))
	}
	return c
}

func (w *world) retire(c kind.Change) {
	w.t.Helper()
	var err error
	w.key, err = w.key.Promoted(c.From.Number, c.To.Number)
	w.ok(err)
	w.unused(c)
	for range 2 {
		w.ok(w.kind.Retire(context.Background(), c))
	}
	w.key, err = w.key.Retired(c.From.Number, c.To.Number)
	w.ok(err)
}

func (w *world) unstage(c kind.Change) {
	w.t.Helper()
	for range 2 {
		w.ok(w.kind.Unstage(context.Background(), c))
	}
	var err error
	w.key, err = w.key.Reverted(c.From.Number, c.To.Number)
	w.ok(err)
}

func (w *world) inUse(c kind.Change) (int, string) {
	w.t.Helper()
	n, what, err := w.kind.InUse(context.Background(), c)
	w.ok(err)
	return n, what
}

// unused waits until the server has noticed that sessions are closed.
func (w *world) unused(c kind.Change) {
	w.t.Helper()
	var what string
	w.eventually(func() bool {
		n, text := w.inUse(c)
		what = text
		return n == 0
	}, func() string { return "in use still: " + what })
}

func (w *world) eventually(holds func() bool, otherwise func() string) {
	w.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatal(otherwise())
		}
	}
}

// valid reports whether a version logs in at a server, by other means than the kind's.
func (w *world) valid(r *bed.Redis, v key.Version) bool {
	w.t.Helper()
	u, err := dsn.Parse(v.Value.Reveal(), urls.Schemes...)
	w.ok(err)
	_, err = r.DoAs(context.Background(), urls.UserOf(u), u.Password.Reveal(), "PING")
	var answer bed.RedisError
	if errors.As(err, &answer) && !strings.HasPrefix(string(answer), "WRONGPASS") {
		return true
	}
	return err == nil
}

// expect asks servers which of two versions is valid.
func (w *world) expect(c kind.Change, from, to bool, on ...*bed.Redis) {
	w.t.Helper()
	for _, r := range on {
		if got := w.valid(r, c.From); got != from {
			w.t.Errorf("%s: the old version is valid: %t", r.Addr, got)
		}
		if got := w.valid(r, c.To); got != to {
			w.t.Errorf("%s: the new version is valid: %t", r.Addr, got)
		}
	}
}

// client is an application's that has logged in.
func (w *world) client(r *bed.Redis, v key.Version, name string) *goredis.Client {
	w.t.Helper()
	u, err := dsn.Parse(v.Value.Reveal(), urls.Schemes...)
	w.ok(err)
	one := goredis.NewClient(&goredis.Options{
		Addr: r.Addr, Username: u.User, Password: u.Password.Reveal(), ClientName: name, PoolSize: 1, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
	})
	w.t.Cleanup(func() { _ = one.Close() })
	w.ok(one.Ping(context.Background()).Err())
	return one
}

// users are those of a server that can log in, but its administrator and those named.
func (w *world) users(r *bed.Redis, but ...string) []string {
	w.t.Helper()
	var names []string
	for line := range strings.Lines(w.do(r, "ACL", "LIST")) {
		fields := strings.Fields(line)
		if fields[2] == "on" && !slices.Contains(append(but, w.connection.Options[fieldUsername]), fields[1]) {
			names = append(names, fields[1])
		}
	}
	return names
}

func start(t testing.TB, o bed.RedisOptions) *bed.Redis {
	t.Helper()
	r, err := bed.ForTest(t).RedisWith(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func read1(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// dial is a connection that has said nothing.
func (w *world) dial(r *bed.Redis) net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", r.Addr)
	w.ok(err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// rules returns those of all users, the words of each in order: Redis lists subcommands in an order that changes by itself.
func (w *world) rules(r *bed.Redis) string {
	w.t.Helper()
	var all []string
	for line := range strings.Lines(w.do(r, "ACL", "LIST")) {
		all = append(all, strings.Join(words(strings.Fields(line)), " "))
	}
	return strings.Join(all, "\n")
}
