// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// reader follows docs/kubernetes.md.
type reader struct {
	t   *testing.T
	env []string
}

// commands returns what stands in the block of commands below a heading.
func commands(t *testing.T, heading string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(bed.Repo(), "docs", "kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, below, found := strings.Cut(string(text), "\n## "+heading+"\n")
	block := regexp.MustCompile("(?s)```sh\n(.*?)\n```").FindStringSubmatch(below)
	if !found || block == nil {
		t.Fatalf("docs/kubernetes.md has no commands below %q", heading)
	}
	return strings.Split(block[1], "\n")
}

func (r *reader) try(command string) (string, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), 6*time.Minute) // also when the test has ended
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	cmd.Dir, cmd.Env = bed.Repo(), r.env
	said, err := cmd.CombinedOutput()
	return string(said), err
}

func (r *reader) run(command string) string {
	r.t.Helper()
	said, err := r.try(command)
	if err != nil {
		r.t.Fatalf("%s\n%v\n%s", command, err, said)
	}
	return said
}

// newReader starts a Vault that has nothing, outside of the cluster, and fills in what the page says is to be set.
func newReader(t *testing.T, n *bed.Node, ns string) *reader {
	t.Helper()
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{NoMount: true})
	if err != nil {
		t.Fatal(err)
	}
	// Makes the method's plugin known, which servers of others have built in.
	if err := v.KubernetesAuth(t.Context(), n.Kubernetes, "elsewhere"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.ServiceAccount(t.Context(), ns, "reviewer"), n.AllowReviews(t.Context(), ns, "reviewer")); err != nil {
		t.Fatal(err)
	}
	token, err := n.Token(t.Context(), ns, "reviewer")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	file := filepath.Join(home, "reviewer")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	address, err := n.ExposeAddress(v.Addr)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := bed.VaultBinary()
	if err != nil {
		t.Fatal(err)
	}
	path := strings.Join([]string{filepath.Dir(binary), bed.Tool("tools"), bed.Tool("tools", "kubernetes"), os.Getenv("PATH")}, ":")
	return &reader{t: t, env: []string{
		"PATH=" + path, "HOME=" + home, "KUBECONFIG=" + n.Kubeconfig, "VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + v.Token,
		"REGISTRY=" + registry, "VAULT_FOR_PODS=" + address,
		"SETUP_FLAGS=--kubernetes-host=" + n.URL + " --kubernetes-ca=" + n.CAFile + " --reviewer-token=" + file + " --auth-plugin=vault-plugin-auth-kubernetes",
	}}
}

const registry = "registry.local/team"

// load lets the node have the images that the page needs: those of "make images", as nodes would pull them, and the example's.
func load(t *testing.T, n *bed.Node) {
	t.Helper()
	chart, err := os.ReadFile(filepath.Join(bed.Repo(), "deploy", "helm", "hyvve", "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^appVersion: (\S+)$`).FindSubmatch(chart)
	if version == nil {
		t.Fatal("the chart has no appVersion")
	}
	for _, name := range []string{"hyvve-sidecar", "hyvve-injector"} {
		if err := n.BuildImage(t.Context(), fmt.Sprintf("%s/hyvve/%s:%s", registry, name, version[1]), bed.Tool("bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	links := t.TempDir()
	var flags []string
	for _, applet := range []string{"sh", "stat", "sleep", "httpd"} {
		link := filepath.Join(links, applet)
		if err := os.Symlink("busybox", link); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--file="+link+":/usr/local/bin/"+applet)
	}
	if err := n.BuildImage(t.Context(), "docker.io/library/busybox:1.36", bed.Tool("tools", "kubernetes-root", "bin", "busybox"), flags...); err != nil {
		t.Fatal(err)
	}
}

// From an empty cluster to a rotated key in ten commands; then an upgrade and an uninstallation.
func TestDocumentation(t *testing.T) {
	ten := commands(t, "In ten commands")
	if len(ten) != 10 {
		t.Fatalf("%d commands", len(ten))
	}
	n, ns := node(t)
	load(t, n)
	r := newReader(t, n, ns)
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := r.try("set +e; kubectl get pods -A -o wide; kubectl -n demo describe pods; kubectl -n hyvve logs deployment/hyvve-injector; kubectl -n demo logs deploy/api -c hyvve-sidecar; kubectl -n demo logs deploy/api -c app; kubectl -n demo get events")
			t.Log(said)
			_, _ = r.try("helm uninstall hyvve --namespace hyvve --wait") // the cluster is shared, and may be without it already
		}
	})
	for _, command := range ten[:9] {
		r.run(command)
	}
	await(t, "the pod to show the new version", func() bool {
		said, err := r.try(ten[9])
		return err == nil && regexp.MustCompile(`JWT_SECRET\s+.*\b2\b`).MatchString(said)
	})
	await(t, "both pods to have loaded it", func() bool {
		said := r.run("vault read -format=json -field=instances hyvve/workloads/api detailed=true")
		return strings.Count(said, `"presents": 2`) == 2
	})
	await(t, "the application to have seen its file change", func() bool {
		return strings.Count(r.run("kubectl --namespace demo logs deploy/api --container app"), "keys of ") >= 2
	})

	for _, command := range commands(t, "Upgrade and uninstall") {
		r.run(command)
	}
	// Pods that run go on with their sidecars.
	if said, err := r.try(ten[9]); err != nil {
		t.Errorf("after the injector is gone: %v\n%s", err, said)
	}
	r.run("kubectl delete namespace demo --wait=false")
	r.run("kubectl --namespace hyvve delete secret hyvve-injector-certificates")
}
