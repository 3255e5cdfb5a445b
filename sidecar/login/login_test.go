// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

func TestGoodSettings(t *testing.T) {
	for _, c := range []struct {
		given Settings
		mount string
	}{
		{Settings{Method: "token_file", Path: "/t", Wrapped: true}, "token_file"},
		{Settings{Method: "approle", RoleIDFile: "/r", SecretIDFile: "/s", Mount: "/teams/approle/"}, "teams/approle"},
		{Settings{Method: "approle", RoleIDFile: "/r", SecretIDFile: "/s", SecretIDWrapped: true, Role: "api"}, "approle"},
		{Settings{Method: "kubernetes", Role: "api"}, "kubernetes"},
		{Settings{Method: "jwt", TokenPath: "/t"}, "jwt"},
		{Settings{Method: "cert", CertFile: "/c", KeyFile: "/k", Name: "api", Mount: "certs"}, "certs"},
	} {
		s, err := c.given.Check()
		if err != nil || s.Mount != c.mount {
			t.Errorf("%+v: mount %q, %v", c.given, s.Mount, err)
		}
		if s.Method == "kubernetes" && s.TokenPath != "/var/run/secrets/kubernetes.io/serviceaccount/token" {
			t.Errorf("token_path is %q", s.TokenPath)
		}
	}
}

func TestBadSettings(t *testing.T) {
	for name, c := range map[string]struct {
		given Settings
		wants []string
	}{
		"method":           {Settings{Method: "kubernets"}, []string{`auth "kubernets" is not known`, `did you mean "kubernetes"`, "cert"}},
		"token file":       {Settings{Method: "token_file"}, []string{"path is missing"}},
		"approle":          {Settings{Method: "approle"}, []string{"role_id_file is missing", "secret_id_file is missing"}},
		"kubernetes":       {Settings{Method: "kubernetes"}, []string{"role is missing; name the role"}},
		"jwt":              {Settings{Method: "jwt", Role: "api"}, []string{"token_path is missing"}},
		"cert":             {Settings{Method: "cert"}, []string{"cert_file is missing", "key_file is missing"}},
		"another's field":  {Settings{Method: "kubernetes", Role: "api", Path: "/t", RoleIDFile: "/r"}, []string{"path is not a field of this method", "role_id_file is not a field", "it has mount, role, token_path"}},
		"wrapped":          {Settings{Method: "approle", RoleIDFile: "/r", SecretIDFile: "/s", Wrapped: true}, []string{"wrapped is not a field", "secret_id_wrapped"}},
		"role of approle":  {Settings{Method: "approle", RoleIDFile: "/r", SecretIDFile: "/s", Role: "api"}, []string{"role is for secret_id_wrapped = true"}},
		"mount of a token": {Settings{Method: "token_file", Path: "/t", Mount: "x"}, []string{"mount is not a field"}},
		"mount with auth":  {Settings{Method: "jwt", TokenPath: "/t", Mount: "auth/jwt"}, []string{"begins with auth/", `"jwt"`}},
		"mount":            {Settings{Method: "jwt", TokenPath: "/t", Mount: "a b"}, []string{`mount = "a b" is not a path`}},
		"mount upwards":    {Settings{Method: "jwt", TokenPath: "/t", Mount: "../sys"}, []string{"is not a path"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.given.Check()
			if err == nil {
				t.Fatal("it is taken")
			}
			for _, want := range c.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
		})
	}
}

// What stands in a file of secrets, named by mistake, is not quoted.
func TestFilesAreNotQuoted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"canary word", "", "  \n", "canary\x01"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := read("token_path", path, os.ReadFile); err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	status, after := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", after)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"errors":["later"]}`))
	}))
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("t"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status      int
		after       string
		least, most time.Duration
	}{
		{429, "20", 10 * time.Second, 20 * time.Second},
		{503, "20", 10 * time.Second, 20 * time.Second},
		{503, time.Now().Add(40 * time.Second).UTC().Format(http.TimeFormat), 10 * time.Second, 40 * time.Second},
		{429, "86400", 50 * time.Second, time.Minute}, // nobody is to stay away for a day
		{429, "99999999999999999999", 0, 0},
		{429, "-5", 0, 0},
		{429, "soon", 0, 0},
		{429, "", 0, 0},
		{500, "20", 0, 0},
		{503, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), 0, 0},
	} {
		status, after = c.status, c.after
		conn, err := Connect(Address{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Settings{Method: "token_file", Path: path}).Login(t.Context(), conn); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("%d: %v", c.status, err)
		}
		if wait := conn.Wait(); wait < c.least || wait > c.most {
			t.Errorf("%d, Retry-After %q: waits for %s", c.status, c.after, wait)
		}
	}
}

