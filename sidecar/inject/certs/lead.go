// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

const (
	recordKey  = "record.json"
	replicaKey = "replica." // and the replica's name
	leastLease = time.Second
)

// errOvertaken: somebody else has written since we have read; news of that are on their way.
var errOvertaken = errors.New("what is written was decided on something older than what is there")

func overtaken(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w: %w", errOvertaken, err)
	}
	return err
}

// elect stands for election for as long as ctx lasts.
func (m *Managed) elect(ctx context.Context) {
	e := election{leases: m.leases, namespace: m.o.Namespace, lease: m.o.Lease, replica: m.o.Replica, duration: m.o.LeaseDuration, log: m.log}
	e.run(ctx, func(leading bool) {
		if leading {
			m.log.Info("this replica makes the certificates from here on")
		}
		m.mu.Lock()
		m.leading = leading
		m.mu.Unlock()
		m.tell()
	})
}

// read takes the record and the replicas' words from a Secret.
func read(secret *corev1.Secret) (k known, err error) {
	k = known{version: secret.ResourceVersion, replicas: make(map[string]Presents)}
	for name, value := range secret.Data {
		if replica, ok := strings.CutPrefix(name, replicaKey); ok {
			var said Presents
			if json.Unmarshal(value, &said) == nil { // what is none counts as nothing said, and is said again
				k.replicas[replica] = said
			}
		}
	}
	if k.record, err = parseRecord(secret.Data[recordKey]); err != nil {
		return k, err
	}
	k.pair, err = k.record.pair()
	return k, err
}

// follow presents what the Secret wants presented, and says so there: before the first certificate, after each other one. So
// what is said is never newer than what is presented.
func (m *Managed) follow(ctx context.Context, secret *corev1.Secret, seen Seen, now time.Time) error {
	if secret == nil {
		return nil
	}
	if m.last.version != secret.ResourceVersion {
		k, err := read(secret)
		if err != nil {
			if m.spoiled != secret.ResourceVersion {
				m.spoiled = secret.ResourceVersion
				m.log.Error("the Secret with the certificates is spoiled; what was read before is kept", "secret", m.o.Secret, "error", err)
			}
			return nil
		}
		m.last = k
	}
	held := m.held.Load()
	p := choose(held, m.last.pair, seen, now)
	if p == nil {
		return nil
	}
	word := Presents{Authority: fingerprint(p.authority), Until: p.Leaf.NotAfter}
	if held == nil && m.last.replicas[m.o.Replica] != word {
		return m.say(ctx, secret, &word)
	}
	if held == nil || !held.Leaf.Equal(p.Leaf) {
		m.held.Store(p)
		m.log.Info("another certificate is presented", "authority", word.Authority, "expires", word.Until)
	}
	if m.last.replicas[m.o.Replica] != word {
		return m.say(ctx, secret, &word)
	}
	return nil
}

// say writes this replica's word, or takes it back.
func (m *Managed) say(ctx context.Context, secret *corev1.Secret, word *Presents) error {
	next := secret.DeepCopy()
	if word == nil {
		delete(next.Data, replicaKey+m.o.Replica)
	} else {
		data, err := json.Marshal(word)
		if err != nil {
			return err
		}
		if next.Data == nil {
			next.Data = make(map[string][]byte)
		}
		next.Data[replicaKey+m.o.Replica] = data
	}
	_, err := m.secrets.Update(ctx, m.o.Secret, next)
	return overtaken(err)
}

// Leave takes back this replica's word, so that no authority waits for it.
func (m *Managed) Leave(ctx context.Context) error {
	for {
		secret, err := m.secrets.Get(ctx, m.o.Secret)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, said := secret.Data[replicaKey+m.o.Replica]; !said {
			return nil
		}
		if err := m.say(ctx, secret, nil); !errors.Is(err, errOvertaken) {
			return err
		}
	}
}

