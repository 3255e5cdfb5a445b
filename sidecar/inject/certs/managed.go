// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

// Options of certificates that the replicas make themselves.
type Options struct {
	Namespace     string        // of Secret and Lease
	Replica       string        // this one's name: the pod's
	Secret        string        // that keeps the record
	Lease         string        // that the replicas elect by
	Configuration string        // MutatingWebhookConfiguration whose caBundle is set
	LeaseDuration time.Duration // for which a leader that says nothing more is still one
	Policy        Policy
}

// Validate says what is wrong, by the names of the flags.
func (o Options) Validate() error {
	for _, f := range []struct{ flag, value, what string }{
		{"--namespace", o.Namespace, "the one that this runs in"},
		{"--replica", o.Replica, "the pod's name"},
		{"--secret", o.Secret, "the Secret that keeps the certificates"},
		{"--lease", o.Lease, "the Lease that replicas elect by"},
		{"--configuration", o.Configuration, "the MutatingWebhookConfiguration"},
	} {
		if f.value == "" {
			return fmt.Errorf("%s is missing: name %s, or give a certificate by --cert-dir", f.flag, f.what)
		}
	}
	if o.LeaseDuration < leastLease {
		return fmt.Errorf("--lease-duration: %s is too short to be renewed in time; write %s or more", o.LeaseDuration, leastLease)
	}
	return o.Policy.Validate()
}

// Managed is a certificate that the replicas make themselves. One of them, elected, makes the moves; all follow the Secret.
type Managed struct {
	Holder
	o              Options
	log            *slog.Logger
	clock          clock
	secrets        objects[*corev1.Secret]
	configurations objects[*admissionv1.MutatingWebhookConfiguration]
	leases         objects[*coordinationv1.Lease]
	watches        []cache.Controller
	news           chan struct{}

	mu            sync.Mutex // over what is seen
	secret        *corev1.Secret
	configuration *admissionv1.MutatingWebhookConfiguration
	leading       bool

	// Of the loop alone.
	last     known     // the last good record, from which a Secret that is lost or spoiled is made again
	awaited  [2]string // versions of Secret and configuration that we have written, and not seen yet
	awaiting time.Time // for no longer than this
	failures int
	spoiled  string // what was said last of a Secret that does not read
	status   Status // under mu
}

// known is what was read from a Secret.
type known struct {
	version  string // of the Secret
	record   Record
	replicas map[string]Presents
	pair     *Pair
}

// NewManaged prepares it; Run starts it.
func NewManaged(config *rest.Config, o Options, log *slog.Logger) (*Managed, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	m := &Managed{o: o, log: log, clock: clock{machine: time.Now}, news: make(chan struct{}, 1)}
	config = rest.CopyConfig(config)
	config.Wrap(m.clock.wrap)
	var errs [3]error
	m.secrets, errs[0] = newObjects(config, corev1.SchemeGroupVersion, "secrets", o.Namespace, func() *corev1.Secret { return new(corev1.Secret) })
	m.configurations, errs[1] = newObjects(config, admissionv1.SchemeGroupVersion, "mutatingwebhookconfigurations", "", func() *admissionv1.MutatingWebhookConfiguration {
		return new(admissionv1.MutatingWebhookConfiguration)
	})
	m.leases, errs[2] = newObjects(config, coordinationv1.SchemeGroupVersion, "leases", o.Namespace, func() *coordinationv1.Lease { return new(coordinationv1.Lease) })
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	m.watches = []cache.Controller{
		follow(m, m.secrets, o.Secret, func(secret *corev1.Secret) { m.secret = secret }),
		follow(m, m.configurations, o.Configuration, func(configuration *admissionv1.MutatingWebhookConfiguration) { m.configuration = configuration }),
	}
	return m, nil
}

// follow follows one object, by list and watch of its name alone, which is all that roles allow; see gets it, or nil.
func follow[T runtime.Object](m *Managed, all objects[T], name string, see func(T)) cache.Controller {
	seen := func(object any) {
		is, _ := object.(T)
		m.mu.Lock()
		see(is)
		m.mu.Unlock()
		m.tell()
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(all.client, all.resource, all.namespace, fields.OneTermEqualSelector(metav1.ObjectNameField, name)),
		ObjectType:    all.empty(),
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: seen, UpdateFunc: func(_, object any) { seen(object) }, DeleteFunc: func(any) { seen(nil) },
		},
	})
	return controller
}

