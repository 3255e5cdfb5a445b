// SPDX-License-Identifier: Apache-2.0

package inject_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
)

// The examples that documentation points to are injected as they are.
func TestExamples(t *testing.T) {
	options := inject.Options{Image: "hyvve/hyvve-sidecar:v1", VaultAddress: "https://vault.vault:8200"}
	files, err := filepath.Glob("../../deploy/examples/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v: %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		injected := 0
		for part := range strings.SplitSeq(string(text), "\n---\n") {
			var o struct {
				Spec struct{ Template corev1.PodTemplateSpec }
			}
			if err := yaml.Unmarshal([]byte(part), &o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if len(o.Spec.Template.Annotations) == 0 {
				continue
			}
			pod := &corev1.Pod{ObjectMeta: o.Spec.Template.ObjectMeta, Spec: o.Spec.Template.Spec}
			pod.Name = "example"
			if err := options.Inject(pod, "hyvve"); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			injected++
		}
		if injected != 1 {
			t.Errorf("%s: %d pods with annotations", file, injected)
		}
	}
}