// lead makes the next move, and says when there may be another one without news.
func (m *Managed) lead(ctx context.Context, secret *corev1.Secret, configuration *admissionv1.MutatingWebhookConfiguration, now time.Time) (time.Time, error) {
	if m.waits(secret, configuration) && now.Before(m.awaiting) {
		return m.awaiting, nil
	}
	record, seen := m.last.record, seenIn(configuration)
	seen.Replicas = m.last.replicas
	lost := secret == nil || m.last.version != secret.ResourceVersion // or spoiled
	move, err := m.o.Policy.Next(record, seen, now)
	if err != nil {
		return time.Time{}, err
	}
	if lost && len(record.Authorities) > 0 {
		move.Why = append([]string{"the Secret was lost or spoiled, and is made again as it was"}, move.Why...)
	}
	if len(move.Why)+len(move.Forget) > 0 {
		return time.Time{}, m.store(ctx, secret, move, lost, now)
	}
	if move.Rebundle {
		return time.Time{}, m.rebundle(ctx, secret, configuration, move.Bundle, now)
	}
	return move.Wake, nil
}

// waits reports whether what we have written ourselves is not to be seen yet.
func (m *Managed) waits(secret *corev1.Secret, configuration *admissionv1.MutatingWebhookConfiguration) bool {
	if m.awaited[0] != "" && secret != nil && secret.ResourceVersion == m.awaited[0] {
		m.awaited[0] = ""
	}
	if m.awaited[1] != "" && configuration != nil && configuration.ResourceVersion == m.awaited[1] {
		m.awaited[1] = ""
	}
	return m.awaited[0] != "" || m.awaited[1] != ""
}

// store writes the record, if the Secret is still the one that was decided on.
func (m *Managed) store(ctx context.Context, secret *corev1.Secret, move Move, lost bool, now time.Time) error {
	next := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: m.o.Namespace, Name: m.o.Secret}}
	if secret != nil {
		next = secret.DeepCopy()
	}
	if next.Data == nil {
		next.Data = make(map[string][]byte)
	}
	data, err := move.Record.encode()
	if err != nil {
		return err
	}
	next.Data[recordKey] = data
	if lost {
		said := make(map[string][]byte)
		for name, word := range m.last.replicas {
			if said[replicaKey+name], err = json.Marshal(word); err != nil {
				return err
			}
		}
		maps.Copy(next.Data, said)
	}
	for _, name := range move.Forget {
		delete(next.Data, replicaKey+name)
	}
	var written *corev1.Secret
	if secret == nil {
		written, err = m.secrets.Create(ctx, next)
	} else {
		written, err = m.secrets.Update(ctx, m.o.Secret, next)
	}
	if err != nil {
		return overtaken(err)
	}
	m.awaited[0], m.awaiting = written.ResourceVersion, now.Add(echoWait)
	for _, why := range move.Why {
		m.log.Info("certificates are changed", "why", why)
	}
	return nil
}

// rebundle sets caBundle of all webhooks, if nobody has written the configuration meanwhile. One that does not lead any more,
// and has not noticed, might take out the authority that its successor has put in: so it looks at the Secret once more. The
// patch names nothing but caBundle, so that fields which this program does not know are left as they are.
func (m *Managed) rebundle(ctx context.Context, secret *corev1.Secret, configuration *admissionv1.MutatingWebhookConfiguration, bundle []byte, now time.Time) error {
	switch current, err := m.secrets.Get(ctx, m.o.Secret); {
	case err != nil:
		return err
	case current.ResourceVersion != secret.ResourceVersion:
		return fmt.Errorf("caBundle: %w", errOvertaken)
	}
	type webhook struct {
		Name   string         `json:"name"`
		Client map[string]any `json:"clientConfig"`
	}
	webhooks := make([]webhook, 0, len(configuration.Webhooks))
	for _, w := range configuration.Webhooks {
		webhooks = append(webhooks, webhook{w.Name, map[string]any{"caBundle": bundle}})
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": configuration.ResourceVersion},
		"webhooks": webhooks,
	})
	if err != nil {
		return err
	}
	written, err := m.configurations.Patch(ctx, m.o.Configuration, patch)
	if err != nil {
		return overtaken(err)
	}
	m.awaited[1], m.awaiting = written.ResourceVersion, now.Add(echoWait)
	m.log.Info("caBundle is set", "configuration", m.o.Configuration, "authorities", len(certificatesIn(bundle)))
	return nil
}

