// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// Prometheus scrapes the engine with a token that may do nothing else, as docs/monitoring.md says, and its alerts notice a rotation
// that waits since no sidecar is there, and a server that is down.
func TestPrometheusWatchesTheEngine(t *testing.T) {
	t.Parallel()
	w := startCache(t)
	redis, vault := w.redis, w.vault
	w.write("hyvve/keys/token", map[string]any{"kind": "token", "generate": true})
	w.write("hyvve/workloads/app", map[string]any{"presents": "token,redis-url", "min_instances": 1})

	policy, err := os.ReadFile(filepath.Join(bed.Repo(), "deploy/vault/policies/monitor.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := vault.Client.Sys().PutPolicyWithContext(t.Context(), "hyvve-monitor", string(policy)); err != nil {
		t.Fatal(err)
	}
	secret, err := vault.Client.Logical().WriteWithContext(t.Context(), "auth/token/create", map[string]any{"policies": []string{"hyvve-monitor"}, "no_parent": true, "period": "24h"})
	if err != nil {
		t.Fatal(err)
	}
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(secret.Auth.ClientToken), 0o600); err != nil {
		t.Fatal(err)
	}
	prometheus, err := w.bed.Prometheus(t.Context(), fmt.Sprintf(`
global: { scrape_interval: 300ms, evaluation_interval: 300ms }
rule_files: [%s]
scrape_configs:
  - job_name: hyvve-engine
    metrics_path: /v1/hyvve/metrics
    params: { format: [prometheus] }
    authorization: { credentials_file: %s }
    static_configs: [{ targets: ["%s"] }]
`, filepath.Join(bed.Repo(), "deploy/monitoring/alerts.yaml"), tokenFile, strings.TrimPrefix(vault.Addr, "http://")))
	if err != nil {
		t.Fatal(err)
	}
	w.write("hyvve/rotate/token", nil)
	has := func(expression string) bool {
		t.Helper()
		values, err := prometheus.Query(t.Context(), expression)
		if err != nil {
			t.Fatal(err)
		}
		return len(values) > 0
	}
	kit.Until(t, "the metrics say what the rotation waits for", func() bool {
		return has(`hyvve_rotation_gate_waiting{keys="token",gate="min_instances"} == 1`) && has(`hyvve_key_version{key="token"} == 1`)
	})
	kit.Until(t, "an alert notices that nobody is there", func() bool { return alertStates(t, prometheus.URL)["HyvveWorkloadTooSmall"] != "inactive" })
	if states := alertStates(t, prometheus.URL); states["HyvveConnectionProblem"] != "inactive" || states["HyvveEngineNotScraped"] != "inactive" {
		t.Errorf("%v", states)
	}
	redis.Kill()
	kit.Until(t, "an alert notices that the server is down", func() bool {
		w.read("hyvve/connections/cache") // which looks at the server, unless that was done or the connection was written moments ago
		return alertStates(t, prometheus.URL)["HyvveConnectionProblem"] != "inactive"
	})
}

// alertStates returns the state of each alert: inactive, pending or firing. A rule that cannot be evaluated fails the test.
func alertStates(t *testing.T, url string) map[string]string {
	t.Helper()
	resp, err := http.Get(url + "/api/v1/rules")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is only read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct {
					Name, State, Health, LastError string
				}
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			if r.Health == "err" {
				t.Fatalf("alert %s: %s", r.Name, r.LastError)
			}
			states[r.Name] = r.State
		}
	}
	if len(states) == 0 {
		t.Fatalf("no alerts: %s", body)
	}
	return states
}
