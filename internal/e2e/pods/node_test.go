// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

const plain = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: plain}
spec:
  replicas: 2
  selector: {matchLabels: {app: plain}}
  template:
    metadata: {labels: {app: plain}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: www, emptyDir: {}}]
      containers:
      - name: web
        image: registry.local/busybox:1
        command: [/busybox, sh, -c, '/busybox hostname >/www/index.html && echo serving && exec /busybox httpd -f -p 8080 -h /www']
        volumeMounts: [{name: www, mountPath: /www}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  selector: {app: plain}
  ports: [{port: 80, targetPort: 8080}]
`

// The node runs pods, and Services spread requests over them; a container that is killed comes back.
func TestNode(t *testing.T) {
	n, ns := node(t)
	if err := n.BuildImage(t.Context(), "registry.local/busybox:1", testbed.Tool("tools", "kubernetes-root", "bin", "busybox")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Kubectl(t.Context(), plain, "-n", ns, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	if err := n.Rollout(t.Context(), ns, "deployment/plain"); err != nil {
		t.Fatal(err)
	}
	pods, err := n.Pods(t.Context(), ns, "app=plain")
	if err != nil || len(pods) != 2 {
		t.Fatalf("%+v %v", pods, err)
	}
	ip, err := n.Kubectl(t.Context(), "", "-n", ns, "get", "service", "plain", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: n.Transport()}
	for range 20 {
		resp, err := client.Get("http://" + ip + "/index.html") //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
	if text, err := n.Logs(t.Context(), ns, pods[0].Name, "web"); err != nil || !strings.Contains(text, "serving") {
		t.Errorf("logs: %q %v", text, err)
	}
	if text, err := n.Exec(t.Context(), ns, pods[0].Name, "web", "/busybox", "hostname"); err != nil || strings.TrimSpace(text) != pods[0].Name {
		t.Errorf("exec: %q %v", text, err)
	}
	if err := n.KillContainer(t.Context(), ns, pods[0].Name, "web"); err != nil {
		t.Fatal(err)
	}
	await(t, "the killed container", func() bool {
		pods, err := n.Pods(t.Context(), ns, "app=plain")
		return err == nil && len(pods) == 2 && pods[0].Ready && pods[0].Restarts["web"] == 1
	})
}
