// SPDX-License-Identifier: Apache-2.0

package helm_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"

type configuration struct {
	Webhooks []struct {
		FailurePolicy string
		ClientConfig  struct{ CABundle string }
	}
}

func webhookOf(t *testing.T, k *bed.Kubernetes, name string) configuration {
	t.Helper()
	var c configuration
	if err := k.Do(t.Context(), http.MethodGet, configurations+name, nil, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// bundle sets caBundle as the replicas do, by whatever their role lets them, and returns it.
func bundle(t *testing.T, k *bed.Kubernetes, name string) string {
	t.Helper()
	authority, err := os.ReadFile(k.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	b := base64.StdEncoding.EncodeToString(authority)
	patch := []map[string]any{{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": b}}
	if err := k.Patch(t.Context(), configurations+name+"?fieldManager=hyvve-injector", "application/json-patch+json", patch, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// The replicas set caBundle, and the chart does not name it: neither way of upgrading takes it away.
func TestInstallUpgradeUninstall(t *testing.T) {
	for mode, serverSide := range map[string]string{"server": "--server-side=true", "client": "--server-side=false"} {
		t.Run(mode, func(t *testing.T) {
			k, ns := bed.Namespace(t)
			release := "release-" + mode
			said := mustHelm(t, k, "install", release, chart, "--namespace", ns, "--set", vaultAddress, serverSide)
			if !strings.Contains(said, "rollout status deployment/"+release+"-injector") || strings.Contains(said, "There is one replica") {
				t.Errorf("notes:\n%s", said)
			}
			if got := webhookOf(t, k, release+"-injector"); len(got.Webhooks) != 1 || got.Webhooks[0].ClientConfig.CABundle != "" || got.Webhooks[0].FailurePolicy != "Fail" {
				t.Errorf("installed: %+v", got)
			}
			ca := bundle(t, k, release+"-injector")
			set := "--server-side=" + strings.TrimPrefix(serverSide, "--server-side=")
			for _, change := range []string{"webhook.failurePolicy=Ignore", "replicas=1", "webhook.failurePolicy=Fail"} {
				said = mustHelm(t, k, "upgrade", release, chart, "--namespace", ns, "--set", vaultAddress, "--set", change, set)
				if got := webhookOf(t, k, release+"-injector").Webhooks[0].ClientConfig.CABundle; got != ca {
					t.Fatalf("an upgrade with %s has made of caBundle %q", change, got)
				}
				if strings.Contains(said, "There is one replica") != (change == "replicas=1") {
					t.Errorf("notes of %s:\n%s", change, said)
				}
			}
			mustHelm(t, k, "rollback", release, "2", "--namespace", ns, set)
			if got := webhookOf(t, k, release+"-injector").Webhooks[0]; got.ClientConfig.CABundle != ca || got.FailurePolicy != "Ignore" {
				t.Errorf("after going back: %+v", got)
			}
			mustHelm(t, k, "uninstall", release, "--namespace", ns)
			left, err := k.Kubectl(t.Context(), "", "get", "mutatingwebhookconfigurations,clusterroles,clusterrolebindings,deployments,services,roles,rolebindings,serviceaccounts,poddisruptionbudgets,configmaps,secrets",
				"-A", "-l", "app.kubernetes.io/instance="+release, "-o", "name")
			if err != nil || left != "" {
				t.Errorf("uninstalled, and left are: %s (%v)", left, err)
			}
		})
	}
}

// Two releases would inject twice, and are kept apart by their names; one of a name that is taken is refused as a whole.
func TestInstallTwice(t *testing.T) {
	k, ns := bed.Namespace(t)
	other := ns + "-other"
	if err := k.Namespace(t.Context(), other, nil); err != nil {
		t.Fatal(err)
	}
	mustHelm(t, k, "install", "twice", chart, "--namespace", ns, "--set", vaultAddress)
	if said, err := helm(t, k, "install", "twice", chart, "--namespace", other, "--set", vaultAddress); err == nil || !strings.Contains(said, "twice-injector") {
		t.Errorf("a second release with the name of the first: %v\n%s", err, said)
	}
	mustHelm(t, k, "uninstall", "twice", "--namespace", ns)
}

// The plain manifest may be applied again, and keeps caBundle, too.
func TestApplyManifest(t *testing.T) {
	k, _ := bed.Namespace(t)
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(t.Context(), string(text)); err != nil {
		t.Fatal(err)
	}
	ca := bundle(t, k, "hyvve-injector")
	changed := bytes.ReplaceAll(text, []byte("failurePolicy: Fail"), []byte("failurePolicy: Ignore"))
	if err := k.Apply(t.Context(), string(changed)); err != nil {
		t.Fatal(err)
	}
	if got := webhookOf(t, k, "hyvve-injector").Webhooks[0]; got.ClientConfig.CABundle != ca || got.FailurePolicy != "Ignore" {
		t.Errorf("after a second apply: %+v", got)
	}
	if _, err := k.Kubectl(t.Context(), string(text), "delete", "-f", "-", "--wait=false"); err != nil {
		t.Error(err)
	}
	if err := k.Do(t.Context(), http.MethodGet, configurations+"hyvve-injector", nil, nil); !apierrors.IsNotFound(err) {
		t.Errorf("after deletion: %v", err)
	}
}

// A namespace that takes restricted pods only takes the injector's.
func TestPodsAreRestricted(t *testing.T) {
	k, ns := bed.Namespace(t)
	strict := ns + "-strict"
	if err := k.Namespace(t.Context(), strict, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}); err != nil {
		t.Fatal(err)
	}
	if err := k.ServiceAccount(t.Context(), strict, "hyvve-injector"); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/golden/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v: %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		deployment := find(t, string(text), "Deployment")
		spec, _ := deployment["spec"].(map[string]any)
		pod, _ := spec["template"].(map[string]any)
		meta, _ := pod["metadata"].(map[string]any)
		if meta == nil {
			t.Fatalf("%s: no template of pods", file)
		}
		meta["name"] = "injector"
		pod["apiVersion"], pod["kind"] = "v1", "Pod"
		if err := k.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/"+strict+"/pods?dryRun=All&fieldValidation=Strict", pod, nil); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// The API server takes every object of its own kinds, with no name that it does not know.
func TestServerTakesAll(t *testing.T) {
	k, ns := bed.Namespace(t)
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v: %v", files, err)
	}
	examples, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("%v: %v", examples, err)
	}
	texts := map[string]string{}
	for _, file := range files {
		texts[file] = mustHelm(t, nil, "template", "hyvve", chart, "--namespace", ns, "--values", file)
	}
	for _, file := range examples {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(text)
	}
	for file, text := range texts {
		var known []string
		for part := range strings.SplitSeq(text, "\n---\n") {
			part = regexp.MustCompile(`(?m)^(  namespace: ).*$`).ReplaceAllString(part, "${1}"+ns) // those of podReaders are not there
			if !strings.Contains(part, "cert-manager.io/v1") && !strings.Contains(part, "monitoring.coreos.com/") {
				known = append(known, part)
			}
		}
		if _, err := k.Kubectl(t.Context(), strings.Join(known, "\n---\n"), "--namespace", ns, "apply", "--dry-run=server", "--validate=strict", "-f", "-"); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
