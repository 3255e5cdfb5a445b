// SPDX-License-Identifier: Apache-2.0

package inject_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func TestMain(m *testing.M) { bed.Main(m) }

// unrestricted are the shapes that PodSecurity "restricted" refuses for what they are themselves.
var unrestricted = map[string]bool{
	"host-network": true, "superuser": true, "superuser-signalled": true, "superuser-without-capabilities": true,
}

// A real API server takes every pod that was injected, in a namespace that takes restricted pods only if it takes the pod
// as it came there.
func TestAPIServerTakesInjectedPods(t *testing.T) {
	k, open := bed.Namespace(t)
	strict := open + "-strict"
	if err := k.Namespace(t.Context(), strict, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob("testdata/golden/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		if strings.HasPrefix(name, "refused-") || strings.HasPrefix(name, "not-") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pod, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		namespace := strict
		if unrestricted[name] {
			namespace = open
		}
		var answer json.RawMessage
		if err := k.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/"+namespace+"/pods?dryRun=All&fieldValidation=Strict", pod, &answer); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		taken++
	}
	if taken < 25 {
		t.Errorf("only %d pods", taken)
	}
}
