// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clientcmdfile "k8s.io/client-go/tools/clientcmd"
	clientcmd "k8s.io/client-go/tools/clientcmd/api"
)

// Do asks the API server as an administrator. body is JSON as bytes, or what is to become JSON; into is what the answer is read
// into. Both may be nil. A refusal is an [apierrors.StatusError].
func (k *Kubernetes) Do(ctx context.Context, method, path string, body, into any) error {
	return k.do(ctx, method, path, "application/json", body, into)
}

// Patch is Do with PATCH and a content type of its own, such as application/merge-patch+json.
func (k *Kubernetes) Patch(ctx context.Context, path, contentType string, body, into any) error {
	return k.do(ctx, http.MethodPatch, path, contentType, body, into)
}

func (k *Kubernetes) do(ctx context.Context, method, path, contentType string, body, into any) error {
	server, err := k.rest()
	if err != nil {
		return err
	}
	request := server.Verb(method).RequestURI(path).MaxRetries(0)
	if body != nil {
		data, ok := body.([]byte)
		if !ok {
			if data, err = json.Marshal(body); err != nil {
				return err
			}
		}
		request.SetHeader("Content-Type", contentType).Body(data)
	}
	result := request.Do(ctx)
	if err := result.Error(); err != nil || into == nil {
		return err
	}
	answer, err := result.Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, into)
}

// rest returns a client for the administrator. Its transport is cached by client-go.
func (k *Kubernetes) rest() (*rest.RESTClient, error) {
	return rest.UnversionedRESTClientFor(&rest.Config{
		Host: k.URL, QPS: -1, Timeout: time.Minute,
		TLSClientConfig: rest.TLSClientConfig{CAFile: k.CAFile, CertFile: k.admin.CertFile, KeyFile: k.admin.KeyFile},
		ContentConfig:   rest.ContentConfig{NegotiatedSerializer: scheme.Codecs.WithoutConversion(), ContentType: "application/json"},
	})
}

// Kubectl runs kubectl as an administrator, and returns what it prints. An error quotes what it complains of.
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
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Token returns a token of an account, for an hour; without audiences for the API server itself.
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
	user := &clientcmd.AuthInfo{Token: token}
	if token == "" {
		user = &clientcmd.AuthInfo{ClientCertificate: c.CertFile, ClientKey: c.KeyFile}
	}
	return clientcmdfile.WriteToFile(clientcmd.Config{
		CurrentContext: "test",
		Clusters:       map[string]*clientcmd.Cluster{"test": {Server: url, CertificateAuthority: k.CAFile}},
		AuthInfos:      map[string]*clientcmd.AuthInfo{"test": user},
		Contexts:       map[string]*clientcmd.Context{"test": {Cluster: "test", AuthInfo: "test"}},
	}, path)
}

// AllowReviews lets an account of a namespace ask the API server whose a token is, as Vault's kubernetes method does.
func (k *Kubernetes) AllowReviews(ctx context.Context, namespace, account string) error {
	return k.Do(ctx, http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", map[string]any{
		"metadata": meta{Name: "reviews-of-" + namespace + "-" + account},
		"roleRef":  map[string]string{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
		"subjects": []any{map[string]string{"kind": "ServiceAccount", "namespace": namespace, "name": account}},
	}, nil)
}
