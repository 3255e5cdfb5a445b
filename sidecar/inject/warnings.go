// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// warnings are what the pod's author should know, of a pod that can be served.
func (p *plan) warnings() []string {
	if p.asks || p.file.OnStop == config.OnStopLeave || p.file.Ending() != config.EndUnseen {
		return nil
	}
	return []string{fmt.Sprintf("hyvve: the sidecar will not know that the pod has ended, and each end holds rotations up for lease_ttl. Let service account %.40s get pods (podReaders of the chart), or set %s/health and its port", p.account(), Domain)}
}

// account is the pod's service account, as NAMESPACE/NAME.
func (p *plan) account() string {
	return p.namespace + "/" + cmp.Or(p.pod.Spec.ServiceAccountName, "default")
}

// apiToken is what pods have to speak with the API server. Kubernetes puts it into containers that come later, too, and the injector
// takes it out again where it makes its container once more; so that it is the injector's own, and only where it is needed.
func apiToken() corev1.Volume {
	life := int64(3600)
	return corev1.Volume{Name: apiVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &life, Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
		}},
	}}}}
}
