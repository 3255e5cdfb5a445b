// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
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
        image: ` + busyboxImage + `
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
	if err := buildBusybox(t.Context(), n); err != nil {
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
	if pod, err := n.PodIP(t.Context(), ns, pods[0].Name); err != nil || pod != pods[0].IP {
		t.Errorf("the address of %+v is %q (%v)", pods[0], pod, err)
	} else if name := fetch(t, n, pod+":8080"); name != pods[0].Name {
		t.Errorf("at the address of %s is %s", pods[0].Name, name)
	}
	served := map[string]int{}
	for range 100 {
		served[fetch(t, n, ip)]++
	}
	if served[pods[0].Name]+served[pods[1].Name] != 100 || len(served) != 2 {
		t.Errorf("the Service has given requests to %v", served)
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

// fetch returns what a server in the cluster's network serves: the name of its pod.
func fetch(t *testing.T, n *bed.Node, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/index.html", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: n.Transport()}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s (%v)", address, resp.Status, err)
	}
	return strings.TrimSpace(string(body))
}

// A sidecar logs in to Vault with a token of its own, before the container that it is for starts. Namespace and pod are restricted.
const loggingIn = `
apiVersion: v1
kind: Pod
metadata: {name: login}
spec:
  serviceAccountName: api
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  volumes:
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - name: token
    projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}
  initContainers:
  - name: agent
    image: ` + busyboxImage + `
    restartPolicy: Always
    command:
    - /busybox
    - sh
    - -c
    - |
      while [ ! -s /memory/accessor ]; do
        /busybox wget -q -O - --header 'Content-Type: application/json' --post-data "{\"role\":\"api\",\"jwt\":\"$(/busybox cat /token/token)\"}" \
          "%[1]s/v1/auth/kubernetes/login" | /busybox sed -n 's/.*"accessor":"\([^"]*\)".*/\1/p' >/memory/accessor
        /busybox sleep 1
      done
      exec /busybox sleep 1000000
    startupProbe: {exec: {command: [/busybox, test, -s, /memory/accessor]}, periodSeconds: 1, failureThreshold: 60}
    securityContext: &least {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: memory, mountPath: /memory}, {name: token, mountPath: /token, readOnly: true}]
  containers:
  - name: app
    image: ` + busyboxImage + `
    command: [/busybox, sh, -c, '/busybox cat /memory/accessor; exec /busybox sleep 1000000']
    securityContext: *least
    volumeMounts: [{name: memory, mountPath: /memory, readOnly: true}]
`

// What an injected pod stands on works: a sidecar that starts first, the token of its account, and a Vault outside of the cluster.
func TestPodLogsIn(t *testing.T) {
	n, ns := node(t)
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{NoMount: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.KubernetesAuth(t.Context(), n.Kubernetes, "kubernetes"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Client.Logical().WriteWithContext(t.Context(), "auth/kubernetes/role/api", map[string]any{
		"bound_service_account_names": "api", "bound_service_account_namespaces": ns, "audience": bed.VaultAudience, "token_ttl": "1h",
	}); err != nil {
		t.Fatal(err)
	}
	address, err := n.ExposeAddress(v.Addr)
	if err != nil {
		t.Fatal(err)
	}
	restricted := map[string]any{"metadata": map[string]any{"labels": map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
	if err := n.Patch(t.Context(), "/api/v1/namespaces/"+ns, "application/merge-patch+json", restricted, nil); err != nil {
		t.Fatal(err)
	}
	if err := n.ServiceAccount(t.Context(), ns, "api"); err != nil {
		t.Fatal(err)
	}
	if err := buildBusybox(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Kubectl(t.Context(), fmt.Sprintf(loggingIn, address), "-n", ns, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	if out, err := n.Kubectl(t.Context(), "", "-n", ns, "wait", "--for=condition=Ready", "pod/login", "--timeout=90s"); err != nil {
		said, _ := n.Logs(t.Context(), ns, "login", "agent")
		t.Fatalf("%s %v; the sidecar says %q", out, err, said)
	}
	accessor, err := n.Logs(t.Context(), ns, "login", "app")
	if err != nil {
		t.Fatal(err)
	}
	token, err := v.Client.Auth().Token().LookupAccessorWithContext(t.Context(), strings.TrimSpace(accessor))
	if err != nil {
		t.Fatal(err)
	}
	if meta, _ := token.Data["meta"].(map[string]any); meta["service_account_name"] != "api" || meta["service_account_namespace"] != ns {
		t.Errorf("Vault knows the pod as %v", token.Data["meta"])
	}
}

// The API server comes back after a stop, and pods have not noticed.
func TestNodeWithoutServer(t *testing.T) {
	n, ns := node(t)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := n.Do(t.Context(), http.MethodGet, "/readyz", nil, nil); err == nil {
		t.Fatal("a stopped server answers")
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/"+ns, nil, nil); err != nil {
		t.Error(err)
	}
}
