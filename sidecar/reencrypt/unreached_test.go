// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// A database that is not reached, or does not let us in, is said in one line that names the variable of the URL.
func TestUnreached(t *testing.T) {
	f := newFixture(t)
	silent := kit.Serve(t, func(conn net.Conn) { _, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
	const password = "canary-pw"
	at := func(user, host, database string) string {
		u, err := url.Parse(f.url)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			u.Host = host
		}
		u.User, u.Path = url.UserPassword(user, password), "/"+database
		return u.String()
	}
	f.exec("CREATE ROLE unreached_login LOGIN PASSWORD '" + password + "'")
	defer f.exec("DROP ROLE unreached_login")
	for name, c := range map[string]struct {
		url   string
		wants []string
	}{
		"nobody listens":   {at("u", "127.0.0.1:1", "x"), []string{"127.0.0.1:1 cannot be reached: connect: connection refused; start it"}},
		"several hosts":    {"postgresql://u:" + password + "@127.0.0.1:1,127.0.0.1:2/x", []string{"127.0.0.1:1, 127.0.0.1:2 cannot be reached: connect: connection refused; start it"}},
		"no socket":        {"postgresql://u:" + password + "@/x?host=/nowhere", []string{"/nowhere/.s.PGSQL.5432 cannot be reached", "no such file"}},
		"another protocol": {at("u", silent, "x"), []string{silent + " cannot be reached: "}},
		"wrong user":       {at("nobody_of_that_name", "", "x"), []string{"refuses user nobody_of_that_name", "28P01", "mend user and password"}},
		"no database":      {at("unreached_login", "", "no_such_database"), []string{"no_such_database", "3D000", "name a database"}},
	} {
		t.Run(name, func(t *testing.T) {
			env := f.env()
			env["DATABASE_URL"] = c.url
			check := func(line, begin string, wants ...string) {
				t.Helper()
				if strings.Count(line, "\n") != 1 || !strings.HasPrefix(line, begin+"the database at ") {
					t.Errorf("not one line that begins with %q:\n%s", begin, line)
				}
				for _, want := range append(wants, c.wants...) {
					if !strings.Contains(line, want) {
						t.Errorf("no %q in %s", want, line)
					}
				}
				if strings.Contains(line, password) || strings.Contains(line, "ENCRYPTION_MASTER_KEY") {
					t.Errorf("the message holds the password, or names a key: %s", line)
				}
			}
			status, _, stderr := f.command(env)
			if status != 1 {
				t.Errorf("status %d", status)
			}
			check(stderr, "hyvve-sidecar reencrypt: DATABASE_URL: ")
			status, _, stderr = f.command(env, "discover")
			if status != 1 {
				t.Errorf("discover: status %d", status)
			}
			check(stderr, "hyvve-sidecar reencrypt discover: DATABASE_URL: ")

			path := filepath.Join(t.TempDir(), "url")
			if err := os.WriteFile(path, []byte(c.url+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			delete(env, "DATABASE_URL")
			env["DATABASE_URL_FILE"] = path
			_, _, stderr = f.command(env)
			check(stderr, "hyvve-sidecar reencrypt: DATABASE_URL_FILE: ")
		})
	}
}

// The driver's error keeps its type, so that callers can still decide what to do about it.
func TestUnreachedKeepsItsCause(t *testing.T) {
	_, err := connect(t.Context(), "postgresql://u:p@127.0.0.1:1/x")
	var network *net.OpError
	if !errors.As(err, &network) {
		t.Errorf("%v hides its cause", err)
	}
}