// Every answer that another one may follow is waited out; what is refused is not.
func TestWhatLoginFailuresMean(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwt")
	if err := os.WriteFile(path, []byte("jwt"), 0o600); err != nil {
		t.Fatal(err)
	}
	for status, want := range map[int]error{
		400: client.ErrDenied, 403: client.ErrDenied, 404: client.ErrDenied, 412: client.ErrUnavailable, 429: client.ErrUnavailable,
		472: client.ErrUnavailable, 473: client.ErrUnavailable, 500: client.ErrUnavailable, 503: client.ErrUnavailable, 200: client.ErrDenied,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"errors":["so"]}`))
		}))
		conn, err := Connect(Address{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		method := New(Settings{Method: "kubernetes", Role: "api", Mount: "kubernetes", TokenPath: path})
		if _, err := method.Login(t.Context(), conn); !errors.Is(err, want) {
			t.Errorf("login, %d: %v, want %v", status, err, want)
		}
		conn.Vault.SetToken("t")
		if _, err := Renew(t.Context(), conn); !errors.Is(err, want) {
			t.Errorf("renewal, %d: %v, want %v", status, err, want)
		}
		server.Close()
	}
}

// The form of the requests, as Vault's documentation of each method describes it.
func TestRequests(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "word")
	if err := os.WriteFile(file, []byte("word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]Settings{
		`/v1/auth/kubernetes/login {"jwt":"word","role":"api"}`:        {Method: "kubernetes", Role: "api", TokenPath: file},
		`/v1/auth/a/b/login {"jwt":"word"}`:                            {Method: "jwt", Mount: "a/b", TokenPath: file},
		`/v1/auth/approle/login {"role_id":"word","secret_id":"word"}`: {Method: "approle", RoleIDFile: file, SecretIDFile: file},
		`/v1/auth/cert/login {"name":"api"}`:                           {Method: "cert", CertFile: file, KeyFile: file, Name: "api"},
		`/v1/auth/cert/login null`:                                     {Method: "cert", CertFile: file, KeyFile: file},
	} {
		asked := make(chan string, 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := make([]byte, r.ContentLength)
			_, _ = r.Body.Read(body)
			asked <- r.URL.Path + " " + strings.TrimSpace(string(body)) + r.Header.Get("X-Vault-Token")
			_, _ = w.Write([]byte(`{"auth":{"client_token":"got","lease_duration":60,"renewable":true}}`))
		}))
		conn, err := Connect(Address{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		checked, err := s.Check()
		if err != nil {
			t.Fatal(err)
		}
		token, err := New(checked).Login(t.Context(), conn)
		if got := <-asked; err != nil || got != want || token.TTL != time.Minute || !token.Renewable || conn.Vault.Token() != "got" {
			t.Errorf("%s, want %s; %+v, %v", got, want, token, err)
		}
		server.Close()
	}
}

// A Vault that never answers is not waited for longer than a login may take.
func TestLoginEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	conn, err := Connect(Address{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	conn.Vault.SetToken("t")
	if _, err := Renew(ctx, conn); !errors.Is(err, client.ErrUnavailable) {
		t.Error(err)
	}
}

// A method logs in once at a time: what it has unwrapped is for all of its logins.
func TestLoginsOneAfterTheOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("word"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked, release := make(chan struct{}, 2), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-release
		_, _ = w.Write([]byte(`{"data":{"ttl":60}}`))
	}))
	t.Cleanup(server.Close)
	c, err := Connect(Address{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	m, done := New(Settings{Method: "token_file", Path: path}), make(chan error)
	go func() {
		_, err := m.Login(t.Context(), c)
		done <- err
	}()
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.Login(ctx, c); !errors.Is(err, client.ErrUnavailable) || len(asked) != 0 {
		t.Errorf("%v after %d requests", err, len(asked))
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := m.Login(t.Context(), c); err != nil {
		t.Error(err)
	}
}

// A secret id or a token that every user of the machine may read is used by nobody.
func TestAdversarySecretFiles(t *testing.T) {
	dir := t.TempDir()
	role, secret := filepath.Join(dir, "role"), filepath.Join(dir, "secret")
	for _, path := range []string{role, secret} {
		if err := os.WriteFile(path, []byte("word"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked = true
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	c, err := Connect(Address{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	for mode, refused := range map[os.FileMode]bool{0o644: true, 0o606: true, 0o600: false} {
		if err := os.Chmod(secret, mode); err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]Settings{
			"approle": {Method: appRole, Mount: "approle", RoleIDFile: role, SecretIDFile: secret},
			"wrapped": {Method: appRole, Mount: "approle", RoleIDFile: role, SecretIDFile: secret, SecretIDWrapped: true},
			"token":   {Method: tokenFile, Path: secret},
		} {
			asked = false
			_, err := New(s).Login(t.Context(), c)
			if asked == refused || refused && !strings.Contains(err.Error(), "lets every user at it") {
				t.Errorf("%s, mode %o: asked %v, %v", name, mode, asked, err)
			}
		}
	}
}
