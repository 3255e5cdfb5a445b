// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Controllers starts the real controller manager beside an API server that has none, with what makes pods of workloads and
// nothing else. It ends with the bed. There is no kubelet: PlayKubelet is.
func (k *Kubernetes) Controllers(ctx context.Context) error {
	path, err := kubernetesTool("kube-controller-manager")
	if err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	authority, err := k.bed.Authority()
	if err != nil {
		return err
	}
	serving, err := authority.server("kube-controller-manager", nil, net.IPv4(127, 0, 0, 1))
	if err != nil {
		return err
	}
	p, err := k.bed.start(spec{
		name: filepath.Base(k.dir) + "-controllers", path: path, dir: k.dir, stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
		args: []string{
			"--kubeconfig=" + k.Kubeconfig, "--authentication-kubeconfig=" + k.Kubeconfig, "--authorization-kubeconfig=" + k.Kubeconfig,
			"--controllers=deployment-controller,replicaset-controller,statefulset-controller", "--leader-elect=false",
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
			"--tls-cert-file=" + serving.CertFile, "--tls-private-key-file=" + serving.KeyFile,
		},
	})
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: authority.TLS()}}
	return p.await(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/healthz", port), http.NoBody)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close() //nolint:errcheck // nothing is read
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// PlayedPod is one that PlayKubelet says runs.
type PlayedPod struct {
	Metadata struct {
		Name        string
		Deletion    string `json:"deletionTimestamp"`
		Annotations map[string]string
	}
	Status struct{ Phase string }
}

// PlayKubelet says of each pod of a namespace that it runs and is ready, until the end that it returns is called. started is
// called with each before that, where pods would start, and may be nil.
func (k *Kubernetes) PlayKubelet(ctx context.Context, namespace string, started func(PlayedPod)) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var playing sync.WaitGroup
	playing.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			if err := k.startPods(ctx, namespace, started); err != nil && ctx.Err() == nil {
				k.bed.say("playing the kubelet: %v; the next look may do better", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
	return func() {
		cancel()
		playing.Wait()
	}
}

func (k *Kubernetes) startPods(ctx context.Context, namespace string, started func(PlayedPod)) error {
	var list struct{ Items []PlayedPod }
	path := "/api/v1/namespaces/" + namespace + "/pods"
	if err := k.Do(ctx, http.MethodGet, path, nil, &list); err != nil {
		return err
	}
	for _, p := range list.Items {
		if p.Status.Phase == "Running" || p.Metadata.Deletion != "" {
			continue
		}
		if started != nil {
			started(p)
		}
		now := time.Now().UTC().Format(time.RFC3339)
		err := k.Patch(ctx, path+"/"+p.Metadata.Name+"/status", "application/merge-patch+json", map[string]any{"status": map[string]any{
			"phase": "Running", "startTime": now,
			"conditions": []any{map[string]string{"type": "Ready", "status": "True", "lastTransitionTime": now}},
		}}, nil)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
