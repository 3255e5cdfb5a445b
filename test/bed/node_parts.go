// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// podRange is the addresses of pods.
const podRange = "10.244.0.0/24"

// part is one of Kubernetes' programs inside of the node.
func (n *Node) part(name string, args ...string) error {
	path, err := kubernetesTool(name)
	if err != nil {
		return err
	}
	p, err := n.bed.start(n.inside(spec{
		name: filepath.Base(n.dir) + "-" + name, path: path, args: args, stopSignal: syscall.SIGKILL, dieSignal: syscall.SIGKILL,
	}))
	if name == "kubelet" {
		n.kubelet = p
	}
	return err
}

// partClient makes a kubeconfig of one of the parts.
func (n *Node) partClient(name string, organizations ...string) (string, error) {
	authority, err := n.bed.Authority()
	if err != nil {
		return "", err
	}
	c, err := authority.Client(name, organizations...)
	if err != nil {
		return "", err
	}
	path := filepath.Join(n.dir, strings.ReplaceAll(name, ":", "-")+".kubeconfig")
	return path, n.kubeconfigFor(n.Inside, path, c, "")
}

const containerdConfig = `version = 2
root  = "/run/containerd-root"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "%[2]s"
[ttrpc]
  address = "%[2]s.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "%[3]s"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir  = "%[4]s"
    conf_dir = "%[1]s/cni"
`

const cniConfig = `{"cniVersion":"0.4.0","name":"hyvve","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"/run/cni-addresses","ranges":[[{"subnet":"` + podRange + `"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
`

