// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// played is a real API server and a real controller manager, and a kubelet that the test plays: pods that it starts read the
// Secret at that moment, as their environment would be.
type played struct {
	*bed.Kubernetes
	t     *testing.T
	token string // file

	mu   sync.Mutex
	read map[string]string // by pod
}

const space = "monitoring"

// play starts them, with a Deployment of two pods.
func play(t *testing.T) *played {
	t.Helper()
	bed.NeedKubernetes(t)
	b := bed.ForTest(t)
	k, err := b.Kubernetes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := &played{Kubernetes: k, t: t, token: filepath.Join(t.TempDir(), "cluster-token"), read: map[string]string{}}
	p.must(k.Namespace(t.Context(), space, nil))
	p.must(k.Controllers(t.Context()))
	p.must(k.AddSecretAccount(t.Context(), space, true))
	token, err := k.Token(t.Context(), space, bed.SecretAccount)
	p.must(err)
	p.must(os.WriteFile(p.token, []byte(token), 0o600))
	p.must(k.Apply(t.Context(), `
apiVersion: apps/v1
kind: Deployment
metadata: {name: prometheus, namespace: monitoring}
spec:
  replicas: 2
  selector: {matchLabels: {app: prometheus}}
  template:
    metadata: {labels: {app: prometheus}}
    spec: {containers: [{name: prometheus, image: "registry.local/prometheus:1"}]}
`))
	t.Cleanup(k.PlayKubelet(context.Background(), space, func(pod bed.PlayedPod) {
		value := p.value()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.read[pod.Metadata.Name] = value
	}))
	return p
}

func (p *played) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// value is what the Secret holds; empty without one.
func (p *played) value() string {
	var s struct{ Data map[string][]byte }
	_ = p.Do(context.Background(), http.MethodGet, "/api/v1/namespaces/monitoring/secrets/metrics-auth", nil, &s)
	return string(s.Data["token"])
}

// generation counts how often the Deployment was changed.
func (p *played) generation() int {
	p.t.Helper()
	var d struct{ Metadata struct{ Generation int } }
	p.must(p.Do(p.t.Context(), http.MethodGet, "/apis/apps/v1/namespaces/monitoring/deployments/prometheus", nil, &d))
	return d.Metadata.Generation
}

// reads returns what each pod has read that is there now.
func (p *played) reads() map[string]int {
	p.t.Helper()
	var list struct{ Items []bed.PlayedPod }
	p.must(p.Do(p.t.Context(), http.MethodGet, "/api/v1/namespaces/monitoring/pods", nil, &list))
	p.mu.Lock()
	defer p.mu.Unlock()
	found := map[string]int{}
	for _, pod := range list.Items {
		found[p.read[pod.Metadata.Name]]++
	}
	return found
}

const withSecret = `
workload = "api"
instance = "api-1"
vault {
  address = %q
  auth "token_file" { path = %q }
}
kubernetes {
  address    = %q
  ca_cert    = %q
  token_path = %q
  namespace  = "monitoring"
  look_every = "200ms"
}
render "kubernetes_secret" {
  name = "metrics-auth"
  data = { token = "TOKEN", header = "Bearer {{ value \"TOKEN\" }}" }
  %s
}
reload "rollout" {
  kind    = "deployment"
  name    = "prometheus"
  timeout = "1m"
}
health "none" { interval = "100ms" }
`

// agentOf starts the sidecar of that configuration, beside the engine of another one if there is one.
func (p *played) agentOf(before *running, more string) *running {
	p.t.Helper()
	return startAgentWith(p.t, p.t.TempDir(), nil, func(r *running, c *Config) {
		if before != nil {
			r.fake = before.fake
		}
		*c = p.configuration(r, more)
	})
}

func (p *played) configuration(r *running, more string) Config {
	p.t.Helper()
	path := filepath.Join(r.dir, "sidecar.hcl")
	p.must(os.WriteFile(path, fmt.Appendf(nil, withSecret, r.fake.server.URL, filepath.Join(r.dir, "token"), p.URL, p.CAFile, p.token, more), 0o600))
	f, err := config.Load(path)
	p.must(err)
	c, err := Check(f)
	p.must(err)
	return c
}

