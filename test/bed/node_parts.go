// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
