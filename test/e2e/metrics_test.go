// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

const metricsEnv = "METRICS_API_KEY"

// exporter is the platform's /metrics as it is: behind the one key that it was started with, forever.
type exporter struct {
	url             string
	served, refused atomic.Int64
}

func export(t *testing.T, token string) *exporter {
	e := &exporter{}
	want := []byte("Bearer " + token)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			e.refused.Add(1)
			http.Error(w, "Invalid metrics key", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintf(w, "# TYPE served_total counter\nserved_total %d\n", e.served.Add(1))
	}))
	t.Cleanup(server.Close)
	e.url = server.URL
	return e
}

// presented stands before a server and counts the different tokens that come.
type presented struct {
	mu     sync.Mutex
	tokens map[[sha256.Size]byte]int
}

func record(t *testing.T, upstream string) (*presented, string) {
	t.Helper()
	target, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	p := &presented{tokens: map[[sha256.Size]byte]int{}}
	forward := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.tokens[sha256.Sum256([]byte(r.Header.Get("Authorization")))]++
		p.mu.Unlock()
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return p, strings.TrimPrefix(server.URL, "http://")
}

func (p *presented) count(token string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tokens[sha256.Sum256([]byte("Bearer "+token))]
}

// awaitFile waits until there is a file of another content than before.
func (w *world) awaitFile(path, before string) string {
	w.t.Helper()
	var data []byte
	kit.Until(w.t, path+" is written again", func() bool {
		data, _ = os.ReadFile(path)
		return len(data) > 0 && string(data) != before
	})
	return string(data)
}

// scrapeConfig has so many targets, which are one server: each is scraped every second, at another moment of it.
const scrapeConfig = `
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: agents
    authorization:
      credentials_file: %s
    static_configs:
%s`

func slots(n int, address string) string {
	var text strings.Builder
	for slot := range n {
		fmt.Fprintf(&text, "      - targets: [%q]\n        labels: {slot: \"%d\"}\n", address, slot)
	}
	return text.String()
}

// The real Prometheus scrapes an application that holds one key forever, through rotations of that key: its own sidecar
// renders the file that it reads forevery scrape, and the application's proxy accepts what it presents. No scrape fails, and
// nothing is reloaded.
func TestPrometheusScrapesThroughRotations(t *testing.T) {
	const rotations, targets = 3, 10
	w := start(t, small(true))
	w.requireNoProof()
	ctx := t.Context()
	if err := w.AddWorkload(ctx, "prometheus", map[string]any{"presents": "metrics-api-key", "after": "agents", "min_instances": 1}); err != nil {
		t.Fatal(err)
	}
	first := w.Initial[metricsEnv].Reveal()
	app := export(t, first)
	front := w.proxied(app.url)
	seen, address := record(t, front)

	_, dir, err := w.Place("prometheus", 1)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "secrets", metricsEnv)
	server := w.startPrometheus(fmt.Sprintf(scrapeConfig, file, slots(targets, address)), file, dir)

	w.awaitScrapes(seen, first, targets)
	for n := range rotations {
		before := w.awaitFile(file, "")
		w.follow(w.rotate("metrics-api-key"), "done")
		after := w.awaitFile(file, before)
		w.awaitScrapes(seen, after, targets)
		if n == 0 && before != first {
			t.Error("the file did not begin with the key that was there")
		}
	}
	value := func(expression string) float64 {
		t.Helper()
		values, err := server.Query(ctx, expression)
		if err != nil || len(values) != 1 {
			t.Fatalf("%s: %v, %v", expression, values, err)
		}
		return values[0]
	}
	scrapes := value(`sum(count_over_time(up{job="agents"}[1h]))`)
	if up := value(`min(min_over_time(up{job="agents"}[1h]))`); up != 1 || scrapes < targets*rotations {
		t.Errorf("the least of up is %g, of %g scrapes", up, scrapes)
	}
	if least := value(`min(min_over_time(scrape_samples_scraped{job="agents"}[1h]))`); least != 1 {
		t.Errorf("a scrape had %g samples", least)
	}
	if refused := app.refused.Load(); refused != 0 {
		t.Errorf("the application has refused %d requests", refused)
	}
	if n := len(seen.tokens); n != rotations+1 {
		t.Errorf("%d different keys were presented in %d rotations", n, rotations)
	}
	t.Logf("%g scrapes, none failed; %d served", scrapes, app.served.Load())
	w.conclude()
}

