// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const metricsEnv = "METRICS_API_KEY"

// The sidecar as docs/kubernetes-secret.md has it, and pods of Prometheus, which have the key in their environment and scrape
// with it, ten times a second. One that cannot scrape says so to another address.
const secretPods = `
apiVersion: v1
kind: ConfigMap
metadata: {name: hyvve-metrics}
data:
  sidecar.hcl: |
    workload = "prometheus"
    instance = "metrics-auth"
    vault {
      address = "http://%[1]s"
      auth "kubernetes" {
        role       = "prometheus"
        token_path = "/var/run/secrets/vault/token"
      }
    }
    render "kubernetes_secret" {
      name = "metrics-auth"
      data = { token = "METRICS_API_KEY" }
    }
    reload "rollout" {
      kind = "deployment"
      name = "prometheus"
    }
    status {
      socket = "none"
      listen = ":9102"
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hyvve-metrics}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: hyvve-metrics}}
  template:
    metadata: {labels: {app: hyvve-metrics}}
    spec:
      serviceAccountName: hyvve-metrics
      terminationGracePeriodSeconds: 5
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      volumes:
      - {name: config, configMap: {name: hyvve-metrics}}
      - {name: vault, projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}}
      containers:
      - name: sidecar
        image: registry.local/hyvve-sidecar:1
        args: [agent, --config=/etc/hyvve/sidecar.hcl]
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
        readinessProbe: {httpGet: {port: 9102, path: /readyz}, periodSeconds: 1}
        volumeMounts:
        - {name: config, mountPath: /etc/hyvve}
        - {name: vault, mountPath: /var/run/secrets/vault}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: prometheus}
spec:
  replicas: 2
  selector: {matchLabels: {app: prometheus}}
  template:
    metadata: {labels: {app: prometheus}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      containers:
      - name: prometheus
        image: registry.local/busybox:1
        env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: metrics-auth, key: token}}}]
        command:
        - /busybox
        - sh
        - -c
        - 'while :; do /busybox wget -q -O /dev/null --header "Authorization: Bearer $TOKEN" http://%[2]s/metrics || /busybox wget -q -O /dev/null http://%[3]s/failed; /busybox sleep 0.1; done'
`

// metricsApp is an application behind the one key that it was started with.
type metricsApp struct {
	server                  *httptest.Server
	served, refused, failed atomic.Int64
}

func startMetricsApp(t *testing.T, token string) *metricsApp {
	a := &metricsApp{}
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/failed":
			a.failed.Add(1)
		case r.Header.Get("Authorization") != "Bearer "+token:
			a.refused.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			a.served.Add(1)
		}
	}))
	t.Cleanup(a.server.Close)
	return a
}

// secretWorld is Vault with the engine, a cluster and an application with a proxy before it.
type secretWorld struct {
	t      *testing.T
	n      *bed.Node
	ns     string
	vault  *bed.Vault
	engine *client.Client
	app    *metricsApp
}

func (w *secretWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *secretWorld) write(path string, data map[string]any) {
	w.t.Helper()
	_, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), path, data)
	w.must(err)
}

// at exposes a loopback address to pods, and returns it as they see it.
func (w *secretWorld) at(address string) string {
	w.t.Helper()
	exposed, err := w.n.ExposeAddress(address)
	w.must(err)
	return exposed
}

