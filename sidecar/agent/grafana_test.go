// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// A data source of Grafana is rendered by template, and Grafana asked to read it, with credentials from a file: when it is
// asked, the file holds the newest value. It answers as Grafana's documentation says; package reload has the rest of that.
func TestDataSourceOfGrafana(t *testing.T) {
	dir := t.TempDir()
	source, admin := filepath.Join(dir, "agents.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(admin, []byte("admin:of-grafana\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var read []string // when it was asked
	grafana := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.Method+" "+r.URL.Path != "POST /api/admin/provisioning/datasources/reload" || user+":"+password != "admin:of-grafana" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		data, _ := os.ReadFile(source)
		mu.Lock()
		defer mu.Unlock()
		read = append(read, string(data))
		fmt.Fprint(w, `{"message":"Datasources config reloaded"}`)
	}))
	defer grafana.Close()
	r := startAgentWith(t, dir, nil, func(_ *running, c *Config) {
		own, err := Check(config.File{
			Workload: c.Workload, Vault: anyVault(),
			Render: []config.RenderBlock{{Format: "template", Path: source, Template: `apiVersion: 1
datasources:
  - name: agents
    type: prometheus
    jsonData: { httpHeaderName1: Authorization }
    secureJsonData: { httpHeaderValue1: {{ json (printf "Bearer %s" (value "TOKEN")) }} }
`}},
			Reload: &config.ReloadBlock{Method: "http", URL: grafana.URL + "/api/admin/provisioning/datasources/reload", BasicAuthFile: admin},
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Targets, c.Reloader = append(c.Targets, own.Targets...), own.Reloader
	})
	for n := 1; n <= 3; n++ {
		r.fake.change(func() { r.fake.version = n })
		r.await("loaded", loaded(fmt.Sprintf("etag-%d-0", n)))
		mu.Lock()
		if len(read) != n || !strings.Contains(read[n-1], fmt.Sprintf(`httpHeaderValue1: "Bearer %s-%d" }`, canary, n)) {
			t.Errorf("it was asked %d times for %d changes, or the file was not the newest", len(read), n)
		}
		mu.Unlock()
	}
}