// leases are those of a namespace.
type leases interface {
	Get(ctx context.Context, name string) (*coordinationv1.Lease, error)
	Create(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error)
	Update(ctx context.Context, name string, lease *coordinationv1.Lease) (*coordinationv1.Lease, error)
}

// election elects one replica by a Lease, as components of Kubernetes do. The package of client-go for it links every client and
// informer that there is. The leader renews the Lease. Once the Lease has not changed for its duration, as measured by another
// replica since it saw the Lease, that replica takes it. The leader gives up earlier than that: two thirds of the duration after the
// last renewal began. So no two replicas lead at the same time, unless a clock runs slower by a third.
type election struct {
	leases    leases
	namespace string
	lease     string
	replica   string
	duration  time.Duration
	log       *slog.Logger

	version string    // of the Lease that was seen last
	since   time.Time // when it was seen first
}

// run takes part in the election until ctx ends, and resigns then. It calls set with each change.
func (e *election) run(ctx context.Context, set func(leading bool)) {
	leading, until := false, time.Time{} // until when it leads if no renewal succeeds
	unknown := false                     // whether the last attempt has taken the Lease
	for ctx.Err() == nil {
		renewed := time.Now().Add(e.duration * 2 / 3)
		if !leading {
			until = renewed
		}
		trying, stop := context.WithDeadline(ctx, until)
		holds, err := e.attempt(trying)
		stop()
		if unknown = err != nil; unknown && ctx.Err() == nil {
			level := slog.LevelWarn
			if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
				level = slog.LevelDebug // another replica was faster
			}
			e.log.Log(ctx, level, "the Lease was not read or written; it is tried again", "lease", e.lease, "error", err)
		}
		if holds {
			until = renewed
		}
		if leads := (holds || leading && err != nil) && time.Now().Before(until); leads != leading {
			leading = leads
			set(leading)
		}
		wait := e.duration/6 + rand.N(e.duration/6) //nolint:gosec // so that not all replicas ask at once
		if leading {
			wait = min(e.duration/6, time.Until(until))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	if leading {
		set(false)
	}
	if leading || unknown {
		e.resign(ctx)
	}
}

// resign lets another replica take the Lease at once.
func (e *election) resign(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), e.duration*2/3)
	defer stop()
	for {
		lease, err := e.leases.Get(ctx, e.lease)
		if err != nil || holder(lease) != e.replica {
			return
		}
		lease.Spec.HolderIdentity = nil
		if _, err := e.leases.Update(ctx, e.lease, lease); !apierrors.IsConflict(err) {
			return
		}
	}
}

// holder returns the replica that a Lease names; empty: none.
func holder(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// attempt takes or renews the Lease, and reports whether this replica holds it. With an error, that is not known.
func (e *election) attempt(ctx context.Context) (bool, error) {
	lease, err := e.leases.Get(ctx, e.lease)
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: e.lease}}
		e.hold(lease)
		_, err = e.leases.Create(ctx, lease)
		return err == nil, err
	}
	if err != nil {
		return false, err
	}
	if lease.ResourceVersion != e.version {
		e.version, e.since = lease.ResourceVersion, time.Now()
	}
	if by, seconds := holder(lease), lease.Spec.LeaseDurationSeconds; by != "" && by != e.replica && seconds != nil && time.Since(e.since) < time.Duration(*seconds)*time.Second {
		return false, nil
	}
	e.hold(lease)
	_, err = e.leases.Update(ctx, e.lease, lease)
	return err == nil, err
}

// hold writes this replica into a Lease.
func (e *election) hold(lease *coordinationv1.Lease) {
	now, seconds, spec := metav1.NowMicro(), int32((e.duration+time.Second-1)/time.Second), &lease.Spec //nolint:gosec // minutes at most
	if holder(lease) != e.replica {
		transitions := int32(1)
		if spec.LeaseTransitions != nil {
			transitions += *spec.LeaseTransitions
		}
		spec.HolderIdentity, spec.AcquireTime, spec.LeaseTransitions = &e.replica, &now, &transitions
	}
	spec.RenewTime, spec.LeaseDurationSeconds = &now, &seconds
}

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
