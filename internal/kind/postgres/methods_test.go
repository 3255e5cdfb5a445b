// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// A password is shown to a server by the methods that the connection allows, and by no other.
func TestMethods(t *testing.T) {
	p := ownServer(t, bed.PostgresOptions{HBA: []string{
		"host all clear 127.0.0.1/32 password", "host all hashed 127.0.0.1/32 md5", "host all trusted 127.0.0.1/32 trust",
		"host clear all 127.0.0.1/32 password",
	}})
	w := newWorld(t, "", nil)
	for _, role := range []string{"clear", "hashed", "trusted"} {
		w.exec("SET password_encryption = 'md5'", "CREATE ROLE "+role+" SUPERUSER LOGIN PASSWORD 'the-password-of-a-root'")
	}
	if _, err := p.NewDatabase(t.Context(), "clear"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ user, methods, want string }{
		{"clear", "", "by the method password, so that the password was not sent"},
		{"clear", "scram-sha-256, md5", "add password to auth_methods"},
		{"clear", "scram-sha-256,password", ""},
		{"hashed", "", "by the method md5"},
		{"hashed", "md5", ""},
		{"trusted", "", "it asks for no password"},
		{"trusted", "scram-sha-256,none", ""},
		{"trusted", "scram", `"scram" is not known`},
	} {
		c, err := w.kind.NormalizeConnection(kind.Connection{Name: tt.user + tt.methods, Options: kind.Options{
			login.FieldURL: p.URL("postgres", tt.user, "the-password-of-a-root"), fieldMethods: tt.methods,
		}})
		if err == nil {
			_, err = w.kind.CheckConnection(t.Context(), c)
		}
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s with %q: %v, want %q", tt.user, tt.methods, err, tt.want)
		}
	}
	// A new version's password is shown no more readily.
	c := w.next(w.first)
	w.ok(w.kind.Stage(t.Context(), c))
	c.Key.Options = maps.Clone(c.Key.Options)
	c.Key.Options[login.OptionURLs] = fmt.Sprintf("DIRECT_URL=postgresql://127.0.0.1:%d/clear?sslmode=disable", p.Port)
	err := w.kind.Verify(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "by the method password, so that the password was not sent") || !strings.Contains(err.Error(), "DIRECT_URL") {
		t.Errorf("%v", err)
	}
	c.Connection.Options = maps.Clone(c.Connection.Options)
	c.Connection.Options[fieldMethods] = "scram-sha-256,password"
	w.ok(w.kind.Verify(t.Context(), c))
}

// impostor is a server that asks for the password in its own way, and keeps what it hears.
type impostor struct {
	address string

	mu    sync.Mutex
	heard bytes.Buffer
}

func newImpostor(t *testing.T, asks pgproto3.BackendMessage) *impostor {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	i := &impostor{address: listener.Addr().String()}
	question, err := asks.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close() //nolint:errcheck // of a test
				if _, err := pgproto3.NewBackend(conn, conn).ReceiveStartupMessage(); err != nil {
					return
				}
				_, _ = conn.Write(question)
				buffer := make([]byte, 1<<12)
				for {
					n, err := conn.Read(buffer)
					i.mu.Lock()
					i.heard.Write(buffer[:n])
					i.mu.Unlock()
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return i
}

func (i *impostor) hears() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.heard.String()
}

// An impostor of a server learns no password, of the administrator or of a new version, by any authentication method.
func TestImpostors(t *testing.T) {
	for name, asks := range map[string]pgproto3.BackendMessage{
		"in the clear": &pgproto3.AuthenticationCleartextPassword{}, "md5": &pgproto3.AuthenticationMD5Password{Salt: [4]byte{1, 2, 3, 4}},
		"gss": &pgproto3.AuthenticationGSS{},
	} {
		w := newWorld(t, "", nil)
		i := newImpostor(t, asks)
		admin := w.connection
		admin.Options = maps.Clone(admin.Options)
		admin.Options[login.FieldURL] = fmt.Sprintf("postgresql://postgres@%s/postgres?sslmode=disable", i.address)
		admin.Name = "impostor"
		_, err := w.kind.CheckConnection(t.Context(), admin)
		if err == nil || !strings.Contains(err.Error(), "auth_methods") {
			t.Errorf("%s: %v", name, err)
		}
		c := w.next(w.first)
		w.ok(w.kind.Stage(t.Context(), c))
		c.Key.Options = maps.Clone(c.Key.Options)
		c.Key.Options[login.OptionURLs] = fmt.Sprintf("DIRECT_URL=postgresql://%s/x?sslmode=disable", i.address)
		if err := w.kind.Verify(t.Context(), c); err == nil || !strings.Contains(err.Error(), "auth_methods") {
			t.Errorf("%s: %v", name, err)
		}
		if heard := i.hears(); heard != "" {
			t.Errorf("%s: an impostor hears %d bytes", name, len(heard))
		}
	}
}

