// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	_ "embed" // for rbac.yaml
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
)

// RBAC is what replicas may do that make their certificates themselves, for the names that the command has by default and the
// namespace hyvve: no more, and no less.
//
//go:embed rbac.yaml
var RBAC string

// WebhookName is that of the webhook in its configuration; refusals begin with it.
const WebhookName = "inject.hyvve.app"

const timeout = 10 // seconds for which an API server waits

// Wanted reports, in CEL, whether a pod asks for a sidecar. No other pod depends on the webhook. A pod with a misspelt annotation
// of ours does, so that the webhook can refuse it and say so.
const Wanted = "has(object.metadata.annotations) && object.metadata.annotations.exists(name, name.startsWith('" + inject.Domain + "/'))"

// Configuration returns the configuration of a webhook behind a service, without caBundle, which the replicas set.
// It needs Kubernetes 1.30.
func Configuration(name, namespace, service string) *admissionv1.MutatingWebhookConfiguration {
	fail, none, again, scope := admissionv1.Fail, admissionv1.SideEffectClassNone, admissionv1.IfNeededReinvocationPolicy, admissionv1.NamespacedScope
	equivalent := admissionv1.Equivalent
	seconds, port, path := int32(timeout), int32(443), Path
	return &admissionv1.MutatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "MutatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionv1.MutatingWebhook{{
			Name: WebhookName,
			ClientConfig: admissionv1.WebhookClientConfig{
				Service: &admissionv1.ServiceReference{Namespace: namespace, Name: service, Path: &path, Port: &port},
			},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: &scope},
			}},
			MatchPolicy: &equivalent,
			NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
				Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: []string{system, namespace},
			}}},
			MatchConditions:         []admissionv1.MatchCondition{{Name: "annotated", Expression: Wanted}},
			FailurePolicy:           &fail,
			SideEffects:             &none,
			ReinvocationPolicy:      &again,
			TimeoutSeconds:          &seconds,
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
}

// Names are what a serving certificate must be for, so that API servers take it of a service.
func Names(namespace, service string) []string {
	if namespace == "" || service == "" {
		return nil
	}
	return []string{fmt.Sprintf("%s.%s.svc", service, namespace), fmt.Sprintf("%s.%s", service, namespace)}
}
