// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// system is where the injector is.
const system = "hyvve-system"

// injector installs the chart, two replicas behind a Service with certificates of their own making, for the time of the test.
func injector(t *testing.T, n *bed.Node, vault string) {
	t.Helper()
	ctx := t.Context()
	for _, program := range []string{"hyvve-sidecar", "hyvve-injector"} {
		if err := n.BuildImage(ctx, "registry.local/hyvve/"+program+":test", bed.Tool("bin", program)); err != nil {
			t.Fatal(err)
		}
	}
	chart := filepath.Join(bed.Repo(), "deploy", "helm", "hyvve")
	helm(t, n, "install", "hyvve", chart, "--namespace", system, "--create-namespace",
		"--set", "vault.address="+vault, "--set", "registry=registry.local", "--set", "image.tag=test", "--set", "sidecar.image.tag=test")
	t.Cleanup(func() { uninstall(t, n) })
	if err := n.Rollout(ctx, system, "deployment/hyvve-injector"); err != nil {
		t.Fatal(err)
	}
}

// uninstall removes the chart and waits until its replicas are gone. helm waits for the Deployment alone, whose pods are
// collected afterwards. They still drain then, with the configuration that they were started with, and an API server that
// has kept its connection to one would let it answer in the next test.
func uninstall(t *testing.T, n *bed.Node) {
	t.Helper()
	helm(t, n, "uninstall", "hyvve", "--namespace", system, "--wait")
	await(t, "the injector's replicas to be gone", func() bool {
		pods, err := n.Pods(context.WithoutCancel(t.Context()), system, "")
		return err == nil && len(pods) == 0
	})
}

func helm(t *testing.T, n *bed.Node, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), bed.Tool("tools", "helm"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.Kubeconfig, "HOME="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (p *hyvve) apply(text string) {
	p.t.Helper()
	if _, err := p.node.Kubectl(p.t.Context(), text, "-n", p.ns, "apply", "-f", "-"); err != nil {
		p.t.Fatal(err)
	}
}
