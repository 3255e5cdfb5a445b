// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
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
