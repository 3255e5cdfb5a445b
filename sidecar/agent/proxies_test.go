// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
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

// A retired value that is presented is in the report, also after Vault was away, in the status and in the metrics, and is no reason
// to call the workload unhealthy.
func TestRetiredValueIsReported(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(app.Close)
	upstream, err := url.Parse(app.URL)
	if err != nil {
		t.Fatal(err)
	}
	address, dir := listening(t), t.TempDir()
	socket := filepath.Join(dir, ".status-secrets.json.hyvve")
	r := startAgentWith(t, dir, nil, func(r *running, c *Config) {
		c.Listeners = []config.Listener{{Address: address, Upstream: upstream, Keys: []config.ProxyKey{{Env: "TOKEN", Header: "Authorization", State: filepath.Join(dir, "state")}}}}
		r.fake.tripwires = map[string]any{"TOKEN": []any{map[string]any{
			"version": 3, "salt": "salt", "digest": workload.TripDigest("salt", sha256.Sum256([]byte(canary+"-retired"))), "until": time.Now().Add(time.Hour).Format(time.RFC3339),
		}}}
	})
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.fail["report"] = http.StatusServiceUnavailable })
	for range 3 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+canary+"-retired")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	before := r.fake.count("report")
	kit.Until(t, "a report fails", func() bool { return r.fake.count("report") > before })
	r.fake.change(func() { delete(r.fake.fail, "report") })
	report := r.await("what was seen", func(report map[string]any) bool { return len(report["tripped"].([]any)) > 0 })
	trip := report["tripped"].([]any)[0].(map[string]any)
	if trip["env"] != "TOKEN" || trip["version"] != 3.0 || trip["count"] != 3.0 || trip["run"] == "" || fmt.Sprint(trip["from"]) != "[127.0.0.1]" || report["healthy"] != true {
		t.Errorf("report %v", report)
	}
	for path, want := range map[string]string{
		"/metrics": "hyvve_sidecar_proxy_retired_requests_total{key=\"TOKEN\"} 3",
		"/status":  `"retired_requests":{"TOKEN":3}`,
	} {
		resp, err := status.Get(t.Context(), socket, path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if !strings.Contains(string(text), want) || strings.Contains(string(text), canary) {
			t.Errorf("%s does not have %s, or a value", path, want)
		}
	}
	r.until("Vault is known to answer again", func() bool { return r.agent.board.State().Well() })
	var out, errs bytes.Buffer
	code := usage.Run(t.Context(), NewStatus(), []string{"--socket=" + socket}, &out, &errs)
	if code != 0 || !strings.Contains(out.String(), "TOKEN version 3, which is retired: presented by 3 requests, the last ") {
		t.Errorf("status %d: %s", code, out.String())
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

// What an earlier process has seen in the future, before the clock was set back, delays no report of what is seen now.
func TestSightingAfterTheClockWasSetBack(t *testing.T) {
	address, dir, ahead := listening(t), t.TempDir(), time.Now().Add(time.Hour).UTC()
	state := filepath.Join(dir, "state")
	wire := workload.Tripwire{Version: 3, Salt: "salt", Digest: workload.TripDigest("salt", sha256.Sum256([]byte(canary+"-retired"))), Until: ahead}
	stored, err := json.Marshal(map[string]any{
		"own": []string{canary + "-1"}, "accepts": []string{canary + "-1"}, "versions": []int{1}, "tripwires": []workload.Tripwire{wire},
		"tripped": map[string]any{"run": "earlier", "seen": []workload.Trip{{Env: "TOKEN", Version: 3, Run: "earlier", Count: 1, First: ahead, Last: ahead}}},
	})
	if err == nil {
		err = os.WriteFile(state, stored, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := startAgentWith(t, dir, nil, func(r *running, c *Config) {
		upstream := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
		c.Listeners = []config.Listener{{Address: address, Upstream: upstream, Keys: []config.ProxyKey{{Env: "TOKEN", Header: "Authorization", State: state}}}}
		r.fake.tripwires = map[string]any{"TOKEN": []any{wire}}
	})
	r.await("what was stored", func(report map[string]any) bool { return len(report["tripped"].([]any)) > 0 })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+canary+"-old")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	r.await("a sighting", func(report map[string]any) bool { return len(report["sightings"].([]any)) > 0 })
}
