// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const held = `
apiVersion: v1
kind: Pod
metadata: {name: held, namespace: default}
spec:
  volumes: [{name: memory, emptyDir: {medium: Memory}}]
  containers:
  - name: app
    image: ` + busyboxImage + `
    command: [/busybox, sleep, "1000000"]
    volumeMounts: [{name: memory, mountPath: /memory}]
`

// hold starts a node with a pod, says its bed's directory, and closes it when its standard input ends.
func hold() error {
	ctx := context.Background()
	b, err := bed.New("held", nil)
	if err != nil {
		return err
	}
	n, err := b.Node(ctx)
	if err != nil {
		return err
	}
	if err := buildBusybox(ctx, n); err != nil {
		return err
	}
	if err := n.Apply(ctx, held); err != nil {
		return err
	}
	if _, err := n.Kubectl(ctx, "", "wait", "--for=condition=Ready", "pod/held", "--timeout=120s"); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, b.Dir)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return b.Close()
}

// kernelParameters are what a kubelet, kube-proxy or a network plugin sets, if it is let.
var kernelParameters = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	"net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv4/conf/all/route_localnet", "net/ipv4/conf/all/arp_ignore", "net/ipv4/vs/conntrack",
	"net/bridge/bridge-nf-call-iptables", "net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_tcp_timeout_established", "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
}

// host is what of a machine a cluster changes, if it is let: kernel parameters, directories, mounts, network devices and routes,
// groups of processes.
func host(t *testing.T) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, name := range kernelParameters {
		text, _ := os.ReadFile(filepath.Join("/proc/sys", name)) // not every kernel has each
		seen[name] = string(text)
	}
	for _, path := range []string{"/var/lib/kubelet", "/var/lib/cni", "/var/lib/containerd", "/run/containerd", "/run/netns", "/var/log/containers", "/var/log/pods", "/etc/cni", "/opt/cni"} {
		entries, err := os.ReadDir(path)
		seen[path] = fmt.Sprint(entries, os.IsNotExist(err))
	}
	for _, path := range []string{"/proc/self/mounts", "/proc/net/route", "/proc/modules"} {
		text, _ := os.ReadFile(path)
		seen[path] = string(text)
	}
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		seen["devices"] += device.Name + " " + device.Flags.String() + "\n"
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/*/", "/sys/fs/cgroup/*/"} {
		groups, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		groups = slices.DeleteFunc(groups, func(group string) bool { return strings.Contains(group, "/hyvve-") }) // leftOf looks for ours
		seen["groups "+pattern] = strings.Join(groups, "\n")
	}
	return seen
}

// leftOf returns what is left of a process's nodes: mounts below its bed, groups of processes, processes.
func leftOf(t *testing.T, pid int, dir string) (left []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			left = append(left, strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/hyvve-node-*-", "/sys/fs/cgroup/*/hyvve-node-*-"} {
		groups, err := filepath.Glob(pattern + strconv.Itoa(pid))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, groups...)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), dir) {
			left = append(left, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return left
}

// A node leaves nothing behind and changes nothing of its machine, also when the process that has started it is killed. When the
// keeper is killed, too, groups of processes are left until the next node starts.
func TestNothingIsLeft(t *testing.T) {
	needsNode(t)
	var earlier *heldNode
	for _, c := range []struct {
		name string
		end  func(*heldNode) error
	}{
		{"killed with its keeper", (*heldNode).killAll},
		{"killed", (*heldNode).kill},
		{"closed", (*heldNode).close},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := host(t)
			h := holdElsewhere(t)
			if earlier != nil && len(earlier.left(t)) > 0 {
				t.Errorf("of the node before there is still %q", earlier.left(t))
			}
			earlier = h
			if left := h.left(t); len(left) < 10 {
				t.Fatalf("of a node that runs, no more is to be seen than %q: this test sees nothing", left)
			}
			compare(t, "while a node runs", before, host(t))
			if err := c.end(h); err != nil {
				t.Fatal(err)
			}
			await(t, "all of the node to be gone", func() bool {
				return !slices.ContainsFunc(h.left(t), func(what string) bool {
					return c.name != "killed with its keeper" || !strings.HasPrefix(what, "/sys/fs/cgroup/")
				})
			})
			compare(t, "afterwards", before, host(t))
			if _, err := os.Stat(h.dir); c.name == "closed" && !os.IsNotExist(err) {
				t.Errorf("%s is still there (%v)", h.dir, err)
			}
		})
	}
}

// heldNode is a node that another process of this binary holds.
type heldNode struct {
	process *exec.Cmd
	input   io.Closer
	dir     string // of its bed
}

// left is what there is of it.
func (h *heldNode) left(t *testing.T) []string {
	t.Helper()
	return leftOf(t, h.process.Process.Pid, h.dir)
}

func (h *heldNode) close() error { return errors.Join(h.input.Close(), h.process.Wait()) }

func (h *heldNode) kill() error {
	if err := h.process.Process.Kill(); err != nil {
		return err
	}
	_ = h.process.Wait() // killed
	return nil
}

// killAll kills first what would clean up: scripts/node outside of the namespaces.
func (h *heldNode) killAll() error {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	killed := 0
	for _, path := range lines {
		text, err := os.ReadFile(path)
		args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		if err != nil || len(args) != 5 || !strings.HasSuffix(args[1], "/scripts/node") || filepath.Dir(args[2]) != h.dir {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
		killed++
	}
	if killed != 1 {
		return fmt.Errorf("%d keepers were found, not one", killed)
	}
	return h.kill()
}

func holdElsewhere(t *testing.T) *heldNode {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := &heldNode{process: exec.Command(self)}
	h.process.Env, h.process.Stderr = append(os.Environ(), holding+"=1"), os.Stderr
	if h.input, err = h.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.process.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if h.dir = strings.TrimSpace(line); err != nil || h.dir == "" {
		t.Fatalf("the holder says %q (%v)", line, err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(h.dir) })
	return h
}

func compare(t *testing.T, when string, before, now map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if before[name] != now[name] {
			t.Errorf("%s, %s is\n%s\nand was\n%s", when, name, now[name], before[name])
		}
	}
}

// Where a machine lacks what a node takes, one line says what, and that is no failure.
func TestWithoutNamespaces(t *testing.T) {
	needsNode(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("setpriv", "--bounding-set=-sys_admin", self).CombinedOutput()
	if want := "test-k8s: SKIPPED, nothing was tested in pods: the kernel lets us have no namespaces of our own\n"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("%q (%v)", out, err)
	}
}