// state is what the sidecar tells of itself.
func (r *running) state() status.State { return r.agent.board.State() }

func TestSecretIsWrittenAndPodsAreRestarted(t *testing.T) {
	p := play(t)
	r := p.agentOf(nil, "")
	r.await("the first bundle is loaded", loaded("etag-1-0"))
	if got := p.reads(); got[canary+"-1"] != 2 || len(got) != 1 {
		t.Errorf("pods have read %v", got)
	}
	first := p.generation()
	r.fake.change(func() { r.fake.version = 2 })
	r.await("the second bundle is loaded", loaded("etag-2-0"))
	if got := p.reads(); got[canary+"-2"] != 2 || len(got) != 1 {
		t.Errorf("loaded was reported, and pods have read %v", got)
	}
	second := p.generation()
	if second != first+1 {
		t.Errorf("the Deployment was changed %d times", second-first)
	}
	s := r.state()
	if len(s.Destinations) != 1 || s.Destinations[0].Name != "monitoring/metrics-auth" || !s.Destinations[0].Up || s.Rollout == nil || s.Rollout.Pods != 2 || s.Rollout.Old != 0 || s.Rendered != 1 {
		text, _ := json.Marshal(s)
		t.Errorf("it says of itself %s", text)
	}
	// A restart of the sidecar alone restarts nothing, though nothing is left of it.
	r.stop()
	again := p.agentOf(r, "")
	again.await("loaded after a restart", loaded("etag-2-0"))
	// Neither does a Secret that somebody deletes: it is what it was.
	p.must(p.Do(t.Context(), http.MethodDelete, "/api/v1/namespaces/monitoring/secrets/metrics-auth", nil, nil))
	kit.Until(t, "the Secret is back", func() bool { return p.value() == canary+"-2" })
	kit.Until(t, "it is loaded again", func() bool { return again.state().Loaded })
	// Nor does another configuration of what no pod reads.
	p.must(again.agent.reconfigure(p.configuration(again, `labels = { "app" = "metrics" }`)))
	kit.Until(t, "the label is there", func() bool {
		var s struct {
			Metadata struct{ Labels map[string]string }
		}
		p.must(p.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/monitoring/secrets/metrics-auth", nil, &s))
		return s.Metadata.Labels["app"] == "metrics"
	})
	kit.Until(t, "it is loaded again", func() bool { return again.state().Loaded })
	if now := p.generation(); now != second {
		t.Errorf("pods were restarted %d times for nothing", now-second)
	}
}

// Killed between the write and the restart, or after it, a sidecar makes one restart in all.
func TestSidecarIsKilledBetweenSecretAndRestart(t *testing.T) {
	p := play(t)
	r := p.agentOf(nil, "")
	r.await("the first bundle is loaded", loaded("etag-1-0"))
	before := p.generation()
	r.stop()
	// What a sidecar leaves behind that was killed between the two.
	r.fake.change(func() { r.fake.version = 2 })
	c := r.config
	bundle, err := r.agent.engine.Creds(t.Context(), c.Workload, c.Instance)
	p.must(err)
	data, err := c.Destinations[0].Data.Of(bundle)
	p.must(err)
	plan, err := c.Destinations[0].Prepare(t.Context(), data)
	p.must(err)
	_, err = plan.Commit(t.Context())
	p.must(err)
	if p.generation() != before {
		t.Fatal("something was restarted already")
	}
	again := p.agentOf(r, "")
	kit.Until(t, "the restart is begun", func() bool { return p.generation() == before+1 })
	again.stop() // in the midst of the rollout
	last := p.agentOf(r, "")
	last.await("the second bundle is loaded", func(report map[string]any) bool {
		if report["healthy"] == false {
			t.Errorf("a sidecar in the midst of a rollout gives a verdict, which would pause a rotation: %v", report)
		}
		return loaded("etag-2-0")(report)
	})
	if got := p.reads(); got[canary+"-2"] != 2 || len(got) != 1 || p.generation() != before+1 {
		t.Errorf("pods have read %v, after %d restarts", got, p.generation()-before)
	}
}

func TestClusterIsAwayInTheMiddle(t *testing.T) {
	p := play(t)
	r := p.agentOf(nil, "")
	r.await("the first bundle is loaded", loaded("etag-1-0"))
	p.Kill()
	r.fake.change(func() { r.fake.version = 2 })
	report := r.await("the cluster is away", func(report map[string]any) bool { return report["healthy"] == false })
	if reason, _ := report["reason"].(string); !strings.Contains(reason, "does not answer") || report["etag"] == "etag-2-0" {
		t.Errorf("the report is %v", report)
	}
	p.must(p.Start(t.Context()))
	r.await("the second bundle is loaded", loaded("etag-2-0"))
	if got := p.reads(); got[canary+"-2"] != 2 || len(got) != 1 {
		t.Errorf("pods have read %v", got)
	}
}

// Nothing is written over what others manage, and nothing is restarted for it.
func TestSecretOfOthersIsReported(t *testing.T) {
	p := play(t)
	_, err := p.Kubectl(t.Context(), "", "-n", space, "create", "secret", "generic", "metrics-auth", "--from-literal=token=theirs", "--field-manager=their-pipeline")
	p.must(err)
	before := p.generation()
	r := p.agentOf(nil, "")
	report := r.await("the conflict is reported", func(report map[string]any) bool { return report["healthy"] == false })
	if reason, _ := report["reason"].(string); !strings.Contains(reason, `data.token is managed by "their-pipeline"`) {
		t.Errorf("the reason is %v", report["reason"])
	}
	if p.value() != "theirs" || p.generation() != before {
		t.Error("something was changed")
	}
	if s := r.state(); s.Well() || len(s.Destinations) != 1 || s.Destinations[0].Up {
		t.Errorf("it says of itself that it is %+v", s)
	}
	r.stop()
	p.agentOf(r, "force = true").await("the Secret is taken over", loaded("etag-1-0"))
}

// What others change is found out: a pod template that was replaced, and a Secret that may have been read with another value.
func TestDestinationsThatOthersChange(t *testing.T) {
	p := play(t)
	r := p.agentOf(nil, "force = true")
	r.await("the first bundle is loaded", loaded("etag-1-0"))
	settled := func() bool { s := r.state(); return s.Loaded && s.Healthy && s.Rollout.Old == 0 }
	before := p.generation()
	p.must(p.Patch(t.Context(), "/apis/apps/v1/namespaces/monitoring/deployments/prometheus", "application/merge-patch+json", []byte(`{"spec":{"template":{"metadata":{"annotations":null}}}}`), nil))
	kit.Until(t, "pods are restarted once more", func() bool { return p.generation() == before+2 })
	kit.Until(t, "that is over", settled)
	p.must(p.Patch(t.Context(), "/api/v1/namespaces/monitoring/secrets/metrics-auth", "application/merge-patch+json", []byte(`{"data":{"token":"eA=="}}`), nil))
	kit.Until(t, "pods are restarted for the Secret", func() bool { return p.generation() == before+3 })
	kit.Until(t, "that is over", func() bool {
		got := p.reads()
		return got[canary+"-1"] == 2 && len(got) == 1 && settled()
	})
}

// A last-good copy that is older than what the Secret holds is not used.
func TestCopyThatIsOlderThanTheSecret(t *testing.T) {
	p := play(t)
	r := p.agentOf(nil, "")
	r.await("the first bundle is loaded", loaded("etag-1-0"))
	old, err := r.agent.engine.Creds(t.Context(), "api", "api-1")
	p.must(err)
	stored := time.Now()
	r.fake.change(func() { r.fake.version = 2 })
	r.await("the second bundle is loaded", loaded("etag-2-0"))
	r.stop()
	err = r.agent.notBehind(t.Context(), lastgood.Copy{Bundle: old, Stored: stored})
	if err == nil || !strings.Contains(err.Error(), "monitoring/metrics-auth was written after the copy") {
		t.Errorf("an older copy: %v", err)
	}
	if err := r.agent.notBehind(t.Context(), lastgood.Copy{Bundle: old, Stored: time.Now()}); err != nil {
		t.Errorf("a newer copy: %v", err)
	}
}
