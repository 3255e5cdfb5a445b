// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clientcmdfile "k8s.io/client-go/tools/clientcmd"
	clientcmd "k8s.io/client-go/tools/clientcmd/api"
)

// Kubernetes is a private API server with its etcd: objects are kept, validated and admitted, and nothing runs. Controllers are
// missing, too: what they would make, such as the account "default" of a namespace, Namespace makes.
type Kubernetes struct {
	URL        string // of the API server
	Inside     string // the same for pods and for what else is in the node's network
	CAFile     string // that its certificate is from
	Kubeconfig string // of an administrator

	bed    *Bed
	dir    string
	enter  func(spec) spec // lets parts run where the API server does
	admin  Certificate
	api    spec
	server *process
	ports  struct{ store, peers int }
	signer string // file of the key that accounts' tokens are signed with

	address string // of the API server, for clients that are configured with it
}

// The issuer and the audiences of service accounts' tokens. The second audience is what sidecars ask tokens for.
const (
	issuer        = "https://kubernetes.default.svc.cluster.local"
	VaultAudience = "vault"
)

const serviceRange = "10.96.0.0/24"

// kubernetesTool is the path of one of the binaries that scripts/setup built or unpacked.
func kubernetesTool(name string) (string, error) {
	for _, path := range []string{
		Tool("tools", "kubernetes", name),
		Tool("tools", "kubernetes-root", "usr", "bin", name),
		Tool("tools", "kubernetes-root", "usr", "sbin", name),
		Tool("tools", "kubernetes-root", "bin", name),
	} {
		if exists(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s: run scripts/setup (make test and make test-k8s do)", name)
}

// Kubernetes starts an API server on a free loopback port.
func (b *Bed) Kubernetes(ctx context.Context) (*Kubernetes, error) {
	k, err := b.newKubernetes("127.0.0.1", func(s spec) spec { return s })
	if err != nil {
		return nil, err
	}
	return k, k.Start(ctx)
}

// newKubernetes prepares a server at an address, and starts its etcd. enter lets both run elsewhere.
func (b *Bed) newKubernetes(address string, enter func(spec) spec) (*Kubernetes, error) {
	b.say("starting an API server of Kubernetes on %s", address)
	dir, err := os.MkdirTemp(b.Dir, "kubernetes-")
	if err != nil {
		return nil, err
	}
	authority, err := b.Authority()
	if err != nil {
		return nil, err
	}
	k := &Kubernetes{CAFile: authority.File, Kubeconfig: filepath.Join(dir, "admin.kubeconfig"), bed: b, dir: dir, enter: enter, address: address}
	port, err := k.freePorts()
	if err != nil {
		return nil, err
	}
	k.Inside = fmt.Sprintf("https://%s:%d", address, port)
	k.URL = k.Inside
	if k.admin, err = authority.Client("admin", "system:masters"); err != nil {
		return nil, err
	}
	if err := k.writeKubeconfig(k.Kubeconfig, k.admin, ""); err != nil {
		return nil, err
	}
	if err := k.startStore(); err != nil {
		return nil, err
	}
	return k, k.prepareServer(authority, port)
}

// freePorts chooses those of etcd, and returns that of the API server.
func (k *Kubernetes) freePorts() (port int, err error) {
	for _, at := range []*int{&k.ports.store, &k.ports.peers, &port} {
		if *at, err = FreePort(); err != nil {
			return 0, err
		}
	}
	return port, nil
}

func (k *Kubernetes) store() string { return fmt.Sprintf("http://127.0.0.1:%d", k.ports.store) }

// startStore starts etcd. What it holds is not worth a sync of the disk.
func (k *Kubernetes) startStore() error {
	path, err := kubernetesTool("etcd")
	if err != nil {
		return err
	}
	peers := fmt.Sprintf("http://127.0.0.1:%d", k.ports.peers)
	_, err = k.bed.start(k.enter(spec{
		name: filepath.Base(k.dir) + "-etcd", path: path, dir: k.dir, stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
		args: []string{
			"--data-dir=" + filepath.Join(k.dir, "etcd"), "--unsafe-no-fsync=true", "--logger=zap",
			"--listen-client-urls=" + k.store(), "--advertise-client-urls=" + k.store(),
			"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers,
		},
	}))
	return err
}

// prepareServer makes keys and certificates, and says how the API server is started.
func (k *Kubernetes) prepareServer(authority *Authority, port int) error {
	path, err := kubernetesTool("kube-apiserver")
	if err != nil {
		return err
	}
	serving, err := authority.server("kube-apiserver", nil, net.ParseIP(k.address), net.IPv4(10, 96, 0, 1))
	if err != nil {
		return err
	}
	private, public, err := k.accountKeys()
	if err != nil {
		return err
	}
	k.signer = private
	kubelets, err := authority.Client("kube-apiserver", "system:masters")
	if err != nil {
		return err
	}
	k.api = k.enter(spec{
		name: filepath.Base(k.dir) + "-apiserver", path: path, dir: k.dir, stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
		args: []string{
			"--etcd-servers=" + k.store(), "--bind-address=" + k.address, "--advertise-address=" + k.address,
			fmt.Sprintf("--secure-port=%d", port), "--service-cluster-ip-range=" + serviceRange,
			"--tls-cert-file=" + serving.CertFile, "--tls-private-key-file=" + serving.KeyFile, "--client-ca-file=" + authority.File,
			"--service-account-issuer=" + issuer, "--service-account-key-file=" + public, "--service-account-signing-key-file=" + private,
			"--api-audiences=" + issuer + "," + VaultAudience,
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
			"--kubelet-client-certificate=" + kubelets.CertFile, "--kubelet-client-key=" + kubelets.KeyFile,
			"--kubelet-certificate-authority=" + authority.File, "--kubelet-preferred-address-types=InternalIP",
			"--endpoint-reconciler-type=" + k.reconciler(),
		},
	})
	return nil
}

// reconciler is what keeps the Service "kubernetes": on a loopback address nobody could use it.
func (k *Kubernetes) reconciler() string {
	if k.address == "127.0.0.1" {
		return "none"
	}
	return "lease"
}

// accountKeys makes the pair of keys that service accounts' tokens are signed with.
func (k *Kubernetes) accountKeys() (private, public string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", "", err
	}
	open, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", "", err
	}
	private, public = filepath.Join(k.dir, "accounts.key"), filepath.Join(k.dir, "accounts.pub")
	return private, public, errors.Join(writePEM(private, 0o600, "EC PRIVATE KEY", secret), writePEM(public, 0o644, "PUBLIC KEY", open))
}

