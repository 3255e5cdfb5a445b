// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
