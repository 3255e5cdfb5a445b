// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestHTTP(t *testing.T) {
	const etag = "e2"
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		expect bool   // that it names the etag
		want   string // in the error; empty: it is well
	}{
		"well":           {func(http.ResponseWriter, *http.Request) {}, false, ""},
		"no etag":        {func(http.ResponseWriter, *http.Request) {}, true, "does not say which bundle is loaded"},
		"header":         {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(EtagHeader, etag) }, true, ""},
		"body":           {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"ok":true,"etag":"e2"}`) }, true, ""},
		"other body":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `["e2"]`) }, true, "does not say"},
		"old etag":       {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(EtagHeader, "e1") }, true, "not loaded the new bundle"},
		"old, not asked": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(EtagHeader, "e1") }, false, ""},
		"header first": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(EtagHeader, "e1")
			fmt.Fprint(w, `{"etag":"e2"}`)
		}, true, "not loaded the new bundle"},
		"ill with etag": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(EtagHeader, etag)
			w.WriteHeader(http.StatusServiceUnavailable)
		}, true, "503"},
		"redirected": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/login" {
				http.Redirect(w, r, "/login", http.StatusFound)
			}
		}, false, "302"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			h := HTTP{URL: strings.Replace(server.URL, "http://", "http://u:canary@", 1), Timeout: 10 * time.Second, ExpectEtag: c.expect}
			switch err := h.Check(t.Context(), etag); {
			case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			case err != nil && strings.Contains(err.Error(), "canary"):
				t.Errorf("the error holds the password of the URL: %v", err)
			}
		})
	}
}

// A connection that was kept would lead to the process that is being replaced.
func TestEachCheckConnectsAnew(t *testing.T) {
	var from []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { from = append(from, r.RemoteAddr) }))
	defer server.Close()
	for range 2 {
		if err := (HTTP{URL: server.URL, Timeout: 10 * time.Second}).Check(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if from[0] == from[1] {
		t.Error("both checks came over one connection")
	}
}

func TestHangs(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	if err := (HTTP{URL: server.URL, Timeout: 30 * time.Millisecond}).Check(t.Context(), ""); err == nil {
		t.Error("a workload that does not answer is taken for a healthy one")
	}
}

func TestTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := TCP{Address: listener.Addr().String(), Timeout: 10 * time.Second}
	if err := c.Check(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context(), ""); err == nil {
		t.Error("nobody listens, and it is taken for healthy")
	}
}
