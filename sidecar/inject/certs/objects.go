// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// objects reads and writes objects of one resource. The typed clients of client-go do the same, and link the types of all groups of
// Kubernetes, which is a third of the program.
type objects[T runtime.Object] struct {
	client    *rest.RESTClient
	resource  string
	namespace string // empty: the resource has none
	empty     func() T
}

// scheme has the types that are read and written, and no others.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Secret{}, &corev1.SecretList{})
	s.AddKnownTypes(coordinationv1.SchemeGroupVersion, &coordinationv1.Lease{})
	s.AddKnownTypes(admissionv1.SchemeGroupVersion, &admissionv1.MutatingWebhookConfiguration{}, &admissionv1.MutatingWebhookConfigurationList{})
	for _, group := range []schema.GroupVersion{corev1.SchemeGroupVersion, coordinationv1.SchemeGroupVersion, admissionv1.SchemeGroupVersion} {
		metav1.AddToGroupVersion(s, group)
	}
	return s
}()

func newObjects[T runtime.Object](config *rest.Config, group schema.GroupVersion, resource, namespace string, empty func() T) (o objects[T], err error) {
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &group, "/apis"
	if group.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	return objects[T]{client, resource, namespace, empty}, err
}

func (o objects[T]) do(ctx context.Context, r *rest.Request) (T, error) {
	object := o.empty()
	err := r.NamespaceIfScoped(o.namespace, o.namespace != "").Resource(o.resource).Do(ctx).Into(object)
	return object, err
}

// Get returns the object that has a name.
func (o objects[T]) Get(ctx context.Context, name string) (T, error) {
	return o.do(ctx, o.client.Get().Name(name))
}

// Create makes an object.
func (o objects[T]) Create(ctx context.Context, object T) (T, error) {
	return o.do(ctx, o.client.Post().Body(object))
}

// Update replaces an object, if nobody has written it since it was read.
func (o objects[T]) Update(ctx context.Context, name string, object T) (T, error) {
	return o.do(ctx, o.client.Put().Name(name).Body(object))
}

// Patch changes an object by a strategic merge patch.
func (o objects[T]) Patch(ctx context.Context, name string, patch []byte) (T, error) {
	return o.do(ctx, o.client.Patch(types.StrategicMergePatchType).Name(name).Param("fieldManager", "hyvve-injector").Body(patch))
}
