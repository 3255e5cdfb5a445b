// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"io"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// rightsOf is what a server says that a user may do.
func (w *world) rightsOf(r *bed.Redis, user string) string {
	w.t.Helper()
	for line := range strings.Lines(w.do(r, "ACL", "LIST")) {
		if fields := strings.Fields(line); fields[1] == user {
			var rights []string
			for _, field := range fields[2:] {
				if field != "on" && field != "off" && field != "nopass" && !strings.HasPrefix(field, "#") {
					rights = append(rights, field)
				}
			}
			return strings.Join(rights, " ")
		}
	}
	return ""
}

func TestRightsAreCopied(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	for _, rules := range []string{
		"~* &* +@all", "+@all -@dangerous ~app:* &app:*", "nocommands ~*", "", "~a ~b:* +get +set +config|get",
		"%R~read:* %W~write:* %RW~both:* +@read +@write", "resetchannels &one &two:* +publish +subscribe", "allkeys allchannels allcommands -flushall",
		"+@all -@admin -acl +acl|whoami -config +config|get ~*", "skip-sanitize-payload +@all ~*", "~caf\u00e9\u00a0noir:* +@all", "~* +get -@all +set",
		"+@all -@all +@read -get ~{tag}:[a-c]?* &*",
	} {
		w := newWorld(t, r, nil)
		w.do(r, "ACL", "SETUSER", "app", "reset")
		w.app(rules)
		c := w.staged()
		if got, want := w.rightsOf(r, "redis_url_a"), w.rightsOf(r, "app"); got != want || got == "" {
			t.Errorf("%q: the new user may %q, the old one %q", rules, got, want)
		}
		w.unstage(c)
	}
	w := newWorld(t, r, nil)
	w.do(r, "ACL", "SETUSER", "app", "reset", "(+get ~a:*)", "(%R~b:* &c -@all +@read +publish)")
	w.app("~* -@all +ping")
	w.staged()
	if got, want := w.rightsOf(r, "redis_url_a"), w.rightsOf(r, "app"); got != want || strings.Count(got, "(") != 2 {
		t.Errorf("selectors: the new user may %q, the old one %q", got, want)
	}
}

func TestAdoptionAndTurns(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* &* +@all -@dangerous")
	w.adopted("redis://app:" + appPassword + "@" + r.Addr + "/3?family=4&keyPrefix=a%3Ab%20c&&x=#frag")
	one := w.client(r, first(w), "old")
	c := w.staged()
	if got := c.To.Value.Reveal(); !strings.HasPrefix(got, "redis://redis_url_a:") || !strings.HasSuffix(got, "@"+r.Addr+"/3?family=4&keyPrefix=a%3Ab%20c&&x=#frag") {
		t.Error("the new version is not the same URL with the first of the two users")
	}
	if n, what := w.inUse(c); n != 1 || !strings.Contains(what, "1 of user app") || !strings.Contains(what, "(old)") {
		t.Errorf("in use: %d, %s", n, what)
	}
	w.ok(one.Close())
	for _, want := range []string{"redis_url_a", "redis_url_b", "redis_url_a", "redis_url_b"} {
		w.retire(c)
		w.expect(c, false, true, r)
		if got := strings.Join(w.users(r, defaultUser), " "); got != want {
			t.Errorf("%s can log in, want %s", got, want)
		}
		c = w.staged()
	}
	// Each turn copies what the other user may do by then.
	w.do(r, "ACL", "SETUSER", "redis_url_b", "-get")
	w.unstage(c)
	c = w.staged()
	if got, want := w.rightsOf(r, "redis_url_a"), w.rightsOf(r, "redis_url_b"); got != want || !strings.Contains(got, "-get") {
		t.Errorf("the new user may %q, the old one %q", got, want)
	}
}

// adopted is adopt for a key that has a first version already.
func (w *world) adopted(url string) {
	w.t.Helper()
	w.key.Versions = nil
	w.adopt(url)
}

func first(w *world) key.Version {
	w.t.Helper()
	v, ok := w.key.Current()
	if !ok {
		w.t.Fatal("the key has no version")
	}
	return v
}

