// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// gated is a pod whose container looks, when it starts, whether its keys are there.
const gated = `
apiVersion: v1
kind: Pod
metadata:
  name: gated
  annotations:
    hyvve.app/inject: "true"
    hyvve.app/workload: prometheus
    hyvve.app/start-gate: post-start
spec:
  serviceAccountName: hyvve-metrics
  terminationGracePeriodSeconds: 2
  containers:
  - name: app
    image: ` + busyboxImage + `
    command: [/busybox, sh, -c, '/busybox test -s /run/hyvve/keys/.env || exit 3; exec /busybox sleep 1000000']
    securityContext: {runAsUser: 1000}
`

// gate is a world with the injector, and a role of Vault's that is there or not.
type gate struct {
	*secretWorld
	role map[string]any
}

// With its postStart hook, too, a sidecar holds its containers back until their keys are there, though the kubelet is started again
// meanwhile; what runs is looked after while Vault refuses; and a pod that waits can be deleted.
func TestPostStartGate(t *testing.T) {
	g := &gate{secretWorld: startSecretWorld(t)}
	g.must(g.n.ServiceAccount(t.Context(), g.ns, "hyvve-metrics"))
	g.must(buildBusybox(t.Context(), g.n))
	injector(t, g.n, g.at(g.vault.Addr))
	g.refuse()

	g.apply()
	g.holds(5 * time.Second)
	t.Log("the kubelet is killed, and started again")
	g.must(g.n.RestartKubelet())
	g.says("nobody waits any more")
	g.holds(5 * time.Second)
	g.grant()
	g.await("its start with keys", func(p bed.Pod) bool { return p.Ready })
	g.startedOnce()

	g.refuse()
	for _, name := range []string{"hyvve-sidecar", "app"} {
		g.must(g.n.KillContainer(t.Context(), g.ns, "gated", name))
		begun := time.Now()
		g.await(name+" after it was killed", func(p bed.Pod) bool { return p.Restarts[name] > 0 && p.Ready })
		t.Logf("%s was back after %v", name, time.Since(begun).Round(time.Second))
	}
	g.gone()

	g.apply()
	g.says("invalid role name") // once the hook has waited for long enough
	g.holds(time.Second)
	begun := time.Now()
	g.gone()
	if took := time.Since(begun); took > 45*time.Second {
		t.Errorf("a pod that waits was deleted after %v", took)
	}
}

// refuse has Vault refuse the pod's logins, and grant takes them again.
func (g *gate) refuse() {
	g.t.Helper()
	logical := g.vault.Client.Logical()
	if g.role == nil {
		secret, err := logical.ReadWithContext(g.t.Context(), "auth/kubernetes/role/prometheus")
		g.must(err)
		g.role = secret.Data
	}
	_, err := logical.DeleteWithContext(g.t.Context(), "auth/kubernetes/role/prometheus")
	g.must(err)
}

func (g *gate) grant() {
	g.t.Helper()
	g.write("auth/kubernetes/role/prometheus", g.role)
}

func (g *gate) apply() {
	g.t.Helper()
	_, err := g.n.Kubectl(g.t.Context(), gated, "-n", g.ns, "apply", "-f", "-")
	g.must(err)
}

// gone deletes the pod.
func (g *gate) gone() {
	g.t.Helper()
	_, err := g.n.Kubectl(g.t.Context(), "", "-n", g.ns, "delete", "pod", "gated", "--wait", "--timeout=60s")
	g.must(err)
}

func (g *gate) pod() bed.Pod {
	g.t.Helper()
	pods, err := g.n.Pods(g.t.Context(), g.ns, "")
	if err != nil || len(pods) != 1 {
		g.t.Fatalf("%d pods (%v)", len(pods), err)
	}
	return pods[0]
}

func (g *gate) await(what string, so func(bed.Pod) bool) {
	g.t.Helper()
	await(g.t, what, func() bool { return so(g.pod()) })
}

// says waits for words in the sidecar's log, which cannot be read while its hook runs.
func (g *gate) says(words string) {
	g.t.Helper()
	await(g.t, words+" in its log", func() bool {
		said, _ := g.n.Logs(g.t.Context(), g.ns, "gated", "hyvve-sidecar")
		return strings.Contains(said, words)
	})
}

// holds sees that the container does not start.
func (g *gate) holds(lasts time.Duration) {
	g.t.Helper()
	kit.Stays(g.t, "its container has not started without keys", lasts, func() bool { return g.pod().IDs["app"] == "" })
}

func (g *gate) startedOnce() {
	g.t.Helper()
	if p := g.pod(); p.Restarts["app"] != 0 {
		g.t.Errorf("its container has started without keys: %+v", p)
	}
}