// startContainerd starts it, with the image that every pod stands on.
func (n *Node) startContainerd(ctx context.Context) error {
	root := Tool("tools", "kubernetes-root")
	cni := filepath.Join(n.dir, "cni")
	if err := os.Mkdir(cni, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(cni, "10-hyvve.conflist"), []byte(cniConfig), 0o600); err != nil {
		return err
	}
	config := filepath.Join(n.dir, "containerd.toml")
	text := fmt.Sprintf(containerdConfig, n.dir, n.containerd, filepath.Join(root, "usr/sbin/runc"), filepath.Join(root, "usr/lib/cni"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	if err := n.part("containerd", "--config="+config); err != nil {
		return err
	}
	if err := until(ctx, "containerd", func(ctx context.Context) error { return n.ctr(ctx, "version") }); err != nil {
		return err
	}
	return n.BuildImage(ctx, pauseImage, Tool("bin", "hyvve-pause"))
}

// ctr is containerd's own command.
func (n *Node) ctr(ctx context.Context, args ...string) error {
	path, err := kubernetesTool("ctr")
	if err != nil {
		return err
	}
	return n.inside(spec{name: "ctr " + strings.Join(args, " "), path: path, args: append([]string{"--address=" + n.containerd, "--namespace=k8s.io"}, args...)}).run(ctx)
}

// startControllers starts the controllers, the scheduler, the kubelet and the proxy of Services.
func (n *Node) startControllers() error {
	controllers, err := n.partClient("system:kube-controller-manager")
	if err != nil {
		return err
	}
	if err := n.part("kube-controller-manager", "--kubeconfig="+controllers, "--authentication-kubeconfig="+controllers, "--authorization-kubeconfig="+controllers,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file="+n.signer, "--root-ca-file="+n.CAFile,
		"--node-monitor-period=1s", "--concurrent-deployment-syncs=5"); err != nil {
		return err
	}
	scheduler, err := n.partClient("system:kube-scheduler")
	if err != nil {
		return err
	}
	if err := n.part("kube-scheduler", "--kubeconfig="+scheduler, "--authentication-kubeconfig="+scheduler, "--authorization-kubeconfig="+scheduler,
		"--bind-address=127.0.0.1", "--leader-elect=false"); err != nil {
		return err
	}
	if err := n.startKubelet(); err != nil {
		return err
	}
	proxy, err := n.partClient("system:kube-proxy")
	if err != nil {
		return err
	}
	return n.part("kube-proxy", "--kubeconfig="+proxy, "--proxy-mode=nftables", "--hostname-override="+nodeName, "--cluster-cidr="+podRange,
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--metrics-bind-address=127.0.0.1:10249", "--healthz-bind-address=127.0.0.1:10256", "--iptables-min-sync-period=100ms", "--nodeport-addresses=127.0.0.0/8")
}

// RestartKubelet kills the kubelet and starts it again. Pods run on meanwhile.
func (n *Node) RestartKubelet() error {
	n.kubelet.kill()
	return n.startKubelet()
}

func (n *Node) startKubelet() error {
	client, err := n.partClient("system:node:"+nodeName, "system:nodes")
	if err != nil {
		return err
	}
	authority, err := n.bed.Authority()
	if err != nil {
		return err
	}
	serving, err := authority.server(nodeName, nil, net.ParseIP(NodeAddress))
	if err != nil {
		return err
	}
	config := filepath.Join(n.dir, "kubelet.json")
	text, err := json.Marshal(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": NodeAddress, "healthzBindAddress": "127.0.0.1",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": authority.File},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		"tlsCertFile":   serving.CertFile, "tlsPrivateKeyFile": serving.KeyFile,
		"containerRuntimeEndpoint": "unix://" + n.containerd,
		"cgroupDriver":             "cgroupfs", "cgroupRoot": "/" + n.name, "failCgroupV1": false, "failSwapOn": false, "makeIPTablesUtilChains": false,
		"localStorageCapacityIsolation": false, "resolvConf": "", "registerWithTaints": []any{},
		"evictionHard":                map[string]any{"memory.available": "1Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"nodeStatusUpdateFrequency": "2s", "maxPods": 110,
		"podLogsDir": filepath.Join(n.dir, "pods"), "volumePluginDir": filepath.Join(n.dir, "volume-plugins"),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return err
	}
	return n.part("kubelet", "--config="+config, "--kubeconfig="+client, "--root-dir="+filepath.Join(n.dir, "kubelet"), "--hostname-override="+nodeName, "--node-ip="+NodeAddress)
}

// pauseImage is what every pod stands on.
const pauseImage = "registry.local/pause:1"

// BuildImage makes an image of a static program by hyvve-images, as the project's own are made, and lets the node have it. It runs the
// program, as user 65532; flags are further ones of hyvve-images. The program is at /usr/local/bin, and for short at /NAME, too.
func (n *Node) BuildImage(ctx context.Context, name, program string, flags ...string) error {
	if err := n.buildImage(ctx, name, program, flags); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return nil
}

func (n *Node) buildImage(ctx context.Context, name, program string, flags []string) error {
	images := Tool("bin", "hyvve-images")
	if !exists(images) {
		return errors.New("no hyvve-images: run make build (make test-k8s does)")
	}
	dir, err := os.MkdirTemp(n.dir, "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it goes with the bed
	archive := filepath.Join(dir, "archive.tar")
	args := append([]string{"--name=" + name, "--output=" + archive}, flags...)
	build := spec{name: "hyvve-images", path: images, args: append(args, program), env: os.Environ(), dir: dir}
	if err := build.run(ctx); err != nil {
		return err
	}
	return n.LoadImage(ctx, archive)
}

// LoadImage lets the node have the images of an archive, one of Docker's or an OCI layout in a tar file.
func (n *Node) LoadImage(ctx context.Context, path string) error {
	return n.ctr(ctx, "images", "import", path)
}

// Rollout waits until a rollout is done, such as that of deployment/api.
func (n *Node) Rollout(ctx context.Context, namespace, what string) error {
	_, err := n.Kubectl(ctx, "", "-n", namespace, "rollout", "status", what, "--timeout=120s")
	if err == nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	pods, _ := n.Kubectl(ctx, "", "-n", namespace, "get", "pods", "-o", "wide")
	events, _ := n.Kubectl(ctx, "", "-n", namespace, "get", "events", "--sort-by=.lastTimestamp", "-o", "custom-columns=O:.involvedObject.name,R:.reason,M:.message")
	if lines := strings.Split(events, "\n"); len(lines) > 30 {
		events = strings.Join(lines[len(lines)-30:], "\n")
	}
	said := ""
	if all, err := n.Pods(ctx, namespace, ""); err == nil {
		for _, p := range all {
			if !p.Ready {
				text, _ := n.Kubectl(ctx, "", "-n", namespace, "logs", p.Name, "--all-containers", "--prefix", "--tail=10")
				said += text
			}
		}
	}
	return fmt.Errorf("%w\n%s\n%s\n%s", err, pods, events, said)
}

// Pod is what is known of one that runs.
type Pod struct {
	Name, IP string
	Ready    bool
	Ending   bool // it was asked to end
	Restarts map[string]int
	IDs      map[string]string // of its containers, at containerd
}

// Pods returns those of a namespace that a selector, such as app=api, finds.
func (n *Node) Pods(ctx context.Context, namespace, selector string) ([]Pod, error) {
	type status struct {
		Name, ContainerID string
		RestartCount      int
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp *string
			}
			Status struct {
				PodIP                                    string
				Conditions                               []struct{ Type, Status string }
				ContainerStatuses, InitContainerStatuses []status
			}
		}
	}
	if err := n.Do(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+selector, nil, &list); err != nil {
		return nil, err
	}
	var pods []Pod
	for _, item := range list.Items {
		p := Pod{Name: item.Metadata.Name, IP: item.Status.PodIP, Ending: item.Metadata.DeletionTimestamp != nil, Restarts: map[string]int{}, IDs: map[string]string{}}
		for _, c := range item.Status.Conditions {
			p.Ready = p.Ready || c.Type == "Ready" && c.Status == "True"
		}
		for _, s := range append(item.Status.ContainerStatuses, item.Status.InitContainerStatuses...) {
			p.Restarts[s.Name], p.IDs[s.Name] = s.RestartCount, strings.TrimPrefix(s.ContainerID, "containerd://")
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// PodIP returns a pod's address.
func (n *Node) PodIP(ctx context.Context, namespace, pod string) (string, error) {
	var answer struct {
		Status struct{ PodIP string }
	}
	if err := n.Do(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods/"+pod, nil, &answer); err != nil {
		return "", err
	}
	if answer.Status.PodIP == "" {
		return "", fmt.Errorf("pod %s has no address yet", pod)
	}
	return answer.Status.PodIP, nil
}

// Logs returns what a container has said.
func (n *Node) Logs(ctx context.Context, namespace, pod, container string) (string, error) {
	return n.Kubectl(ctx, "", "-n", namespace, "logs", pod, "-c", container)
}

// Exec runs a program in a container.
func (n *Node) Exec(ctx context.Context, namespace, pod, container string, args ...string) (string, error) {
	return n.Kubectl(ctx, "", append([]string{"-n", namespace, "exec", pod, "-c", container, "--"}, args...)...)
}

// KillContainer ends a container's processes as a crash would.
func (n *Node) KillContainer(ctx context.Context, namespace, pod, container string) error {
	pods, err := n.Pods(ctx, namespace, "")
	if err != nil {
		return err
	}
	for _, p := range pods {
		if id := p.IDs[container]; p.Name == pod && id != "" {
			return n.killByID(id)
		}
	}
	return fmt.Errorf("pod %s has no container %s that runs", pod, container)
}

// killByID finds the processes of a container by their group, whose name is the container's.
func (n *Node) killByID(id string) error {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return err
	}
	killed := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), id) {
			continue // it has ended meanwhile, or is another's
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/cgroup", &pid); err != nil {
			return err
		}
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed == 0 {
		return fmt.Errorf("container %s has no processes", id)
	}
	return nil
}

// Evict asks for a pod's eviction, as a drain of the node does. What its budget forbids is an [apierrors.StatusError] with code 429.
func (n *Node) Evict(ctx context.Context, namespace, pod string) error {
	body := json.RawMessage(fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q}}`, pod))
	return n.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+namespace+"/pods/"+pod+"/eviction", []byte(body), nil)
}

// network is a network namespace.
type network struct{ file *os.File }

// within does something on a thread that is in the network; sockets that it makes stay there. The thread is given up
// afterwards where it does not find its way back.
func (n network) within(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close() //nolint:errcheck // read only
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the cluster's network: %w", err)
			return
		}
		err = do()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// dial connects to an address of the network.
func (n network) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = n.within(func() error {
		conn, err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp4", address)
		return err
	})
	return conn, err
}

// listen listens at an address of the network.
func (n network) listen(ctx context.Context, address string) (l net.Listener, err error) {
	err = n.within(func() error {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", address)
		return err
	})
	return l, err
}
