// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

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