func startSecretWorld(t *testing.T) *secretWorld {
	t.Helper()
	w := &secretWorld{t: t}
	w.n, w.ns = node(t)
	ctx := t.Context()
	var err error
	w.vault, err = bed.ForTest(t).Vault(ctx, bed.VaultOptions{})
	w.must(err)
	w.engine = client.New(w.vault.Client, bed.Mount)
	value := make([]byte, 32)
	_, err = rand.Read(value)
	w.must(err)
	first := base64.StdEncoding.EncodeToString(value)
	w.app = startMetricsApp(t, first)
	w.write("hyvve/config", map[string]any{"lease_ttl": "1m", "soak": "2s", "observe": "2s"})
	w.write("hyvve/keys/metrics-api-key", map[string]any{"kind": "token", "env": metricsEnv, "format": "base64", "length": 32, "value": first})
	w.write("hyvve/workloads/agents", map[string]any{"verifies": "metrics-api-key", "min_instances": 1})
	w.write("hyvve/workloads/prometheus", map[string]any{"presents": "metrics-api-key", "after": "agents", "min_instances": 1})
	w.must(w.vault.KubernetesAuth(ctx, w.n.Kubernetes, "kubernetes"))
	w.must(w.vault.Client.Sys().PutPolicyWithContext(ctx, "prometheus", `
path "hyvve/creds/prometheus"  { capabilities = ["read", "update"] }
path "hyvve/watch/prometheus"  { capabilities = ["read"] }
path "hyvve/report/prometheus" { capabilities = ["update"] }
path "hyvve/leave/prometheus"  { capabilities = ["update"] }`))
	w.write("auth/kubernetes/role/prometheus", map[string]any{
		"bound_service_account_names": bed.SecretAccount, "bound_service_account_namespaces": w.ns, "audience": bed.VaultAudience,
		"token_policies": "prometheus", "token_ttl": "1h",
	})
	return w
}

// proxy runs the sidecar of the application, and returns where it listens.
func (w *secretWorld) proxy() string {
	w.t.Helper()
	dir := w.t.TempDir()
	port, err := bed.FreePort()
	w.must(err)
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	token := filepath.Join(dir, "token")
	w.must(os.WriteFile(token, []byte(w.vault.Token), 0o600))
	path := filepath.Join(dir, "sidecar.hcl")
	w.must(os.WriteFile(path, fmt.Appendf(nil, `
workload = "agents"
vault {
  address = %q
  auth "token_file" { path = %q }
}
render "json" { path = "%s/secrets.json" }
proxy {
  listen   = %q
  upstream = %q
  key      = %q
}
`, w.vault.Addr, token, dir, listen, w.app.server.URL, metricsEnv), 0o600))
	file, err := config.Load(path)
	w.must(err)
	c, err := agent.Check(file)
	w.must(err)
	a, err := agent.New(c, slog.New(slog.DiscardHandler))
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := a.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() { cancel(); running.Wait() })
	await(w.t, "the proxy's files", func() bool { _, err := os.Stat(filepath.Join(dir, "secrets.json")); return err == nil })
	return listen
}

// deploy applies roles, sidecar and Prometheus. The Secret is made empty beforehand, so that the Role of the docs is enough.
func (w *secretWorld) deploy() {
	w.t.Helper()
	ctx := w.t.Context()
	w.must(w.n.BuildImage(ctx, "registry.local/hyvve-sidecar:1", bed.Tool("bin", "hyvve-sidecar")))
	w.must(w.n.BuildImage(ctx, "registry.local/busybox:1", bed.Tool("tools", "kubernetes-root", "bin", "busybox")))
	w.must(w.n.AddSecretAccount(ctx, w.ns, false))
	_, err := w.n.Kubectl(ctx, "", "-n", w.ns, "create", "secret", "generic", "metrics-auth")
	w.must(err)
	vault, err := url.Parse(w.vault.Addr)
	w.must(err)
	app, err := url.Parse(w.app.server.URL)
	w.must(err)
	_, err = w.n.Kubectl(ctx, fmt.Sprintf(secretPods, w.at(vault.Host), w.at(w.proxy()), w.at(app.Host)), "-n", w.ns, "apply", "-f", "-")
	w.must(err)
	for _, name := range []string{"deployment/hyvve-metrics", "deployment/prometheus"} {
		w.must(w.n.Rollout(ctx, w.ns, name))
	}
	w.t.Cleanup(func() {
		if !w.t.Failed() {
			return
		}
		for _, name := range []string{"deployment/hyvve-metrics", "deployment/prometheus"} {
			if text, err := w.n.Kubectl(context.Background(), "", "-n", w.ns, "logs", "--tail=50", name); err == nil {
				w.t.Logf("%s says:\n%s", name, text)
			}
		}
	})
}

// restarts counts how often the pod template was restarted, by its generation.
func (w *secretWorld) restarts() int64 {
	w.t.Helper()
	var d struct{ Metadata struct{ Generation int64 } }
	w.must(w.n.Do(w.t.Context(), http.MethodGet, "/apis/apps/v1/namespaces/"+w.ns+"/deployments/prometheus", nil, &d))
	return d.Metadata.Generation
}