// A bare REDIS_URL means the user default, by which health checks, replicas and administrators may log in, too.
func TestAdoptionOfDefault(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, tt := range []struct {
		name, url, password string
		rules               []string
	}{
		{"password", "redis://:" + appPassword + "@", appPassword, []string{"resetpass", ">" + appPassword}},
		{"name and password", "redis://default:" + appPassword + "@", appPassword, []string{"resetpass", ">" + appPassword}},
		{"requirepass", "redis://:" + appPassword + "@", appPassword, nil},
		{"nopass", "redis://", "", []string{"nopass"}},
		{"name and nopass", "redis://default@", "", []string{"nopass"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, bed.RedisOptions{})
			w := newWorld(t, r, nil)
			if tt.rules == nil { // as configurations of before Redis 6 have it
				w.do(r, "CONFIG", "SET", "requirepass", tt.password)
			} else {
				w.do(r, append([]string{"ACL", "SETUSER", defaultUser}, tt.rules...)...)
			}
			w.adopt(tt.url + r.Addr + "/1")
			one := goredis.NewClient(&goredis.Options{Addr: r.Addr, Password: tt.password, MaxRetries: -1, DisableIdentity: true})
			w.ok(one.Ping(ctx).Err())
			c := w.staged()
			if !strings.HasPrefix(c.To.Value.Reveal(), "redis://redis_url_a:") {
				t.Error("the new version is not of the first of the two users")
			}
			if n, what := w.inUse(c); n != 1 || !strings.Contains(what, "of user default") {
				t.Errorf("in use: %d, %s", n, what)
			}
			w.ok(one.Close())
			w.retire(c)
			w.expect(c, false, true, r)
			if line := w.do(r, "ACL", "LIST"); !strings.Contains(line, "user default off") {
				t.Errorf("default is not locked: %s", line)
			}
			stranger := goredis.NewClient(&goredis.Options{Addr: r.Addr, MaxRetries: -1, DisableIdentity: true})
			if err := stranger.Ping(ctx).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
				t.Errorf("whoever says no password: %v", err)
			}
			w.ok(stranger.Close())
			w.ok(r.Stop())
			w.ok(r.Start(ctx))
			w.expect(c, false, true, r)
		})
	}
}

// A connection that has said nothing, and has no password to say, is nobody's session.
func TestSilentConnectionsAreNobodys(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.do(r, "ACL", "SETUSER", defaultUser, "resetpass", ">"+appPassword)
	w.adopt("redis://:" + appPassword + "@" + r.Addr)
	c := w.staged()
	conn := w.dial(r)
	if n, what := w.inUse(c); n != 0 {
		t.Errorf("in use: %d, %s", n, what)
	}
	_, err := io.WriteString(conn, "PING\r\n") // of a health check that stays connected
	w.ok(err)
	w.eventually(func() bool { n, _ := w.inUse(c); return n == 1 }, func() string { return "who says something is not counted" })
	w.ok(conn.Close())
	w.unused(c)
	w.dial(r)
	w.do(r, "ACL", "SETUSER", defaultUser, "nopass")
	w.eventually(func() bool { n, _ := w.inUse(c); return n == 1 }, func() string { return "who needs no password is not counted" })
}

func TestReplicasThatLogInAsTheOldUser(t *testing.T) {
	t.Parallel()
	master, replica := replicated(t, bed.RedisOptions{})
	w := newWorld(t, master, nil)
	for _, r := range []*bed.Redis{master, replica} {
		w.do(r, "ACL", "SETUSER", defaultUser, "resetpass", ">"+appPassword)
	}
	w.replicates(master, replica, "", appPassword)
	w.adopt("redis://:" + appPassword + "@" + master.Addr)
	c := w.staged()
	w.eventually(func() bool { n, _ := w.inUse(c); return n == 1 }, func() string { return "the replica's link is not counted" })
	if _, what := w.inUse(c); !strings.Contains(what, "(a replica)") || !strings.Contains(what, "1 of them replicate as this user: give replicas one of their own, with masteruser and masterauth") {
		t.Errorf("in use: %s", what)
	}
	w.replicates(master, replica, "admin", master.AdminPassword)
	w.retire(c)
	w.expect(c, false, true, master, replica)
	w.do(master, "SET", "a", "1")
	w.eventually(func() bool { return w.do(replica, "GET", "a") == "1" }, func() string { return "the replica follows no more" })
}

