// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHTTP(t *testing.T) {
	status, method := http.StatusNoContent, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method = r.Method
		if r.URL.Path == "/elsewhere" {
			status = http.StatusOK
		}
		if status/100 == 3 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	h := HTTP{URL: strings.Replace(server.URL, "http://", "http://user:"+canary+"@", 1), Timeout: 10 * time.Second}
	if err := h.Reload(t.Context()); err != nil || method != http.MethodPost {
		t.Errorf("%s: %v", method, err)
	}
	for _, status = range []int{500, 302} {
		want := fmt.Sprint(status)
		if err := h.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", want, err)
		}
	}
	server.Close()
	if err := h.Reload(t.Context()); !errors.Is(err, ErrNotRunning) || strings.Contains(err.Error(), canary) {
		t.Error(err)
	}
}

func TestHTTPHangs(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	err := HTTP{URL: server.URL, Timeout: 50 * time.Millisecond}.Reload(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}

func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credential")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Credentials come from files, which are read for each request, and stand in no error.
func TestHTTPCredentials(t *testing.T) {
	var got *http.Request
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.WriteHeader(status)
		fmt.Fprintf(w, "%s is not let in with %s %s", r.Header.Get("Authorization"), r.Header.Get("X-Key"), canary)
	}))
	defer server.Close()
	basic := secretFile(t, "admin:secret-one")
	h := HTTP{
		URL: server.URL, Method: http.MethodPut, Timeout: 10 * time.Second, Headers: map[string]string{"x-org": "1", "host": "grafana.example"},
		HeaderFiles: map[string]string{"x-key": secretFile(t, "secret-key\n")}, BasicAuthFile: basic,
	}
	if err := h.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	user, password, _ := got.BasicAuth()
	if got.Method != http.MethodPut || got.Host != "grafana.example" || got.Header.Get("X-Org") != "1" || got.Header.Get("X-Key") != "secret-key" || user+":"+password != "admin:secret-one" {
		t.Errorf("%s for %s with %v", got.Method, got.Host, got.Header)
	}
	if err := os.WriteFile(basic, []byte("admin:secret-two"), 0o600); err != nil {
		t.Fatal(err)
	}
	status = http.StatusUnauthorized
	err := h.WithMask(masked).Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "answered 401 Unauthorized: Basic [redacted] is not let in with [redacted] [redacted]") {
		t.Error(err)
	}
	if _, password, _ := got.BasicAuth(); password != "secret-two" {
		t.Errorf("the file was not read again: %s", password)
	}
	h = HTTP{URL: server.URL, Timeout: 10 * time.Second, BearerTokenFile: secretFile(t, "secret-three"), Statuses: []int{401, 503}}
	if err := h.Reload(t.Context()); err != nil || got.Header.Get("Authorization") != "Bearer secret-three" || got.Method != http.MethodPost {
		t.Errorf("%v with %v", err, got.Header)
	}
	status = http.StatusOK
	if err := h.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "answered 200 OK") {
		t.Errorf("a status that is not expected: %v", err)
	}
	if err := os.Chmod(h.BearerTokenFile, 0o644); err != nil {
		t.Fatal(err)
	}
	got = nil
	if err := h.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "bearer_token_file") || !strings.Contains(err.Error(), "0644") || got != nil {
		t.Errorf("a file for everybody: %v", err)
	}
}

// An answer is quoted, but not all of it.
func TestHTTPSaysMuch(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, "datasource is wrong", strings.Repeat("x", 1<<20))
	}))
	defer server.Close()
	err := HTTP{URL: server.URL, Timeout: 10 * time.Second}.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "500 Internal Server Error: datasource is wrongxx") || len(err.Error()) > 1000 {
		t.Errorf("%.100v", err)
	}
}

// The text of a status is the server's own, and may say what it was sent.
func TestHTTPStatusOfItsOwn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // of a test
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // of a test
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err == nil {
			fmt.Fprintf(conn, "HTTP/1.1 401 not with %s\r\nContent-Length: 0\r\n\r\n", req.Header.Get("Authorization"))
		}
	}()
	err = HTTP{URL: "http://" + l.Addr().String(), Timeout: 10 * time.Second, BearerTokenFile: secretFile(t, "secret-status")}.Reload(t.Context())
	if err == nil || !strings.HasSuffix(err.Error(), "answered 401 Unauthorized") {
		t.Error(err)
	}
}
