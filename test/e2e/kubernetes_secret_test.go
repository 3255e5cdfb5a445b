// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
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

// scrapers are pods of Prometheus: each presents, for as long as it is there, what the Secret held when it started. API server
// and controllers are real, and the kubelet is played.
type scrapers struct {
	k      *bed.Kubernetes
	front  string
	served atomic.Int64

	mu     sync.Mutex
	tokens map[string]string // by pod
	failed []string
}

const (
	monitoring   = "monitoring"
	metricsAuth  = "/api/v1/namespaces/monitoring/secrets/metrics-auth"
	podsOf       = "/api/v1/namespaces/monitoring/pods"
	prometheusAt = "/apis/apps/v1/namespaces/monitoring/deployments/prometheus"
)

// token is what the Secret holds.
func (s *scrapers) token(ctx context.Context) string {
	var secret struct{ Data map[string][]byte }
	_ = s.k.Do(ctx, http.MethodGet, metricsAuth, nil, &secret) // there may be none yet
	return string(secret.Data["token"])
}

// started is where a container would be given its environment. One without the key does not start, and is tried again.
func (s *scrapers) started(pod bed.PlayedPod) {
	token := s.token(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[pod.Metadata.Name] = token
}

// live returns how many pods there are that present each key.
func (s *scrapers) live(ctx context.Context) (map[string]int, error) {
	var list struct{ Items []bed.PlayedPod }
	if err := s.k.Do(ctx, http.MethodGet, podsOf, nil, &list); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]int{}
	for _, pod := range list.Items {
		if token, ok := s.tokens[pod.Metadata.Name]; ok {
			found[token]++
		}
	}
	return found, nil
}

// scrape lets all pods scrape, again and again.
func (s *scrapers) scrape(ctx context.Context) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		tokens, err := s.live(ctx)
		for token := range tokens {
			if err = s.once(ctx, token); err != nil {
				break
			}
			s.served.Add(1)
		}
		if err != nil && ctx.Err() == nil {
			s.mu.Lock()
			s.failed = append(s.failed, err.Error())
			s.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func (s *scrapers) once(ctx context.Context, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.front+"/metrics", http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("a scrape was answered %s", resp.Status)
	}
	return nil
}

// cluster starts what the docs describe: namespace, account, roles, and Prometheus with what it had before there was a sidecar.
func (w *world) cluster(token string) (k *bed.Kubernetes, tokenPath string) {
	w.t.Helper()
	ctx := w.t.Context()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	k, err := w.Bed.Kubernetes(ctx)
	must(err)
	must(k.Namespace(ctx, monitoring, nil))
	must(k.Controllers(ctx))
	must(k.AddSecretAccount(ctx, monitoring, false)) // the Secret is there beforehand
	must(k.Do(ctx, http.MethodPost, "/api/v1/namespaces/monitoring/secrets?fieldManager=kubectl-create", map[string]any{
		"metadata": map[string]string{"name": "metrics-auth"}, "stringData": map[string]string{"token": token},
	}, nil))
	must(k.Apply(ctx, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: prometheus, namespace: monitoring}
spec:
  replicas: 3
  selector: {matchLabels: {app: prometheus}}
  template:
    metadata: {labels: {app: prometheus}}
    spec: {containers: [{name: prometheus, image: "registry.local/prometheus:1"}]}
`))
	account, err := k.Token(ctx, monitoring, bed.SecretAccount)
	must(err)
	tokenPath = filepath.Join(w.Bed.Dir, "cluster-token")
	must(os.WriteFile(tokenPath, []byte(account), 0o600))
	return k, tokenPath
}

// The runbook's metrics-auth and its kubectl rollout restart, closed: the key rotates, the Secret is written, Prometheus is
// restarted, the old key is retired once no pod is left that presents it, and no scrape is lost.
func TestMetricsKeyRotatesBySecretAndRollout(t *testing.T) {
	const rotations = 3
	w := start(t, small(true))
	w.requireNoProof()
	ctx := t.Context()
	if err := w.AddWorkload(ctx, "prometheus", map[string]any{"presents": "metrics-api-key", "after": "agents", "min_instances": 1}); err != nil {
		t.Fatal(err)
	}
	first := w.Initial[metricsEnv].Reveal()
	app := export(t, first)
	k, tokenPath := w.cluster(first)
	s := &scrapers{k: k, front: w.proxied(app.url), tokens: map[string]string{}}
	t.Cleanup(k.PlayKubelet(context.Background(), monitoring, s.started))
	if err := w.StartSidecar(ctx, "prometheus", 1, fmt.Sprintf(`
kubernetes {
  address    = %q
  ca_cert    = %q
  token_path = %q
  namespace  = "monitoring"
}
render "kubernetes_secret" {
  name = "metrics-auth"
  data = { token = "METRICS_API_KEY" }
  force = true # it was made with its value
}
reload "rollout" {
  kind = "deployment"
  name = "prometheus"
}
health "none" { interval = "200ms" }
status { socket = "none" }
`, k.URL, k.CAFile, tokenPath)); err != nil {
		t.Fatal(err)
	}
	present := func(token string) func() bool {
		return func() bool {
			live, err := s.live(ctx)
			return err == nil && live[token] == 3 && len(live) == 1
		}
	}
	kit.Until(t, "three pods present the first key", present(first))
	scraping, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.scrape(scraping) })
	before := first
	for range rotations {
		w.follow(w.rotate("metrics-api-key"), "done")
		after := s.token(ctx)
		if after == before || !present(after)() {
			t.Error("the rotation is done, and not all pods present the new key")
		}
		if err := s.once(ctx, before); err == nil {
			t.Error("the old key is still accepted")
		}
		before = after
	}
	cancel()
	running.Wait()
	if len(s.failed) > 0 {
		t.Errorf("%d scrapes failed; the first: %s", len(s.failed), s.failed[0])
	}
	if refused := app.refused.Load(); refused != rotations { // those with retired keys, above
		t.Errorf("the application has refused %d", refused)
	}
	var d struct {
		Spec struct {
			Template struct {
				Metadata struct{ Annotations map[string]string }
			}
		}
	}
	if err := k.Do(ctx, http.MethodGet, prometheusAt, nil, &d); err != nil {
		t.Fatal(err)
	}
	if at := d.Spec.Template.Metadata.Annotations["kubectl.kubernetes.io/restartedAt"]; !strings.Contains(at, ".") {
		t.Errorf("restartedAt is %q", at)
	}
	t.Logf("%d scrapes by pods over %d rotations, none failed", s.served.Load(), rotations)
	w.conclude()
}
