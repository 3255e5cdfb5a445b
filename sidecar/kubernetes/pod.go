// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// podState is what shows whether a pod continues.
type podState struct {
	Metadata struct {
		DeletionTimestamp string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		RestartPolicy string         `json:"restartPolicy"`
		Containers    []podContainer `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase             string `json:"phase"`
		ContainerStatuses []struct {
			Name  string `json:"name"`
			State struct {
				Terminated *struct {
					ExitCode int `json:"exitCode"`
				} `json:"terminated"`
			} `json:"state"`
		} `json:"containerStatuses"`
	} `json:"status"`
}

type podContainer struct {
	Name               string `json:"name"`
	RestartPolicy      string `json:"restartPolicy"`
	RestartPolicyRules []any  `json:"restartPolicyRules"`
}

// Ending reports whether a pod is deleted, or all of its containers have ended and are not started again, as those of a Job. Its
// native sidecars run on then until the kubelet ends them.
func (c *Client) Ending(ctx context.Context, namespace, name string) (bool, error) {
	var pod podState
	err := c.do(ctx, request{
		method: http.MethodGet, path: "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(name),
		what: fmt.Sprintf("pod %q in namespace %q", name, namespace), rule: rule{verb: "get", resource: "pods", namespace: namespace},
	}, &pod)
	return err == nil && pod.ending(), err
}

func (p podState) ending() bool {
	if p.Metadata.DeletionTimestamp != "" || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return true
	}
	return len(p.Spec.Containers) > 0 && !slices.ContainsFunc(p.Spec.Containers, p.goesOn)
}

// goesOn reports whether a container runs, or may run again. By rules, one may start others as well.
func (p podState) goesOn(c podContainer) bool {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name != c.Name || s.State.Terminated == nil || len(c.RestartPolicyRules) > 0 {
			continue
		}
		switch cmp.Or(c.RestartPolicy, p.Spec.RestartPolicy) {
		case "Never":
			return false
		case "OnFailure":
			return s.State.Terminated.ExitCode != 0
		}
	}
	return true
}
