// SPDX-License-Identifier: Apache-2.0

package helm_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

var update = flag.Bool("update", false, "regenerate golden files and deploy/manifests")

func TestMain(m *testing.M) {
	flag.Parse()
	bed.Main(m)
}

const (
	chart    = "hyvve"
	manifest = "../manifests/injector.yaml"
)

// vaultAddress is what must be given, and stands in the plain manifest.
const vaultAddress = "vault.address=https://vault.vault:8200"

// helm runs the real one, for a cluster or for none.
func helm(t *testing.T, k *bed.Kubernetes, args ...string) (string, error) {
	t.Helper()
	binary := bed.Tool("tools", "helm")
	if _, err := os.Stat(binary); err != nil {
		kit.Skip(t, fmt.Sprintf(`needs "make setup": Helm is missing: %v`, err))
	}
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "KUBECONFIG=" + filepath.Join(home, "none")}
	if k != nil {
		cmd.Env[2] = "KUBECONFIG=" + k.Kubeconfig
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return string(out) + complaint.String(), err
	}
	return string(out), nil
}

func mustHelm(t *testing.T, k *bed.Kubernetes, args ...string) string {
	t.Helper()
	said, err := helm(t, k, args...)
	if err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, said)
	}
	return said
}

// golden compares a text with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the chart renders; look at the difference after: make generate\n%s", path, got)
	}
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v: %v", files, err)
	}
	for _, file := range files {
		said, err := helm(t, nil, "lint", "--strict", "--values", file, chart)
		if err != nil {
			t.Errorf("helm lint: %v\n%s", err, said)
		}
		rendered := mustHelm(t, nil, "template", "hyvve", chart, "--namespace", "hyvve", "--values", file)
		golden(t, filepath.Join("testdata/golden", filepath.Base(file)), rendered)
		for _, o := range documents(t, rendered) {
			if o["kind"] == "" || o["apiVersion"] == "" {
				t.Errorf("%s renders an object without a kind: %v", file, o)
			}
		}
	}
}

// documents parses YAML, and fails on a name that a mapping has twice.
func documents(t *testing.T, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o map[string]any
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if o != nil {
			all = append(all, o)
		}
	}
}

// find returns the one object of a kind.
func find(t *testing.T, text, kind string) map[string]any {
	t.Helper()
	for _, o := range documents(t, text) {
		if o["kind"] == kind {
			return o
		}
	}
	t.Fatalf("there is no %s in\n%s", kind, text)
	return nil
}

func TestManifest(t *testing.T) {
	rendered := mustHelm(t, nil, "template", "hyvve", chart, "--namespace", "hyvve", "--set", vaultAddress)
	// What only Helm goes by would say that Helm keeps these objects.
	rendered = regexp.MustCompile(`(?m)^ *(app\.kubernetes\.io/managed-by: Helm|helm\.sh/chart: .*)\n`).ReplaceAllString(rendered, "")
	golden(t, manifest, `# SPDX-License-Identifier: Apache-2.0
# Made from deploy/helm/hyvve by "make generate". Write the address of your Vault in place of https://vault.vault:8200.
apiVersion: v1
kind: Namespace
metadata:
  name: hyvve
  labels:
    pod-security.kubernetes.io/enforce: restricted
`+rendered)
}

func TestRefusedValues(t *testing.T) {
	for set, want := range map[string]string{
		"":                                     "/vault/address': minLength",
		"vault.address=vault:8200":             "/vault/address",
		"vault.address=https://u:p@vault":      "/vault/address",
		"vault.authMount=auth/kubernetes":      "/vault/authMount",
		"vualt.address=x":                      "additional properties 'vualt' not allowed",
		"replicas=0":                           "/replicas': minimum: got 0, want 1",
		"replicas=two":                         "/replicas': got string, want integer",
		"logLevel=loud":                        "/logLevel': value must be one of 'debug', 'info', 'warn', 'error'",
		"certificates.mode=none":               "/certificates/mode': value must be one of 'self', 'secret', 'cert-manager'",
		"certificates.mode=secret":             "/certificates/secretName': minLength",
		"webhook.failurePolicy=Maybe":          "/webhook/failurePolicy': value must be one of 'Fail', 'Ignore'",
		"image.digest=sha256:1":                "/image/digest",
		"image.tag=a b":                        "/image/tag",
		"drain=10":                             "/drain",
		"serviceMonitor.interval=often":        "/serviceMonitor/interval",
		"networkPolicy.apiServerPorts[0]=0":    "/networkPolicy/apiServerPorts/0': minimum",
		"locked[0]=hyvve.app/image":            "/locked/0",
		"podReaders.apps=digest":               "/podReaders/apps': got string, want array",
		"podReaders.apps[0]=Digest":            "/podReaders/apps/0",
		"serviceMonitor.enabled=true":          "name Prometheus in networkPolicy.metricsFrom",
		"certificates.issuerRef.nmae=x":        "additional properties 'nmae' not allowed",
		"webhook.excludedNamespaces[0]=A":      "/webhook/excludedNamespaces/0",
		"podDisruptionBudget.maxUnavailable=0": "/podDisruptionBudget/maxUnavailable': minimum",
	} {
		args := []string{"template", "hyvve", chart}
		if set != "" && !strings.HasPrefix(set, "vault.address") {
			args = append(args, "--set", vaultAddress)
		}
		if set != "" {
			args = append(args, "--set", set)
		}
		if said, err := helm(t, nil, args...); err == nil || !strings.Contains(said, want) {
			t.Errorf("--set %s: %v\n%s\nwant %q", set, err, said, want)
		}
	}
}

// The chart names the images that "make images" makes.
func TestVersion(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(bed.Repo(), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^VERSION \?= (\S+)$`).FindSubmatch(text)
	charts, err := os.ReadFile(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if version == nil || !strings.Contains(string(charts), "\nappVersion: "+string(version[1])+"\n") {
		t.Errorf("the appVersion of the chart is not the Makefile's %s", version)
	}
}