// What the URL of a workload demands holds, too: what it refuses is not tried.
func TestRequireAuth(t *testing.T) {
	for _, tt := range []struct{ url, methods, want string }{
		{"", "", "scram-sha-256,none"},
		{"scram-sha-256", "", "scram-sha-256"},
		{"!none", "", "scram-sha-256"},
		{"!password,!md5", "password", "none"},
		{"password,md5", "scram-sha-256,password", "password"},
		{"password", "", "no method in common"},
	} {
		c := kind.Connection{Options: kind.Options{login.FieldURL: "postgresql://root@db/x", fieldMethods: tt.methods}}
		u, err := dsn.Postgres("postgresql://app@db/x?require_auth=" + url.QueryEscape(tt.url))
		if tt.url == "" {
			u, err = dsn.Postgres("postgresql://app@db/x")
		}
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if config, err := placeOf("the URL", u).config(c, "app", key.NewValue("x")); err != nil {
			got = err.Error()
		} else {
			got = config.RequireAuth
		}
		if failed := strings.Contains(tt.want, " "); got != tt.want && !failed || !strings.Contains(got, tt.want) {
			t.Errorf("require_auth=%s with auth_methods=%s: %s, want %s", tt.url, tt.methods, got, tt.want)
		}
	}
}

// Notes name the servers that nothing proves to be themselves.
func TestNotesOnImpostors(t *testing.T) {
	k := New(rand.Reader)
	for _, tt := range []struct{ url, methods, want string }{
		{"postgresql://root@db/x", "", "the server db:5432 is not proven"},
		{"postgresql://root@db/x?sslmode=require", "", "without sslmode=verify-full"},
		{"postgresql://root@db/x?sslmode=require", "password", "crosses the network in the clear"},
		{"postgresql://root@db/x?sslmode=disable", "md5,scram-sha-256", "can guess the password"},
		{"postgresql://root@127.0.0.1,db/x?sslmode=disable", "", "is not proven"},
		{"postgresql://root@db/x?sslmode=verify-full", "password", ""},
		{"postgresql://root@db/x?sslmode=verify-ca", "", ""},
		{"postgresql://root@127.0.0.1:5432/x", "password", ""},
		{"postgresql://root@[::1]/x?sslmode=disable", "", ""},
		{"postgresql://root@localhost/x?sslmode=disable", "", ""},
	} {
		c, err := k.NormalizeConnection(kind.Connection{Name: "main", Options: kind.Options{login.FieldURL: tt.url, fieldMethods: tt.methods}, Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue("x")}})
		if err != nil {
			t.Fatal(err)
		}
		notes := strings.Join(exposed(c), "\n")
		if (notes == "") != (tt.want == "") || !strings.Contains(notes, tt.want) {
			t.Errorf("%s, %s: %q, want %q", tt.url, tt.methods, notes, tt.want)
		}
	}
	c, err := k.NormalizeConnection(kind.Connection{Name: "main", Options: kind.Options{
		login.FieldURL: "postgresql://root@localhost/x", fieldBouncers: "postgresql://admin@pooler:6432/pgbouncer", fieldReplicas: "second:5432",
	}, Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue("x")}})
	if err != nil {
		t.Fatal(err)
	}
	if notes := exposed(c); len(notes) != 2 || !strings.Contains(notes[0], "the replica second:5432") || !strings.Contains(notes[1], "the PgBouncer pooler:6432") {
		t.Errorf("%q", notes)
	}
}
