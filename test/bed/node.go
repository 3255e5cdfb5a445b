// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// NodeAddress is that of the node in its own network. Ports that are exposed are there for pods.
const NodeAddress = "10.77.0.1"

const nodeName = "node"

// Node is a whole Kubernetes of one node, with pods that run: an API server with all controllers, a kubelet, containerd,
// Services by kube-proxy. It is in namespaces of its own (scripts/node), without a link outside and without DNS: pods find Services
// by their addresses, or by the variables that the kubelet sets.
type Node struct {
	*Kubernetes

	dir        string
	name       string // of the cgroups
	keeper     *process
	kubelet    *process
	pid        int // of the first process inside, as it is called here
	network    network
	containerd string // its socket

	mu      sync.Mutex
	exposed map[int]bool
}

// CanRunNode says what this machine lacks for a Node; nil: nothing.
func CanRunNode() error {
	if os.Geteuid() != 0 {
		return errors.New("it takes root")
	}
	for _, name := range []string{"unshare", "nsenter", "setpriv", "mount", "bash"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("the program %s is missing (Debian's packages util-linux, mount and bash)", name)
		}
	}
	busybox, err := kubernetesTool("busybox")
	if err != nil {
		return err
	}
	trial := exec.Command(nodeScript(), "--check", busybox)
	trial.Env = nodeEnvironment("/")
	if out, err := trial.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n") // the last is ours, in words
		if said := lines[len(lines)-1]; said != "" {
			return errors.New(said)
		}
		return fmt.Errorf("trying that failed: %w", err)
	}
	return canGroup()
}

// canGroup tries whether cgroups can be made.
func canGroup() error {
	groups := "/sys/fs/cgroup/memory"
	if exists("/sys/fs/cgroup/cgroup.controllers") {
		groups = "/sys/fs/cgroup"
	}
	probe := filepath.Join(groups, fmt.Sprintf("hyvve-probe-%d", os.Getpid()))
	if err := os.Mkdir(probe, 0o755); err != nil {
		return fmt.Errorf("cgroups cannot be made: %w", err)
	}
	return os.Remove(probe)
}

func nodeScript() string { return filepath.Join(Repo(), "scripts", "node") }

// nodeEnvironment lets what runs inside find what setup unpacked.
func nodeEnvironment(home string) []string {
	root := Tool("tools", "kubernetes-root")
	libraries, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu")) // where Debian puts those of this machine
	return []string{
		"PATH=" + strings.Join([]string{
			filepath.Join(root, "usr/bin"), filepath.Join(root, "usr/sbin"), Tool("tools", "kubernetes"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		}, ":"),
		"LD_LIBRARY_PATH=" + strings.Join(libraries, ":"), "HOME=" + home,
	}
}

// Node starts a cluster and waits until its node takes pods.
func (b *Bed) Node(ctx context.Context) (*Node, error) {
	if err := CanRunNode(); err != nil {
		return nil, fmt.Errorf("no node: %w", err)
	}
	dir, err := os.MkdirTemp(b.Dir, "node-")
	if err != nil {
		return nil, err
	}
	n := &Node{dir: dir, exposed: map[int]bool{}, containerd: filepath.Join(dir, "containerd.sock")}
	if err := n.hold(ctx, b); err != nil {
		return nil, err
	}
	if n.Kubernetes, err = b.newKubernetes(NodeAddress, n.inside); err != nil {
		return nil, err
	}
	if err := n.reach(ctx); err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	return n, n.startParts(ctx)
}

// hold makes the namespaces.
func (n *Node) hold(ctx context.Context, b *Bed) error {
	busybox, err := kubernetesTool("busybox")
	if err != nil {
		return err
	}
	n.name = fmt.Sprintf("hyvve-node-%s-%d", randomHex(3), os.Getpid())
	n.keeper, err = b.start(spec{
		name: filepath.Base(n.dir), path: nodeScript(), args: []string{n.dir, n.name, busybox},
		env: os.Environ(), dir: n.dir, stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGTERM,
	})
	if err != nil {
		return err
	}
	return n.keeper.await(ctx, func(context.Context) error {
		if !exists(filepath.Join(n.dir, "ready")) {
			return errors.New("no namespaces yet")
		}
		if n.pid, err = firstInside(n.keeper.cmd.Process.Pid); err != nil {
			return err
		}
		n.network.file, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid))
		return err
	})
}

