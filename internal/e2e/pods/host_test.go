// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// host is what a kubelet and containerd change of a machine, if they are let.
func host(t *testing.T) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/ipv4/ip_forward",
	} {
		text, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			t.Fatal(err)
		}
		seen[name] = strings.TrimSpace(string(text))
	}
	for _, path := range []string{"/var/lib/kubelet", "/var/lib/cni", "/run/containerd", "/var/log/containers", "/var/log/pods", "/etc/cni"} {
		_, err := os.Stat(path)
		seen[path] = strconv.FormatBool(err == nil)
	}
	return seen
}

// leftOf gives what is left of a process's nodes: mounts below its bed, groups of processes, processes.
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

// A node leaves nothing behind and changes nothing of its machine, also when the process that has started it is killed.
func TestNothingIsLeft(t *testing.T) {
	needsNode(t)
	before := host(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	holder := exec.Command(self)
	holder.Env, holder.Stderr = append(os.Environ(), holding+"=1"), os.Stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	dir := strings.TrimSpace(line)
	if err != nil || dir == "" {
		t.Fatalf("the holder says %q (%v)", line, err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if len(leftOf(t, holder.Process.Pid, dir)) < 5 {
		t.Fatal("nothing is to be seen of a node that runs: this test sees nothing")
	}
	if now := host(t); !same(before, now) {
		t.Errorf("while a node runs, the machine is %v, and was %v", now, before)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	await(t, "a killed node to be gone", func() bool { return len(leftOf(t, holder.Process.Pid, dir)) == 0 })
	if now := host(t); !same(before, now) {
		t.Errorf("afterwards the machine is %v, and was %v", now, before)
	}
}

func same(a, b map[string]string) bool {
	for name, value := range a {
		if b[name] != value {
			return false
		}
	}
	return len(a) == len(b)
}