func TestAdministratorIsOneOfTheUsers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	for _, tt := range []struct {
		name, user string
		options    kind.Options
		words      []string
	}{
		{"the old user", "app", nil, []string{"logs in as app, the user that this rotation locks at its end"}},
		{"default", defaultUser, nil, []string{"logs in as default, the user that this rotation locks at its end"}},
		{"one of the pair", "redis_url_a", nil, []string{"logs in as redis_url_a, one of the two users of this key"}},
		{"the same password", "app", kind.Options{optionStrategy: dualPassword}, []string{"logs in as app with the very password that this rotation takes away"}},
	} {
		w := newWorld(t, r, tt.options)
		w.do(r, "ACL", "SETUSER", tt.user, "reset", "on", ">"+appPassword, "~*", "&*", "+@all")
		adopted := tt.user
		if tt.user == "redis_url_a" {
			adopted = "other"
			w.do(r, "ACL", "SETUSER", adopted, "reset", "on", ">"+appPassword, "+@all")
		}
		w.adopt(r.UserURL(adopted, appPassword))
		w.connect(kind.Options{login.FieldURL: r.UserURL(tt.user, appPassword)})
		before := w.rules(r)
		c := w.plan()
		w.refuses(w.kind.Stage(ctx, c), append(tt.words, "connection main", "give the connection an administrator of its own")...)
		w.refuses(w.kind.Retire(ctx, c), tt.words...)
		w.ok(w.kind.Unstage(ctx, c))
		if after := w.rules(r); after != before {
			t.Errorf("%s: users before:\n%s\nand after:\n%s", tt.name, before, after)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, o := range []bed.RedisUsers{bed.UsersInConfig, bed.UsersInACLFile} {
		r := start(t, bed.RedisOptions{Users: o})
		for _, name := range []string{"UPPER", "\u00dcn\u00ef", "\u00a0no\u00a0break", "a=b", "user=x", "#hash", "semi;colon", `back\slash`, "per%cent", "co:lon@at/sl?ash", "emoji\U0001f511", "+@all", ">x", "on"} {
			w := newWorld(t, r, kind.Options{kind.OptionUsername: name + "!"})
			w.do(r, "ACL", "SETUSER", name, "on", ">"+appPassword, "~*", "&*", "+@all")
			w.adopt(r.UserURL(name, appPassword))
			c := w.staged()
			one := w.client(r, c.From, "")
			if n, what := w.inUse(c); n != 1 || !strings.Contains(what, "of user "+name+" at") {
				t.Errorf("%q: in use: %d, %s", name, n, what)
			}
			w.ok(one.Close())
			w.retire(c)
			w.expect(c, false, true, r)
			w.ok(r.Stop())
			w.ok(r.Start(ctx))
			w.expect(c, false, true, r)
			c = w.staged()
			w.retire(c)
		}
	}
}

// A user of that name is somebody's: neither used nor changed.
func TestUserThatIsThereAlready(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* +@all")
	w.do(r, "ACL", "SETUSER", "redis_url_a", "on", ">somebodys", "+get")
	before := w.rules(r)
	c := w.plan()
	w.refuses(w.kind.Stage(ctx, c), "there is a user redis_url_a already", "Set another username= for the key")
	w.ok(w.kind.Unstage(ctx, c))
	w.key.Versions = nil
	w.key.Options[optionStrategy], w.key.Options[kind.OptionUsername] = dualPassword, "redis_url_a"
	w.key.Options[login.OptionURL] = "redis://" + r.Addr
	c = w.plan()
	w.refuses(w.kind.Stage(ctx, c), "there is a user redis_url_a already", "import its URL with value=-")
	w.ok(w.kind.Unstage(ctx, c))
	if after := w.rules(r); after != before {
		t.Errorf("users before:\n%s\nand after:\n%s", before, after)
	}
}