// firstInside finds the child of the one child, unshare, that the keeper has.
func firstInside(keeper int) (int, error) {
	pid := keeper
	for range 2 {
		below, err := children(pid)
		if err != nil {
			return 0, err
		}
		if len(below) != 1 {
			return 0, fmt.Errorf("process %d has %d children, not one", pid, len(below))
		}
		pid = below[0]
	}
	return pid, nil
}

// inside lets a part run in the node's namespaces.
func (n *Node) inside(s spec) spec {
	s.args = append([]string{"--target=" + strconv.Itoa(n.pid), "--net", "--mount", "--pid", "--ipc", "--wd=" + n.dir, "--", s.path}, s.args...)
	s.path, s.entered = "nsenter", true
	if path, err := exec.LookPath("nsenter"); err == nil {
		s.path = path
	}
	s.env = append(nodeEnvironment(n.dir), s.env...)
	return s
}

// reach makes the API server reachable from here.
func (n *Node) reach(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, at, _ := strings.Cut(n.Inside, "://")
	relay := n.bed.relay(listener, func(ctx context.Context) (net.Conn, error) { return n.network.dial(ctx, at) }, 0)
	n.URL = fmt.Sprintf("https://127.0.0.1:%d", relay.Port)
	return n.writeKubeconfig(n.Kubeconfig, n.admin, "")
}

// Expose lets pods reach a loopback port of this machine at the same port of NodeAddress, which it gives.
func (n *Node) Expose(port int) (host string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.exposed[port] {
		return NodeAddress, nil
	}
	listener, err := n.network.listen(context.Background(), fmt.Sprintf("%s:%d", NodeAddress, port))
	if err != nil {
		return "", fmt.Errorf("exposing port %d: %w", port, err)
	}
	n.bed.relay(listener, to(port), 0)
	n.exposed[port] = true
	return NodeAddress, nil
}

// ExposeAddress lets pods reach what is at a loopback address of this machine, which is host:port or a URL, and returns the address
// as they have it.
func (n *Node) ExposeAddress(address string) (string, error) {
	scheme, at, isURL := strings.Cut(address, "://")
	if !isURL {
		at = address
	}
	_, text, err := net.SplitHostPort(at)
	if err != nil {
		return "", fmt.Errorf("exposing %s: %w", address, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return "", fmt.Errorf("exposing %s: %w", address, err)
	}
	host, err := n.Expose(port)
	if err != nil {
		return "", err
	}
	if at = net.JoinHostPort(host, text); isURL {
		return scheme + "://" + at, nil
	}
	return at, nil
}

// Transport reaches pods and Services by their addresses. Each request has a connection of its own, so that a Service spreads
// them.
func (n *Node) Transport() http.RoundTripper {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return n.Dial(ctx, address) },
	}
}

// Dial connects to a pod or a Service by its address.
func (n *Node) Dial(ctx context.Context, address string) (net.Conn, error) {
	return n.network.dial(ctx, address)
}

// nodePatience is for a machine with two busy processors.
const nodePatience = 3 * time.Minute

// startParts starts what makes pods run, and waits until the node takes them.
func (n *Node) startParts(ctx context.Context) error {
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	if err := n.startControllers(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	return until(ctx, "the node to take pods", func(ctx context.Context) error {
		var node struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
		if err := n.Do(ctx, http.MethodGet, "/api/v1/nodes/"+nodeName, nil, &node); err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == "Ready" && c.Status != "True" {
				return errors.New(c.Message)
			}
			if c.Type == "Ready" {
				return n.Do(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
			}
		}
		return errors.New("the node has not said how it is")
	})
}
