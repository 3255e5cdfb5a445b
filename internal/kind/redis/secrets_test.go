// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// monitor listens to all commands of a server, and returns what was said until it is asked.
func (w *world) monitor(r *bed.Redis) func() string {
	w.t.Helper()
	conn := w.dial(r)
	_, err := fmt.Fprintf(conn, "AUTH admin %s\r\nMONITOR\r\n", r.AdminPassword)
	w.ok(err)
	in := bufio.NewReader(conn)
	for range 2 {
		line, err := in.ReadString('\n')
		w.ok(err)
		if line != "+OK\r\n" {
			w.t.Fatalf("redis said %q", line)
		}
	}
	var mu sync.Mutex
	var heard strings.Builder
	go func() {
		for {
			line, err := in.ReadString('\n')
			mu.Lock()
			heard.WriteString(line)
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	const last = "that-was-all"
	return func() string {
		w.t.Helper()
		w.do(r, "PING", last)
		text := func() string {
			mu.Lock()
			defer mu.Unlock()
			return heard.String()
		}
		w.eventually(func() bool { return strings.Contains(text(), last) }, func() string { return "the monitor hears nothing" })
		return text()
	}
}

// A password reaches a server when somebody logs in with it, and nowhere else; what the server keeps of commands holds none.
func TestPasswordsDoNotReachTheServer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, strategy := range []string{alternating, dualPassword} {
		r := start(t, bed.RedisOptions{Settings: map[string]string{"slowlog-log-slower-than": "0", "slowlog-max-len": "100000", "loglevel": "debug"}})
		w := rooted(t, "+@all", r)
		w.key.Options[optionStrategy] = strategy
		w.app("~* +@all -ping") // what an application may not do ends in ACL LOG
		heard := w.monitor(r)
		notes, err := w.kind.CheckConnection(ctx, w.connection)
		w.ok(err)
		c := w.staged()
		w.unstage(c)
		c = w.staged()
		_, what := w.inUse(c)
		w.retire(c)
		w.connection.Next = key.NewValue(nextPassword)
		w.ok(w.kind.RotateRoot(ctx, w.connection))
		wrong := w.change(c.From, c.To)
		wrong.Connection = w.connection
		wrong.Connection.Secrets, wrong.Connection.Next = map[string]key.Value{kind.FieldPassword: key.NewValue("wrong-password-of-the-root")}, key.Value{}
		wrong.Connection.Revision++
		refused := w.kind.Stage(ctx, wrong)
		w.refuses(refused, "refuses user root")

		u, err := dsn.Parse(c.To.Value.Reveal(), urls.Schemes...)
		w.ok(err)
		texts := map[string]string{
			"MONITOR": heard(), "SLOWLOG": w.do(r, "SLOWLOG", "GET", "-1"), "ACL LOG": w.do(r, "ACL", "LOG"), "the log": read1(t, r.LogPath),
			"notes": strings.Join(notes, "\n"), "what is in use": what, "the error": refused.Error(),
		}
		for where, sign := range map[string]string{"MONITOR": `"INFO"`, "SLOWLOG": "SETUSER", "ACL LOG": "ping", "the log": "CONFIG REWRITE executed"} {
			if !strings.Contains(strings.ToLower(texts[where]), strings.ToLower(sign)) {
				t.Errorf("%s does not show %s: this test proves nothing", where, sign)
			}
		}
		for where, text := range texts {
			for _, secret := range []string{appPassword, u.Password.Reveal(), rootPassword, nextPassword, "wrong-password-of-the-root"} {
				if strings.Contains(text, secret) {
					t.Errorf("%s, %s: it holds a password", strategy, where)
				}
				if strings.Contains(text, digest(key.NewValue(secret))) {
					t.Errorf("%s, %s: it holds the hash of a password", strategy, where)
				}
			}
		}
	}
}

// What is staged, retired and withdrawn is so after a crash, where the server has a place to write it down.
func TestDurability(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, tt := range []struct {
		name    string
		options bed.RedisOptions
		note    string // none: it keeps its users
	}{
		{"configuration file", bed.RedisOptions{}, ""},
		{"aclfile", bed.RedisOptions{Users: bed.UsersInACLFile}, ""},
		{"aclfile, and no CONFIG", bed.RedisOptions{Users: bed.UsersInACLFile, Settings: map[string]string{"rename-command": `CONFIG ""`}}, ""},
		{"neither", bed.RedisOptions{Users: bed.UsersInMemory}, "are lost when it restarts: it has neither an aclfile nor a configuration file"},
		{"configuration file, and no CONFIG", bed.RedisOptions{Settings: map[string]string{"rename-command": `CONFIG ""`}}, "are lost when it restarts: it cannot write them down"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, tt.options)
			w := newWorld(t, r, nil)
			notes, err := w.kind.CheckConnection(ctx, w.connection)
			w.ok(err)
			if text := strings.Join(notes, "\n"); (tt.note == "") != (text == "") || !strings.Contains(text, tt.note) || tt.note != "" && !strings.Contains(text, r.Addr) {
				t.Errorf("notes: %q", notes)
			}
			restart := func() {
				r.Kill()
				w.ok(r.Start(ctx))
			}
			w.app("~* +@all")
			c := w.staged()
			w.expect(c, true, true, r)
			if restart(); tt.note != "" {
				w.expect(c, false, false, r)
				return
			}
			w.expect(c, true, true, r)
			w.unstage(c)
			restart()
			w.expect(c, true, false, r)
			c = w.staged()
			w.retire(c)
			restart()
			w.expect(c, false, true, r)
		})
	}
}