// Start starts the API server, again after Stop or Kill with all that it had.
func (k *Kubernetes) Start(ctx context.Context) error {
	var err error
	if k.server, err = k.bed.start(k.api); err != nil {
		return err
	}
	return k.server.await(ctx, func(ctx context.Context) error {
		if err := k.Do(ctx, http.MethodGet, "/readyz", nil, nil); err != nil {
			return err
		}
		return k.Do(ctx, http.MethodGet, "/api/v1/namespaces/default", nil, nil)
	})
}

// Stop ends the API server in good order.
func (k *Kubernetes) Stop() error { return k.server.stop(stopPatience) }

// Kill ends it as a crash would.
func (k *Kubernetes) Kill() { k.server.kill() }

// SecretAccount is the service account of docs/kubernetes-secret.md.
const SecretAccount = "hyvve-metrics"

// AddSecretAccount makes [SecretAccount] in a namespace, with the Role that docs/kubernetes-secret.md describes; with create,
// also the one that lets it create Secrets.
func (k *Kubernetes) AddSecretAccount(ctx context.Context, namespace string, create bool) error {
	path := filepath.Join(Repo(), "docs", "kubernetes-secret.md")
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	blocks := strings.Split(string(page), "```yaml\n")[1:]
	if len(blocks) != 2 || !strings.Contains(blocks[1], `verbs: ["create"]`) {
		return fmt.Errorf("%s has %d blocks of YAML; it should have two: the Role, and the one that creates", path, len(blocks))
	}
	if !create {
		blocks = blocks[:1]
	}
	if err := k.ServiceAccount(ctx, namespace, SecretAccount); err != nil {
		return err
	}
	for _, block := range blocks {
		roles, _, _ := strings.Cut(block, "```")
		if err := k.Apply(ctx, strings.ReplaceAll(roles, "namespace: monitoring", "namespace: "+namespace)); err != nil {
			return err
		}
	}
	return nil
}

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
