// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	podRounds   = 7
	podLook     = time.Second // of the kubelet at containers
	barPodDelay = 1500        // ms
	podSidecar  = "registry.local/hyvve-sidecar:bench"
	podApp      = "registry.local/busybox:bench"
)

// podsStart measures how much later a pod's container starts with a sidecar that has to bring its keys first: from when the pod
// is made until Kubernetes says that all its containers run, in pods that are the same otherwise.
func podsStart(ctx context.Context, p *place) ([]Result, error) {
	if err := bed.CanRunNode(); err != nil {
		_, _ = fmt.Fprintf(p.log, "  pod-start-delay is not measured: %v\n", err)
		return nil, nil
	}
	node, err := p.Node(ctx)
	if err != nil {
		return nil, err
	}
	for image, program := range map[string]string{podSidecar: bed.Tool("bin", "hyvve-sidecar"), podApp: bed.Tool("tools", "kubernetes-root", "bin", "busybox")} {
		if err := node.BuildImage(ctx, image, program); err != nil {
			return nil, err
		}
	}
	options, err := p.podsLogIn(ctx, node)
	if err != nil {
		return nil, err
	}
	names, sides := []string{"pod-start-delay", "pod-start-delay-hook"}, []string{"", "startup-probe", "post-start"}
	taken := make([][]time.Duration, len(sides))
	for round := -1; round < podRounds; round++ {
		for n, gate := range sides {
			// Pods come at any moment between two looks of the kubelet; to make each one when the one before was seen would be the worst, always.
			time.Sleep(time.Duration(max(round, 0)) * podLook / podRounds)
			took, err := startPod(ctx, node, fmt.Sprintf("pod-%d-%d", round+1, n), gate, options)
			if err != nil {
				return nil, err
			}
			if round >= 0 { // the first ones find no image unpacked
				taken[n] = append(taken[n], took)
			}
		}
	}
	var all []Result
	for n, name := range names {
		r := alone(name, median(taken[n+1])-median(taken[0]))
		all = append(all, r.within(barPodDelay))
	}
	_, _ = fmt.Fprintf(p.log, "  a pod starts in %.0f ms with the sidecar, in %.0f ms with its hook, in %.0f ms without\n", ms(median(taken[1])), ms(median(taken[2])), ms(median(taken[0])))
	return all, nil
}

// podsLogIn lets pods of the namespace default log in to Vault, and returns what they are injected by.
func (p *place) podsLogIn(ctx context.Context, n *bed.Node) (inject.Options, error) {
	o := inject.Options{Image: podSidecar, ImagePullPolicy: "Never"}
	var err error
	if o.VaultAddress, err = n.ExposeAddress(p.vault.Addr); err != nil {
		return o, err
	}
	if err := p.vault.KubernetesAuth(ctx, n.Kubernetes, "kubernetes"); err != nil {
		return o, err
	}
	if err := p.vault.Client.Sys().PutPolicyWithContext(ctx, benchLoad, fmt.Sprintf("path \"%s/*\" { capabilities = [\"read\", \"update\"] }\n", bed.Mount)); err != nil {
		return o, err
	}
	_, err = p.vault.Client.Logical().WriteWithContext(ctx, "auth/kubernetes/role/"+benchLoad, map[string]any{
		"bound_service_account_names": "default", "bound_service_account_namespaces": "default", "audience": bed.VaultAudience, "token_policies": benchLoad,
	})
	return o, err
}

// startPod makes a pod that is held back by a gate, or has no sidecar, and returns how long it took until it ran. It is removed then.
func startPod(ctx context.Context, n *bed.Node, name, gate string, o inject.Options) (time.Duration, error) {
	annotations := map[string]string{}
	if gate != "" {
		annotations = map[string]string{"hyvve.app/inject": "true", "hyvve.app/workload": benchLoad, "hyvve.app/start-gate": gate}
	}
	raw, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "annotations": annotations},
		"spec": map[string]any{
			"terminationGracePeriodSeconds": 0,
			"containers": []any{map[string]any{
				"name": "app", "image": podApp, "imagePullPolicy": "Never", "command": []string{"/busybox", "sleep", "3600"}, "securityContext": map[string]any{"runAsUser": 1000},
			}},
		},
	})
	if err == nil && gate != "" {
		raw, err = patchedPod(o, raw)
	}
	if err != nil {
		return 0, err
	}
	const pods = "/api/v1/namespaces/default/pods"
	begun := time.Now()
	if err := n.Do(ctx, http.MethodPost, pods, raw, nil); err != nil {
		return 0, err
	}
	if err := awaitRunning(ctx, n, pods+"/"+name); err != nil {
		return 0, err
	}
	took := time.Since(begun)
	return took, n.Do(ctx, http.MethodDelete, pods+"/"+name+"?gracePeriodSeconds=0", nil, nil)
}

func patchedPod(o inject.Options, raw []byte) ([]byte, error) {
	operations, err := o.Patch(raw, "default")
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(operations)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	return patch.Apply(raw)
}

func awaitRunning(ctx context.Context, n *bed.Node, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		var pod struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
		if err := n.Do(ctx, http.MethodGet, path, nil, &pod); err != nil {
			return err
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not run: %w", path, ctx.Err())
		case <-ticker.C:
		}
	}
}
