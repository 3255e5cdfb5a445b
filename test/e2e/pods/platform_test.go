// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

// appImage is that of the demo's workloads.
const appImage = "registry.local/hyvve-demo:test"

// platform is the demo's world with its workloads in pods: api takes a new bundle on a signal of its sidecar, agents is run by its
// own and reads its environment. Vault, PostgreSQL and Redis are outside of the cluster.
type hyvve struct {
	*platform.World
	t      *testing.T
	node   *bed.Node
	ns     string
	load   *platform.Load
	newest func() map[string]key.Value
	logs   *followers
}

// api and agents are the annotated workloads of the platform.
const api = `
apiVersion: v1
kind: Service
metadata: {name: api}
spec:
  selector: {app: api}
  ports: [{port: 80, targetPort: 3000}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api}
spec:
  replicas: 3
  selector: {matchLabels: {app: api}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata:
      labels: {app: api}
      annotations:
        hyvve.app/inject: "true"
        hyvve.app/workload: api
        hyvve.app/render: bundle
        hyvve.app/reload: signal
        hyvve.app/process: hyvve-demo
        hyvve.app/health: http
        hyvve.app/health-url: http://127.0.0.1:3000/health
        hyvve.app/health-expect-etag: "true"
        hyvve.app/health-interval: 1s
        hyvve.app/reencrypt: DATABASE_URL
    spec:
      serviceAccountName: api
      terminationGracePeriodSeconds: 20
      containers:
      - name: api
        image: ` + appImage + `
        command: [/hyvve-demo, api, --instance=$(POD), "--address=:3000", --bundle=/run/hyvve/keys/bundle.json]
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {httpGet: {path: /health, port: 3000}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 4}}}
        securityContext:
          runAsUser: 1000
          runAsNonRoot: true
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL]}
          seccompProfile: {type: RuntimeDefault}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: api}
spec: {minAvailable: 2, selector: {matchLabels: {app: api}}}
`

const agents = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: agents}
spec:
  replicas: 2
  selector: {matchLabels: {app: agents}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata:
      labels: {app: agents}
      annotations:
        hyvve.app/inject: "true"
        hyvve.app/workload: agents
        hyvve.app/exec: agents
        hyvve.app/keys: AGENT_SERVICE_TOKEN,METRICS_API_KEY,REDIS_URL
        hyvve.app/health: http
        hyvve.app/health-url: http://127.0.0.1:7777/health
        hyvve.app/health-expect-etag: "true"
        hyvve.app/health-interval: 1s
    spec:
      serviceAccountName: agents
      terminationGracePeriodSeconds: 20
      containers:
      - name: agents
        image: ` + appImage + `
        command: [/hyvve-demo, agents, --instance=$(POD), "--address=:7777", "--api=http://$(API_SERVICE_HOST)"]
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {httpGet: {path: /health, port: 7777}, periodSeconds: 1}
        securityContext:
          runAsUser: 1000
          runAsNonRoot: true
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL]}
          seccompProfile: {type: RuntimeDefault}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: agents}
