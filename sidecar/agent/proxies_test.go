// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// listening returns a free port's address. Another process may take it meanwhile; the test fails then.
func listening(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // of a test
	return l.Addr().String()
}

// The application continues with the value that it started with, whatever comes, and also when the sidecar starts again
// while Vault is away.
func TestProxyBeforeTheWorkload(t *testing.T) {
	own := fmt.Sprintf("Bearer %s-%d", canary, 1)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != own {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(app.Close)
	upstream, err := url.Parse(app.URL)
	if err != nil {
		t.Fatal(err)
	}
	address := listening(t)
	dir := t.TempDir()
	state := filepath.Join(t.TempDir(), "state")
	edit := func(_ *running, c *Config) {
		c.Listeners = []config.Listener{{Address: address, Upstream: upstream, Keys: []config.ProxyKey{{Env: "TOKEN", Header: "Authorization", State: state}}}}
	}
	presents := func(value string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+canary+value)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	r := startAgentWith(t, dir, nil, edit)
	r.await("first", loaded("etag-1-0"))
	if status := presents("-1"); status != http.StatusOK {
		t.Errorf("the first version: %d", status)
	}
	r.fake.change(func() { r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	for value, want := range map[string]int{"-2": http.StatusOK, "-old": http.StatusOK, "-1": http.StatusUnauthorized, "": http.StatusUnauthorized} {
		if status := presents(value); status != want {
			t.Errorf("%q: %d, want %d", value, status, want)
		}
	}
	report := r.await("a sighting", func(report map[string]any) bool { return len(report["sightings"].([]any)) > 0 })
	sighting := report["sightings"].([]any)[0].(map[string]any)
	if ago, ok := sighting["last_seen"].(float64); !ok || ago < 0 || ago > 60 || sighting["env"] != "TOKEN" || sighting["version"] != 1.0 || sighting["count"] != 1.0 || sighting["from"] != "127.0.0.1" {
		t.Errorf("sighting %v", sighting)
	}
	r.stop()
	again := startAgentWith(t, dir, nil, func(r *running, c *Config) {
		edit(r, c)
		r.fake.fail["creds"] = http.StatusServiceUnavailable
	})
	// Vault is asked once the proxy serves.
	for tick, end := time.NewTicker(time.Millisecond), time.Now().Add(30*time.Second); again.fake.count("creds") == 0; <-tick.C {
		if time.Now().After(end) {
			t.Fatal("vault is not asked")
		}
	}
	if status := presents("-2"); status != http.StatusOK {
		t.Errorf("while vault is away: %d", status)
	}
}

// What cannot be stored keeps files as they are, and is said.
func TestProxyStateCannotBeStored(t *testing.T) {
	wide := t.TempDir()
	if err := os.Chmod(wide, 0o777); err != nil {
		t.Fatal(err)
	}
	address := listening(t)
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Listeners = []config.Listener{{
			Address: address, Upstream: &url.URL{Scheme: "http", Host: "127.0.0.1:1"},
			Keys: []config.ProxyKey{{Env: "TOKEN", Header: "Authorization", State: filepath.Join(wide, "state")}},
		}}
	})
	report := r.await("not healthy", func(report map[string]any) bool { return report["healthy"] == false })
	if reason, _ := report["reason"].(string); !strings.Contains(reason, "writable by everybody") || r.file() != "" {
		t.Errorf("report %v", report)
	}
}