// occupied makes a file one that cannot be written, as in mounts of Kubernetes, until free is called.
func (w *world) occupied(path string) (free func()) {
	w.t.Helper()
	w.ok(os.Rename(path, path+".kept"))
	w.ok(os.MkdirAll(path+"/x", 0o700))
	return func() {
		w.t.Helper()
		w.ok(os.RemoveAll(path))
		w.ok(os.Rename(path+".kept", path))
	}
}

func TestConfigurationFileThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	r := start(t, bed.RedisOptions{})
	w := newWorld(t, r, nil)
	w.app("~* +@all")
	w.occupied(r.ConfigPath)
	notes, err := w.kind.CheckConnection(t.Context(), w.connection)
	w.ok(err)
	if text := strings.Join(notes, ""); !strings.Contains(text, "ACL users on "+r.Addr+" are lost when it restarts: it has no aclfile, and its configuration file cannot be written") {
		t.Errorf("notes: %q", notes)
	}
	w.retire(w.staged())
}

// A file of users that cannot be written is a fault to be mended: a rotation waits. What is compromised is cut nevertheless.
func TestFileOfUsersThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := start(t, bed.RedisOptions{Users: bed.UsersInACLFile})
	w := newWorld(t, r, nil)
	w.app("~* &* +@all")
	c := w.plan()
	free := w.occupied(r.ACLPath)
	_, err := w.kind.CheckConnection(ctx, w.connection)
	w.refuses(err, "node "+r.Addr+" says to ACL SAVE: ERR")
	w.refuses(w.kind.Stage(ctx, c), "node "+r.Addr+" says to ACL SAVE: ERR")
	w.refuses(w.kind.Unstage(ctx, c), "node "+r.Addr+" says to ACL SAVE: ERR")
	w.expect(c, true, false, r)
	free()
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
	free = w.occupied(r.ACLPath)
	old := w.client(r, c.From, "")
	c.Cut = true
	w.refuses(w.kind.Retire(ctx, c), "node "+r.Addr+" says to ACL SAVE: ERR")
	if err := old.Ping(ctx).Err(); err == nil {
		t.Error("a session of the old user lives")
	}
	w.expect(c, false, true, r)
	free()
	w.retire(c)
	r.Kill()
	w.ok(r.Start(ctx))
	w.expect(c, false, true, r)
}