spec: {minAvailable: 1, selector: {matchLabels: {app: agents}}}
`

// newPlatform starts it, under load.
func newPlatform(t *testing.T) *hyvve {
	t.Helper()
	n, ns := node(t)
	ctx := t.Context()
	w, err := platform.Build(ctx, bed.ForTest(t), platform.Size{
		Instances: 2, Durable: true, Expose: n.Expose, Lease: 20 * time.Second,
		Seeding: bed.Seeding{Providers: 12, Servers: 6, Legacy: 2, Connections: 6, Users: 6, Salts: 6},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &hyvve{World: w, t: t, node: n, ns: ns}
	if err := n.BuildImage(ctx, appImage, bed.Tool("bin", "hyvve-demo")); err != nil {
		t.Fatal(err)
	}
	if err := w.Vault.KubernetesAuth(ctx, n.Kubernetes, "kubernetes"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"api", "agents"} {
		if err := n.ServiceAccount(ctx, ns, name); err != nil {
			t.Fatal(err)
		}
		p.write("auth/kubernetes/role/"+name, map[string]any{
			"bound_service_account_names": name, "bound_service_account_namespaces": ns, "audience": bed.VaultAudience, "token_policies": name, "token_ttl": "1h",
		})
	}
	p.write("hyvve/workloads/api", map[string]any{"min_instances": 3})
	vault, err := n.ExposeAddress(w.Server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	injector(t, n, vault)
	p.logs = p.followLogs()
	for _, one := range []struct{ name, text string }{{"api", api}, {"agents", agents}} { // which calls api from its start
		p.apply(one.text)
		if err := n.Rollout(ctx, ns, "deployment/"+one.name); err != nil {
			t.Fatal(err)
		}
	}
	ip, err := n.Kubectl(ctx, "", "-n", ns, "get", "service", "api", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	w.APIs, w.Transport = []string{"http://" + ip}, n.Transport()
	run, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if p.newest, err = w.Audit(run); err != nil {
		t.Fatal(err)
	}
	p.load = w.StartLoad(run)
	t.Cleanup(p.load.Stop)
	return p
}

func (p *hyvve) write(path string, data map[string]any) {
	p.t.Helper()
	if _, err := p.Server.Client.Logical().WriteWithContext(p.t.Context(), path, data); err != nil {
		p.t.Fatalf("%s: %v", path, err)
	}
}

func (p *hyvve) rotate(keys ...string) string {
	p.t.Helper()
	r, err := p.Engine.Rotate(p.t.Context(), "scenario", keys...)
	if err != nil {
		p.t.Fatal(err)
	}
	return r.ID
}

// done waits until a rotation is.
func (p *hyvve) done(id string) engineapi.Rotation {
	p.t.Helper()
	r, err := platform.Follow(p.t.Context(), p.Engine, id, func(r engineapi.Rotation) {
		p.t.Logf("%s: %s %s: %s", strings.Join(r.Keys, ","), r.State, r.Step, platform.Short(r.NextGate))
	})
	if err != nil || r.State != "done" {
		p.t.Fatalf("rotation %s ended as %s (%v)", id, r.State, err)
	}
	return r
}

// until waits until a rotation is so.
func (p *hyvve) until(id, what string, so func(engineapi.Rotation) bool) {
	p.t.Helper()
	last := ""
	await(p.t, what, func() bool {
		r, err := p.Engine.Rotation(p.t.Context(), id)
		if err != nil {
			return false
		}
		if now := r.State + " " + r.Step + ": " + r.NextGate; now != last {
			last = now
			p.t.Log(platform.Short(now))
		}
		return so(r)
	})
}

// followers keep what containers say, in files of the bed where all logs are searched for secrets.
type followers struct {
	stop  context.CancelFunc
	group sync.WaitGroup
	dir   string
}

func (p *hyvve) followLogs() *followers {
	ctx, cancel := context.WithCancel(context.Background())
	f := &followers{stop: cancel, dir: filepath.Join(p.Bed.Dir, "pods")}
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	f.group.Go(func() {
		known := map[string]bool{}
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			pods, err := p.node.Pods(ctx, p.ns, "")
			for _, pod := range pods {
				for container, id := range pod.IDs {
					if err != nil || id == "" || known[id] {
						continue
					}
					known[id] = true
					f.group.Go(func() { f.follow(ctx, p, pod.Name, container, id) })
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
	p.t.Cleanup(func() { cancel(); f.group.Wait() })
	return f
}

// follow reads a container's log to its end.
func (f *followers) follow(ctx context.Context, p *hyvve, pod, container, id string) {
	text, _ := p.node.Kubectl(ctx, "", "-n", p.ns, "logs", "-f", pod, "-c", container) // what there is, though the pod goes
	_ = os.WriteFile(filepath.Join(f.dir, fmt.Sprintf("%s-%s-%.8s.log", pod, container, id)), []byte(text), 0o600)
}

// end waits for those of containers that have ended, and ends the others; it returns all that containers of that name have said.
func (f *followers) end(t *testing.T, container string) string {
	t.Helper()
	f.stop()
	f.group.Wait()
	paths, err := filepath.Glob(filepath.Join(f.dir, "*-"+container+"-*.log"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no logs of %s (%v)", container, err)
	}
	var all strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