// allRead reports whether each pod of Prometheus that is there has in its environment what the Secret holds.
func (w *secretWorld) allRead() {
	w.t.Helper()
	var secret struct{ Data map[string][]byte }
	w.must(w.n.Do(w.t.Context(), http.MethodGet, "/api/v1/namespaces/"+w.ns+"/secrets/metrics-auth", nil, &secret))
	pods, err := w.n.Pods(w.t.Context(), w.ns, "app=prometheus")
	w.must(err)
	if len(pods) != 2 {
		w.t.Errorf("%d pods are there", len(pods))
	}
	for _, p := range pods {
		out, err := w.n.Exec(w.t.Context(), w.ns, p.Name, "prometheus", "/busybox", "sh", "-c", "echo $TOKEN")
		if err != nil || strings.TrimSpace(out) != string(secret.Data["token"]) {
			w.t.Errorf("%s has another key than the Secret (%v)", p.Name, err)
		}
	}
}

// resident is the memory of the sidecar, as it tells it itself.
func (w *secretWorld) resident() (bytes float64) {
	w.t.Helper()
	pods, err := w.n.Pods(w.t.Context(), w.ns, "app=hyvve-metrics")
	w.must(err)
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://"+net.JoinHostPort(pods[0].IP, "9102")+"/metrics", http.NoBody)
	w.must(err)
	resp, err := (&http.Client{Transport: w.n.Transport()}).Do(req)
	w.must(err)
	defer resp.Body.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(resp.Body)
	w.must(err)
	_, rest, _ := strings.Cut(string(text), "\nprocess_resident_memory_bytes ")
	number, _, _ := strings.Cut(rest, "\n")
	bytes, err = strconv.ParseFloat(number, 64)
	w.must(err)
	return bytes
}

// rotate rotates the key, and calls meanwhile until it is done.
func (w *secretWorld) rotate(meanwhile func()) {
	w.t.Helper()
	r, err := w.engine.Rotate(w.t.Context(), "scenario", "metrics-api-key")
	w.must(err)
	await(w.t, "the rotation to be done", func() bool {
		meanwhile()
		var err error
		r, err = w.engine.Rotation(w.t.Context(), r.ID)
		w.must(err)
		return r.Ended()
	})
	if r.State != "done" {
		w.t.Errorf("the rotation has ended as %s", r.State)
	}
}

// The runbook's metrics-auth and kubectl rollout restart, closed: METRICS_API_KEY rotates twice, the second time with the
// sidecar killed while pods are being replaced. Nothing is lost, and there is one restart for each change.
func TestSecretAndRolloutInPods(t *testing.T) {
	w := startSecretWorld(t)
	w.deploy()
	await(t, "pods to scrape", func() bool { return w.app.served.Load() > 10 })
	await(t, "the first restart to have begun", func() bool { return w.restarts() == 2 }) // nobody knew what the pods had read
	w.must(w.n.Rollout(t.Context(), w.ns, "deployment/prometheus"))

	before := w.restarts()
	w.rotate(func() {})
	w.allRead()
	if n := w.restarts() - before; n != 1 {
		t.Errorf("one change has made %d restarts", n)
	}

	before = w.restarts()
	killed := false
	w.rotate(func() {
		if killed || w.restarts() == before {
			return
		}
		killed = true
		sidecars, err := w.n.Pods(t.Context(), w.ns, "app=hyvve-metrics")
		w.must(err)
		w.must(w.n.KillContainer(t.Context(), w.ns, sidecars[0].Name, "sidecar"))
	})
	w.allRead()
	if n := w.restarts() - before; n != 1 || !killed {
		t.Errorf("one change has made %d restarts; the sidecar was killed meanwhile: %v", n, killed)
	}
	if failed, refused := w.app.failed.Load(), w.app.refused.Load(); failed+refused > 0 {
		t.Errorf("of %d scrapes %d failed, and the application has refused %d", w.app.served.Load(), failed, refused)
	}
	mb := w.resident() / 1e6
	if t.Logf("%d scrapes by pods, none failed; the sidecar has %.1f MB resident", w.app.served.Load(), mb); mb > 20 {
		t.Errorf("the sidecar has %.1f MB resident, which is more than 20", mb)
	}
}
