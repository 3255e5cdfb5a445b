// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// pod is one that needs nothing.
func pod(name string, security map[string]any) map[string]any {
	return map[string]any{
		"metadata": meta{Name: name},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "app", "image": "registry.local/app:1", "securityContext": security}}},
	}
}

func TestKubernetesKeepsAndAdmits(t *testing.T) {
	k, ns := Namespace(t)
	pods := "/api/v1/namespaces/" + ns + "/pods"
	if err := k.Do(t.Context(), http.MethodPost, pods, pod("plain", nil), nil); err != nil {
		t.Fatal(err)
	}
	if out, err := k.Kubectl(t.Context(), "", "-n", ns, "get", "pods", "-o", "name"); err != nil || strings.TrimSpace(out) != "pod/plain" {
		t.Errorf("kubectl shows %q (%v)", out, err)
	}
	// The admission plugins of a real cluster are there: this namespace takes restricted pods only.
	strict := ns + "-strict"
	if err := k.Namespace(t.Context(), strict, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}); err != nil {
		t.Fatal(err)
	}
	err := k.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/"+strict+"/pods?dryRun=All", pod("plain", nil), nil)
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("a plain pod in a strict namespace: %v", err)
	}
	err = k.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/"+strict+"/pods?dryRun=All", pod("strict", map[string]any{
		"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": map[string]any{"drop": []string{"ALL"}},
		"seccompProfile": map[string]any{"type": "RuntimeDefault"},
	}), nil)
	if err != nil {
		t.Errorf("a restricted pod: %v", err)
	}
}

func TestKubernetesAccounts(t *testing.T) {
	k, ns := Namespace(t)
	if err := k.ServiceAccount(t.Context(), ns, "nobody"); err != nil {
		t.Fatal(err)
	}
	path, err := k.KubeconfigOf(t.Context(), ns, "nobody")
	if err != nil {
		t.Fatal(err)
	}
	// The last kubeconfig counts.
	if out, err := k.Kubectl(t.Context(), "", "--kubeconfig="+path, "-n", ns, "get", "pods"); err == nil || !strings.Contains(err.Error(), "system:serviceaccount:"+ns+":nobody") {
		t.Errorf("an account without rights sees %q (%v)", out, err)
	}
	token, err := k.Token(t.Context(), ns, "nobody", VaultAudience)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(token, ".") != 2 {
		t.Error("that is no JWT")
	}
}

// An API server that crashed comes back with what it had.
func TestKubernetesComesBackAfterKill(t *testing.T) {
	b := ForTest(t)
	k, err := b.Kubernetes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Namespace(t.Context(), "kept", nil); err != nil {
		t.Fatal(err)
	}
	k.Kill()
	if err := k.Do(t.Context(), http.MethodGet, "/readyz", nil, nil); err == nil {
		t.Fatal("a dead server answers")
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/kept/serviceaccounts/default", nil, nil); err != nil {
		t.Error(err)
	}
}

// Vault's own kubernetes method asks the API server whose a token is.
func TestVaultKnowsServiceAccounts(t *testing.T) {
	k, ns := Namespace(t)
	v, err := ForTest(t).Vault(t.Context(), VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.KubernetesAuth(t.Context(), k, "kubernetes"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Client.Logical().WriteWithContext(t.Context(), "auth/kubernetes/role/api", map[string]any{
		"bound_service_account_names": "default", "bound_service_account_namespaces": ns, "audience": VaultAudience, "token_ttl": "1h",
	}); err != nil {
		t.Fatal(err)
	}
	login := func(audience string) error {
		token, err := k.Token(t.Context(), ns, "default", audience)
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Client.Logical().WriteWithContext(t.Context(), "auth/kubernetes/login", map[string]any{"role": "api", "jwt": token})
		return err
	}
	if err := login(VaultAudience); err != nil {
		t.Error(err)
	}
	if err := login(issuer); err == nil {
		t.Error("a token for another audience is taken")
	}
}