// tell wakes the loop.
func (m *Managed) tell() {
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// Run makes and follows certificates until ctx ends.
func (m *Managed) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for _, w := range m.watches {
		group.Go(func() { w.RunWithContext(ctx) })
	}
	if !cache.WaitForCacheSync(ctx.Done(), m.watches[0].HasSynced, m.watches[1].HasSynced) {
		return nil
	}
	group.Go(func() { m.elect(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.news:
		case <-timer.C:
		}
		timer.Reset(m.turn(ctx))
	}
}

const (
	maxWait  = time.Minute     // between two looks at the clock, which may be set
	echoWait = 2 * time.Second // for a watch to show what was written
)

var retry = backoff.Backoff{First: 250 * time.Millisecond, Limit: 30 * time.Second}

// turn does what is to be done now, and says when to look again without news.
func (m *Managed) turn(ctx context.Context) time.Duration {
	m.mu.Lock()
	secret, configuration, leading := m.secret, m.configuration, m.leading
	m.mu.Unlock()
	now := m.clock.now()
	seen := seenIn(configuration)
	err := m.follow(ctx, secret, seen, now)
	wake := now.Add(maxWait)
	if err == nil && leading {
		var next time.Time
		if next, err = m.lead(ctx, secret, configuration, now); !next.IsZero() && next.Before(wake) {
			wake = next
		}
	}
	m.note(leading)
	switch {
	case err == nil || ctx.Err() != nil:
		m.failures = 0
		return max(wake.Sub(m.clock.now()), time.Millisecond)
	case errors.Is(err, errOvertaken):
		m.log.Debug("somebody else was faster", "error", err)
		return retry.First
	}
	m.failures++
	back := retry.After(m.failures)
	m.log.Warn("certificates are not as they should be; it is tried again", "error", err, "in", back)
	return back
}

func (m *Managed) note(leading bool) {
	s := Status{Leading: leading, Authorities: len(m.last.record.Authorities), Expires: m.Expires()}
	if a := m.last.record.newest(); a != nil {
		s.Generation, s.CAExpires = a.Generation, a.parsed.NotAfter
	}
	m.mu.Lock()
	m.status = s
	m.mu.Unlock()
}

// Status tells how it stands.
func (m *Managed) Status(time.Time) Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// Ready says why API servers would not take the certificate now.
func (m *Managed) Ready(time.Time) error {
	if err := m.Holder.Ready(m.clock.now()); err != nil {
		return err
	}
	m.mu.Lock()
	seen := seenIn(m.configuration)
	m.mu.Unlock()
	if len(seen.Bundles) == 0 {
		return fmt.Errorf("there is no MutatingWebhookConfiguration %s with a webhook; apply it", m.o.Configuration)
	}
	if !seen.holds(m.held.Load().authority) {
		return fmt.Errorf("caBundle of MutatingWebhookConfiguration %s does not hold the authority of the serving certificate yet", m.o.Configuration)
	}
	return nil
}

func seenIn(configuration *admissionv1.MutatingWebhookConfiguration) (s Seen) {
	if configuration != nil {
		for _, w := range configuration.Webhooks {
			s.Bundles = append(s.Bundles, w.ClientConfig.CABundle)
		}
	}
	return s
}

// Source has a serving certificate that changes while it is used.
type Source interface {
	Run(ctx context.Context) error   // follows what there is to follow, until ctx ends
	Config() *tls.Config             // of the server
	Ready(now time.Time) error       // why the API servers would not take the certificate now
	Status(now time.Time) Status     // for metrics
	Leave(ctx context.Context) error // to be called when nothing is served any more
}

var (
	_ Source = (*Files)(nil)
	_ Source = (*Managed)(nil)
)

// Status is how it stands. What is zero is not known, or not there.
type Status struct {
	Leading     bool
	Generation  int       // of the newest authority
	Authorities int       // that caBundle should hold
	Expires     time.Time // the certificate that is presented
	CAExpires   time.Time // the newest authority
}

// Files is a certificate that somebody else renews, as cert-manager does, in a directory: a mounted Secret of type
// kubernetes.io/tls.
type Files struct {
	Holder
	dir string
	log *slog.Logger
}

// NewFiles reads the certificate that must be there already.
func NewFiles(dir string, log *slog.Logger) (*Files, error) {
	f := &Files{dir: dir, log: log}
	p, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("--cert-dir: %w; mount a Secret with tls.crt and tls.key there", err)
	}
	f.held.Store(p)
	return f, nil
}

