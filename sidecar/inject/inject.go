// SPDX-License-Identifier: Apache-2.0

// Package inject puts the sidecar into pods that ask for it by annotations. It changes a typed copy of a pod and knows
// nothing of how the pod came here: webhook does.
package inject

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
)

// Domain is that of all annotations and labels of ours.
const Domain = "hyvve.app"

// Options are what holds for all pods of a cluster, where their annotations do not say otherwise.
type Options struct {
	Image        string // of the sidecar
	VaultAddress string // URL
	VaultMount   string // of the engine; hyvve
	AuthMount    string // of Vault's kubernetes method; kubernetes
	Audience     string // of the projected tokens; vault
}

// ErrNotWanted says that a pod does not ask for a sidecar.
var ErrNotWanted = errors.New("the pod does not ask for a sidecar")

// Inject puts the sidecar into pod, of a namespace that the pod itself may not name yet. ErrNotWanted says that there was
// nothing to do; any other error is for whoever has made the pod, and pod is as it was.
func (o Options) Inject(pod *corev1.Pod, namespace string) error {
	if pod.Annotations[Domain+"/inject"] != "true" {
		return ErrNotWanted
	}
	return errors.New("not there yet")
}
