// SPDX-License-Identifier: Apache-2.0

// Package inject puts the sidecar into pods that ask for it by annotations. It changes a typed copy of a pod and knows
// nothing of how the pod came here: webhook does.
package inject

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// Domain is that of all annotations of ours.
const Domain = "hyvve.app"

// Options are what holds for all pods of a cluster, where their annotations do not say otherwise.
type Options struct {
	Image           string // of the sidecar
	ImagePullPolicy string // Always, IfNotPresent or Never; empty: as Kubernetes chooses
	VaultAddress    string // URL, or those of a cluster's nodes with commas between them
	VaultNamespace  string
	VaultMount      string // of the engine; hyvve if empty
	AuthMount       string // of Vault's kubernetes method; kubernetes if empty
	Audience        string // of the projected tokens; vault if empty
	CAConfigMap     string // in the pod's own namespace, with the authority of Vault's certificate as ca.crt; empty: none

	Locked []string // names of annotations, without the domain, that pods must not set
}

// Lockable are the names of the annotations that may be locked. Without the others nothing can be injected.
func Lockable() (names []string) {
	for _, a := range table() {
		if !slices.Contains([]string{injectName, injectedName, workloadName}, a.name) {
			names = append(names, a.name)
		}
	}
	return names
}

// LockedByDefault decide which program runs with a pod's identity, and to whom that identity is shown.
func LockedByDefault() []string { return []string{"image", "vault-addr", "audience", "mount"} }

// ErrNotWanted says that a pod does not ask for a sidecar.
var ErrNotWanted = errors.New("the pod does not ask for a sidecar")

// Validate refuses options by which no sidecar could work.
func (o Options) Validate() error {
	var errs []error
	if o.Image == "" {
		errs = append(errs, errors.New("image is missing; name that of the sidecar"))
	}
	if _, err := pullPolicy(o.ImagePullPolicy); err != nil {
		errs = append(errs, fmt.Errorf("image pull policy: %w", err))
	}
	for _, name := range o.Locked {
		if !slices.Contains(Lockable(), name) {
			errs = append(errs, fmt.Errorf("locked: %q is no annotation that can be locked%s", name, usage.DidYouMean(name, Lockable())))
		}
	}
	if o.VaultAddress == "" {
		errs = append(errs, errors.New("vault address is missing; write it as pods reach it, such as https://vault.vault:8200"))
	} else if strings.Contains(o.VaultAddress, "@") {
		errs = append(errs, errors.New("vault address holds a user or a password, which would stand in every pod; take it out"))
	} else if _, err := client.Addresses(o.VaultAddress); err != nil {
		errs = append(errs, fmt.Errorf("vault address: %w", err))
	}
	if len(errs) == 0 { // the rest is what a sidecar would make of it
		_, err := o.parse(map[string]string{Domain + "/" + injectName: "true", Domain + "/" + workloadName: "any"})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Inject puts the sidecar into a pod of a namespace, which the pod itself may not name yet. It returns ErrNotWanted if there was
// nothing to do. Any other error is for the pod's author, says what to write instead, and leaves the pod as it was.
// What is injected already is made again, so that a second call changes nothing, and containers added in between get
// their keys, too.
func (o Options) Inject(pod *corev1.Pod, namespace string) error {
	s, err := o.parse(pod.Annotations)
	if err != nil {
		return err
	}
	changed := pod.DeepCopy()
	saw := whoSees(changed)
	if err := withdraw(changed); err != nil {
		return err
	}
	p := plan{settings: s, pod: changed, namespace: namespace, saw: saw}
	if err := p.check(); err != nil {
		return err
	}
	if err := p.apply(); err != nil {
		return err
	}
	if pod.Annotations[Domain+"/"+injectedName] != "" {
		keepOrder(pod, changed, s.initToo)
	}
	*pod = *changed
	return nil
}