// proxied starts an instance of agents whose process is at upstream, with a proxy before it that accepts METRICS_API_KEY.
func (w *world) proxied(upstream string) (front string) {
	w.t.Helper()
	port, err := bed.FreePort()
	if err != nil {
		w.t.Fatal(err)
	}
	_, dir, err := w.Place("agents", 8)
	if err != nil {
		w.t.Fatal(err)
	}
	front = fmt.Sprintf("http://127.0.0.1:%d", port)
	blocks := fmt.Sprintf(`
render "json" {
  path = "%s/secrets.json"
  keys = [%[2]q]
}
proxy {
  listen   = "127.0.0.1:%[3]d"
  upstream = %[4]q
  key      = %[2]q
}
`, dir, metricsEnv, port, upstream)
	if err := w.StartSidecar(w.t.Context(), "agents", 8, blocks); err != nil {
		w.t.Fatal(err)
	}
	w.awaitFile(filepath.Join(dir, "secrets.json"), "")
	return front
}

// startPrometheus starts the server, and its sidecar before it: the file that it is to read must be there. Its sidecar also
// looks at its own metrics, as they really are.
func (w *world) startPrometheus(config, file, dir string) *bed.Prometheus {
	w.t.Helper()
	port, err := bed.FreePort()
	if err != nil {
		w.t.Fatal(err)
	}
	blocks := fmt.Sprintf(`
render "files" {
  path = "%s/secrets"
  keys = [%q]
}
health "http" { url = "http://127.0.0.1:%[3]d/-/healthy" }
health "prometheus" {
  url    = "http://127.0.0.1:%[3]d/metrics"
  metric = "prometheus_http_requests_total"
  labels = { code = "=~5.." }
  window = "1s"
}
`, dir, metricsEnv, port)
	if err := os.MkdirAll(filepath.Join(dir, "secrets"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := w.StartSidecar(w.t.Context(), "prometheus", 1, blocks); err != nil {
		w.t.Fatal(err)
	}
	w.awaitFile(file, "")
	server, err := w.Bed.PrometheusAt(w.t.Context(), port, config)
	if err != nil {
		w.t.Fatal(err)
	}
	return server
}

// awaitScrapes waits until so many scrapes have presented a key.
func (w *world) awaitScrapes(seen *presented, token string, n int) {
	w.t.Helper()
	kit.Until(w.t, fmt.Sprintf("%d scrapes have presented the key that the file holds", n), func() bool { return seen.count(token) >= n })
}

// A counter of one instance grows after the change: the rotation says so and waits, and continues when it has stopped.
func TestGateHoldsARotation(t *testing.T) {
	w := start(t, small(true))
	w.requireNoProof()
	w.write("hyvve/config", map[string]any{"soak": "10s"})
	var refused atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, "# TYPE http_requests_total counter\nhttp_requests_total{status=\"401\"} %d\n", refused.Load())
	}))
	defer server.Close()
	_, dir, err := w.Place("api", 5)
	if err != nil {
		t.Fatal(err)
	}
	err = w.StartSidecar(t.Context(), "api", 5, fmt.Sprintf(`
render "json" {
  path = "%s/secrets.json"
  keys = ["AGENT_SERVICE_TOKEN"]
}
health "prometheus" {
  url          = "%s/metrics"
  metric       = "http_requests_total"
  labels       = { status = "401" }
  max_increase = 5
  window       = "20s"
  interval     = "200ms"
}
`, dir, server.URL))
	if err != nil {
		t.Fatal(err)
	}
	w.awaitFile(filepath.Join(dir, "secrets.json"), "")
	refused.Store(1000)
	id := w.rotate("agent-service-token")
	w.reach(id, "soaking", "soak")
	refused.Add(6)
	w.awaitGate(id, `api-5: health check: http_requests_total{status="401"} has grown by 6 in the `)
	w.follow(id, "done")
	w.conclude()
}

// awaitGate waits until a rotation says why it waits.
func (w *world) awaitGate(id, want string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), bed.WaitTimeout)
	defer cancel()
	for {
		r, err := w.Engine.Rotation(ctx, id)
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(r.NextGate, want) {
			return
		}
		if r.Ended() {
			w.t.Fatalf("the rotation has ended as %s", r.State)
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("the rotation waits for %q, not %q", r.NextGate, want)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// requireNoProof lets workloads be whose sidecars here have neither a reload nor a health check of their own.
func (w *world) requireNoProof() {
	w.t.Helper()
	for _, name := range []string{"api", "agents", "prometheus"} {
		secret, err := w.Server.Client.Logical().ReadWithContext(w.t.Context(), "hyvve/workloads/"+name)
		if err != nil {
			w.t.Fatal(err)
		}
		if secret != nil {
			w.write("hyvve/workloads/"+name, map[string]any{"require_proof": "none"})
		}
	}
}