func (f *Files) paths() (certificate, key string) {
	return filepath.Join(f.dir, "tls.crt"), filepath.Join(f.dir, "tls.key")
}

func (f *Files) read() (*Pair, error) {
	certificate, key := f.paths()
	certificates, err := os.ReadFile(certificate) //nolint:gosec // the operator names the directory
	if err != nil {
		return nil, err
	}
	keys, err := external.ReadCredentialFile(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificates, keys)
	if err != nil {
		return nil, fmt.Errorf("tls.crt and tls.key in %s: %w", f.dir, err)
	}
	return &Pair{Leaf: pair.Leaf, tls: &pair}, nil
}

// Run follows the files until ctx ends. What does not hold together, as while one of the two is written, is not taken.
func (f *Files) Run(ctx context.Context) error {
	certificate, key := f.paths()
	warn := func(err error) { f.log.Warn("the certificate's files cannot be followed as they should", "error", err) }
	return watch.Files(ctx, []string{certificate, key}, watch.Options{Warn: warn, Started: f.reload}, func(context.Context) { f.reload() })
}

func (f *Files) reload() {
	p, err := f.read()
	if err != nil {
		f.log.Error("the certificate's files are not taken; the certificate before is presented", "error", err)
		return
	}
	if before := f.held.Swap(p); !before.Leaf.Equal(p.Leaf) {
		f.log.Info("another certificate is presented", "expires", p.Leaf.NotAfter)
	}
}

// Status tells how it is.
func (f *Files) Status(time.Time) Status { return Status{Expires: f.Expires()} }

// Leave implements Source: files need nothing.
func (f *Files) Leave(context.Context) error { return nil }

// Pair is a certificate that can be presented.
type Pair struct {
	Leaf      *x509.Certificate
	tls       *tls.Certificate
	authority []byte // DER; nil where that is somebody else's affair
}

func (p *Pair) valid(now time.Time) bool {
	return !now.Before(p.Leaf.NotBefore) && now.Before(p.Leaf.NotAfter)
}

// pair is what the record wants presented; nil if there is nothing yet.
func (r Record) pair() (*Pair, error) {
	if r.Serving == nil {
		return nil, nil
	}
	key, err := parseKey(r.Serving.Key)
	if err != nil {
		return nil, err
	}
	return &Pair{
		Leaf:      r.Serving.parsed,
		tls:       &tls.Certificate{Certificate: [][]byte{r.Serving.Certificate}, PrivateKey: key, Leaf: r.Serving.parsed},
		authority: r.authority(r.Serving.Generation).Certificate,
	}, nil
}

// choose returns what to present: what is offered, except while what is held is good and the API servers would not take the
// other.
func choose(held, offered *Pair, seen Seen, now time.Time) *Pair {
	switch {
	case offered == nil || !offered.valid(now):
		return held
	case held == nil || !held.valid(now), seen.holds(offered.authority), !seen.holds(held.authority):
		return offered
	}
	return held
}

// Holder has the certificate that is presented at this moment. Its zero value has none.
type Holder struct{ held atomic.Pointer[Pair] }

// Config is for a server whose certificate changes while it runs.
func (h *Holder) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if p := h.held.Load(); p != nil {
			return p.tls, nil
		}
		return nil, errors.New("there is no certificate yet")
	}}
}

// Expires is when the certificate ends that is presented; zero if there is none.
func (h *Holder) Expires() time.Time {
	if p := h.held.Load(); p != nil {
		return p.Leaf.NotAfter
	}
	return time.Time{}
}

// Ready says why API servers would not take the certificate now; nil if they do, as far as its dates say.
func (h *Holder) Ready(now time.Time) error {
	p := h.held.Load()
	switch {
	case p == nil:
		return errors.New("there is no serving certificate yet")
	case now.Before(p.Leaf.NotBefore):
		return fmt.Errorf("the serving certificate is valid from %s on only; compare the clocks", p.Leaf.NotBefore.Format(time.RFC3339))
	case !p.valid(now):
		return fmt.Errorf("the serving certificate has ended at %s", p.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}
