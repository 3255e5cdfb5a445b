// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// once is a pod as that of a Job: it is not deleted when its container has ended. Nothing of it shows its sidecar that, but the API server.
const once = `
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  annotations:
    hyvve.app/inject: "true"
    hyvve.app/workload: prometheus
spec:
  serviceAccountName: hyvve-metrics
  restartPolicy: Never
  containers:
  - name: app
    image: ` + busyboxImage + `
    command: [/busybox, sh, -c, '/busybox test -s /run/hyvve/keys/.env || exit 3; trap "exit 0" TERM; while :; do /busybox sleep 1; done']
    securityContext: {runAsUser: 1000}
`

// What a Job leaves depends on whether its sidecar may ask about its own pod: its instance counts for another lease, or is gone with it.
// A sidecar that is stopped alone keeps the instance in any case.
func TestEndOfAJob(t *testing.T) {
	w := startSecretWorld(t)
	w.write("hyvve/config", map[string]any{"lease_ttl": "30m"}) // which the test does not wait for
	w.must(w.n.ServiceAccount(t.Context(), w.ns, "hyvve-metrics"))
	w.must(buildBusybox(t.Context(), w.n))
	injector(t, w.n, w.at(w.vault.Addr))
	instance := func(name string) map[string]any {
		secret, err := w.vault.Client.Logical().ReadWithContext(t.Context(), "hyvve/workloads/prometheus/instances/"+w.ns+"."+name)
		if err != nil || secret == nil {
			return nil
		}
		return secret.Data
	}
	leaves := func(name string) bool {
		i := instance(name)
		return i != nil && i["leaving"] != "" && i["leaving"] != nil
	}
	pod := func(name string) bed.Pod {
		pods, err := w.n.Pods(t.Context(), w.ns, "")
		w.must(err)
		for _, p := range pods {
			if p.Name == name {
				return p
			}
		}
		return bed.Pod{}
	}
	begin := func(name string) (said string) {
		said, err := w.n.Kubectl(t.Context(), strings.ReplaceAll(once, "NAME", name), "-n", w.ns, "apply", "-f", "-")
		w.must(err)
		await(t, name+" to be ready", func() bool { return pod(name).Ready })
		return said
	}
	end := func(name string) {
		t.Cleanup(func() {
			if said, _ := w.n.Logs(context.WithoutCancel(t.Context()), w.ns, name, "hyvve-sidecar"); t.Failed() {
				t.Logf("the sidecar of %s:\n%s", name, said)
			}
		})
		_, err := w.n.Exec(t.Context(), w.ns, name, "app", "/busybox", "kill", "1")
		w.must(err)
	}

	begin("blind")
	end("blind")
	await(t, "the instance to count for another lease", func() bool { return leaves("blind") })

	helm(t, w.n, "upgrade", "hyvve", filepath.Join(bed.Repo(), "deploy", "helm", "hyvve"), "--namespace", system, "--reuse-values",
		"--set", "podReaders."+w.ns+"={hyvve-metrics}", "--wait")
	begin("seeing")
	if instance("seeing") == nil {
		t.Fatal("it has no instance")
	}
	const newer = "registry.local/hyvve/hyvve-sidecar:newer"
	w.must(w.n.BuildImage(t.Context(), newer, bed.Tool("bin", "hyvve-sidecar")))
	_, err := w.n.Kubectl(t.Context(), "", "-n", w.ns, "set", "image", "pod/seeing", "hyvve-sidecar="+newer)
	w.must(err)
	await(t, "its sidecar to be started again", func() bool { return pod("seeing").Restarts["hyvve-sidecar"] > 0 && pod("seeing").Ready })
	if instance("seeing") == nil {
		t.Error("its instance is gone, and it runs")
	}
	end("seeing")
	await(t, "the instance to be gone", func() bool { return instance("seeing") == nil })
}
