// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// StatusError is what the API server answers to what it does not do.
type StatusError struct {
	Code            int // of HTTP
	Reason, Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d %s: %s", e.Code, e.Reason, e.Message) }

// Do asks the API server as an administrator. body is JSON as bytes, or what is to become JSON; into is what the answer is read
// into. Both may be nil. A refusal is a *StatusError.
func (k *Kubernetes) Do(ctx context.Context, method, path string, body, into any) error {
	return k.do(ctx, method, path, "application/json", body, into)
}

// Patch is Do with PATCH and a content type of its own, such as application/merge-patch+json.
func (k *Kubernetes) Patch(ctx context.Context, path, contentType string, body, into any) error {
	return k.do(ctx, http.MethodPatch, path, contentType, body, into)
}

func (k *Kubernetes) do(ctx context.Context, method, path, contentType string, body, into any) error {
	data, ok := body.([]byte)
	if body != nil && !ok {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, k.URL+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	if len(data) > 0 {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		refusal := &StatusError{Code: resp.StatusCode}
		if json.Unmarshal(answer, refusal) != nil {
			refusal.Message = string(answer)
		}
		refusal.Code = resp.StatusCode
		return refusal
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// Kubectl runs kubectl as an administrator, and gives what it prints. An error quotes what it complains of.
func (k *Kubernetes) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	path, err := kubernetesTool("kubectl")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.Kubeconfig, "HOME="+k.dir)
	cmd.Stdin = strings.NewReader(stdin)
	var output, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &complaint
	if err := cmd.Run(); err != nil {
		return output.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return output.String(), nil
}

// Apply applies objects, in YAML.
func (k *Kubernetes) Apply(ctx context.Context, yaml string) error {
	_, err := k.Kubectl(ctx, yaml, "apply", "-f", "-")
	return err
}

// meta is what every object has.
type meta struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Namespace makes a namespace, and in it the account that pods have by default.
func (k *Kubernetes) Namespace(ctx context.Context, name string, labels map[string]string) error {
	err := k.Do(ctx, http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": meta{Name: name, Labels: labels}}, nil)
	if err == nil { // on a node a controller makes it, too
		err = k.ServiceAccount(ctx, name, "default")
	}
	if err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	return nil
}

// ServiceAccount makes an account, if there is none.
func (k *Kubernetes) ServiceAccount(ctx context.Context, namespace, name string) error {
	err := k.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts", map[string]any{"metadata": meta{Name: name}}, nil)
	if refusal := (*StatusError)(nil); errors.As(err, &refusal) && refusal.Reason == "AlreadyExists" {
		return nil
	}
	return err
}

// Token gives a token of an account, for an hour; without audiences for the API server itself.
func (k *Kubernetes) Token(ctx context.Context, namespace, account string, audiences ...string) (string, error) {
	request := map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{"audiences": audiences, "expirationSeconds": 3600},
	}
	var answer struct {
		Status struct{ Token string }
	}
	err := k.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", request, &answer)
	if err != nil {
		return "", fmt.Errorf("a token of %s/%s: %w", namespace, account, err)
	}
	return answer.Status.Token, nil
}

// KubeconfigOf writes a kubeconfig with a token of an account.
func (k *Kubernetes) KubeconfigOf(ctx context.Context, namespace, account string) (string, error) {
	token, err := k.Token(ctx, namespace, account)
	if err != nil {
		return "", err
	}
	path := filepath.Join(k.dir, namespace+"-"+account+".kubeconfig")
	return path, k.writeKubeconfig(path, Certificate{}, token)
}

// writeKubeconfig writes one that presents a certificate, or a token.
func (k *Kubernetes) writeKubeconfig(path string, c Certificate, token string) error {
	return k.kubeconfigFor(k.URL, path, c, token)
}

func (k *Kubernetes) kubeconfigFor(url, path string, c Certificate, token string) error {
	user := map[string]string{"token": token}
	if token == "" {
		user = map[string]string{"client-certificate": c.CertFile, "client-key": c.KeyFile}
	}
	text, err := json.Marshal(map[string]any{ // which is YAML, too
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": []any{map[string]any{"name": "test", "cluster": map[string]string{"server": url, "certificate-authority": k.CAFile}}},
		"users":    []any{map[string]any{"name": "test", "user": user}},
		"contexts": []any{map[string]any{"name": "test", "context": map[string]string{"cluster": "test", "user": "test"}}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// AllowReviews lets an account of a namespace ask the API server whose a token is, as Vault's kubernetes method does.
func (k *Kubernetes) AllowReviews(ctx context.Context, namespace, account string) error {
	return k.Do(ctx, http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", map[string]any{
		"metadata": meta{Name: "reviews-of-" + namespace + "-" + account},
		"roleRef":  map[string]string{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
		"subjects": []any{map[string]string{"kind": "ServiceAccount", "namespace": namespace, "name": account}},
	}, nil)
}
