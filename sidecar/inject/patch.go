// SPDX-License-Identifier: Apache-2.0

// Package inject puts the sidecar into pods that ask for it by annotations. It changes a typed copy of a pod and knows
// nothing of how the pod came here: webhook does.
package inject

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

// Patch returns what Inject changes of a pod in JSON, as operations on that JSON. Fields that a newer Kubernetes has and this
// program does not know stay as they are. Errors are those of Inject, and one for what is no pod.
//
// It compares typed pods, and only what Inject may change: to compare them as JSON takes four times as long as all the rest.
func (o Options) Patch(raw []byte, namespace string) ([]jsonpatch.Operation, error) {
	p, _, err := o.Review(raw, namespace)
	return p, err
}

// Review is [Options.Patch] with warnings for the pod's author, at most 256 characters each, as API servers pass them on.
func (o Options) Review(raw []byte, namespace string) (operations []jsonpatch.Operation, warnings []string, err error) {
	var pod corev1.Pod
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &pod); err != nil {
		return nil, nil, fmt.Errorf("that is no pod: %w", err)
	}
	before := pod // whose parts Inject leaves alone: it changes a copy
	if warnings, err = o.inject(&pod, namespace); err != nil {
		return nil, nil, err
	}
	var p patch
	p.texts("/metadata/annotations", before.Annotations, pod.Annotations)
	p.field("/spec/shareProcessNamespace", before.Spec.ShareProcessNamespace, pod.Spec.ShareProcessNamespace)
	elements(&p, "/spec/volumes", before.Spec.Volumes, pod.Spec.Volumes, func(v corev1.Volume) string { return v.Name }, replace)
	name := func(c corev1.Container) string { return c.Name }
	elements(&p, "/spec/initContainers", before.Spec.InitContainers, pod.Spec.InitContainers, name, container)
	elements(&p, "/spec/containers", before.Spec.Containers, pod.Spec.Containers, name, container)
	return p, warnings, nil
}

// patch is operations, to be applied one after the other.
type patch []jsonpatch.Operation

func (p *patch) do(operation, path string, value any) {
	*p = append(*p, jsonpatch.Operation{Operation: operation, Path: path, Value: value})
}

// texts lets a map become another.
func (p *patch) texts(path string, before, after map[string]string) {
	if len(before) == 0 || len(after) == 0 {
		p.field(path, before, after)
		return
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1") // RFC 6901, 3
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[name]; !ok {
			p.do("remove", path+"/"+escape.Replace(name), nil)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if was, ok := before[name]; !ok || was != after[name] {
			p.do("add", path+"/"+escape.Replace(name), after[name]) // which replaces, where it is there (RFC 6902, 4.1)
		}
	}
}

// field lets a field become another, of which a pointer, list or map without anything is none.
func (p *patch) field(path string, before, after any) {
	switch {
	case empty(before) && empty(after), equality.Semantic.DeepEqual(before, after):
	case empty(after):
		p.do("remove", path, nil)
	default:
		p.do("add", path, after)
	}
}

func empty(value any) bool {
	v := reflect.ValueOf(value)
	if v.Kind() == reflect.Pointer {
		return v.IsNil()
	}
	return v.Len() == 0
}

// elements lets a list become another. Elements of the same identity are the same, and are moved where they have another place;
// what became of one, change says.
func elements[T any](p *patch, path string, before, after []T, identity func(T) string, change func(p *patch, path string, before, after T)) {
	if len(before) == 0 || len(after) == 0 {
		p.field(path, before, after)
		return
	}
	at := func(n int) string { return fmt.Sprintf("%s/%d", path, n) }
	wanted := map[string]int{}
	for _, e := range after {
		wanted[identity(e)]++
	}
	now := slices.Clone(before)
	for n := 0; n < len(now); n++ {
		if id := identity(now[n]); wanted[id] > 0 {
			wanted[id]--
			continue
		}
		p.do("remove", at(n), nil)
		now = slices.Delete(now, n, n+1)
		n--
	}
	for n, e := range after {
		from := slices.IndexFunc(now[min(n, len(now)):], func(was T) bool { return identity(was) == identity(e) })
		if from < 0 {
			p.do("add", at(n), e)
			now = slices.Insert(now, n, e)
			continue
		}
		if from > 0 {
			was := now[n+from]
			*p = append(*p, jsonpatch.Operation{Operation: "add", Path: at(n), Value: was}, jsonpatch.Operation{Operation: "remove", Path: at(n + from + 1)})
			now = slices.Insert(slices.Delete(now, n+from, n+from+1), n, was)
		}
		change(p, at(n), now[n], e)
	}
}

func replace[T any](p *patch, path string, before, after T) {
	if !equality.Semantic.DeepEqual(before, after) {
		p.do("replace", path, after)
	}
}

// container lets one become another: a customer's by what Inject changes of it alone, one of ours as a whole.
func container(p *patch, path string, before, after corev1.Container) {
	rest := after
	rest.Command, rest.Args, rest.Env, rest.VolumeMounts = before.Command, before.Args, before.Env, before.VolumeMounts
	if !equality.Semantic.DeepEqual(before, rest) {
		p.do("replace", path, after)
		return
	}
	p.field(path+"/command", before.Command, after.Command)
	p.field(path+"/args", before.Args, after.Args)
	elements(p, path+"/env", before.Env, after.Env, func(e corev1.EnvVar) string { return e.Name }, replace)
	elements(p, path+"/volumeMounts", before.VolumeMounts, after.VolumeMounts, func(m corev1.VolumeMount) string { return m.Name + " " + m.MountPath }, replace)
}

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

	Locked     []string // names of annotations, without the domain, that pods must not set
	PodReaders []string // service accounts that may get pods in their own namespace, NAMESPACE/NAME each; the injector grants nothing itself
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
	for _, account := range o.PodReaders {
		if namespace, name, ok := strings.Cut(account, "/"); !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
			errs = append(errs, fmt.Errorf("pod readers: %q is no service account; write NAMESPACE/NAME", account))
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
	_, err := o.inject(pod, namespace)
	return err
}

func (o Options) inject(pod *corev1.Pod, namespace string) (warnings []string, err error) {
	s, err := o.parse(pod.Annotations)
	if err != nil {
		return nil, err
	}
	changed := pod.DeepCopy()
	saw := whoSees(changed)
	if err := withdraw(changed); err != nil {
		return nil, err
	}
	p := plan{settings: s, pod: changed, namespace: namespace, saw: saw}
	if err := p.check(); err != nil {
		return nil, err
	}
	p.asks = p.runs == nil && slices.Contains(o.PodReaders, p.account())
	if err := p.apply(); err != nil {
		return nil, err
	}
	if pod.Annotations[Domain+"/"+injectedName] != "" {
		keepOrder(pod, changed, s.initToo)
	}
	*pod = *changed
	return p.warnings(), nil
}

// keepOrder lets what an injected pod had be in the order that it had there, although what is ours was taken out and put in again:
// else a second time would move what others have put behind it meanwhile.
// What the injector was asked for may be another thing by now, though: where init containers see the files, ours is the first.
func keepOrder(before, after *corev1.Pod, first bool) {
	name := func(c corev1.Container) string { return c.Name }
	after.Spec.Volumes = inOrder(before.Spec.Volumes, after.Spec.Volumes, func(v corev1.Volume) string { return v.Name })
	if inits := before.Spec.InitContainers; !first || len(inits) > 0 && oursByContainer(inits[0].Name) {
		after.Spec.InitContainers = inOrder(inits, after.Spec.InitContainers, name)
	}
	were := slices.Concat(before.Spec.InitContainers, before.Spec.Containers)
	for _, all := range [][]corev1.Container{after.Spec.InitContainers, after.Spec.Containers} {
		for i := range all {
			c := &all[i]
			if at := slices.IndexFunc(were, func(was corev1.Container) bool { return was.Name == c.Name }); at >= 0 {
				c.Env = inOrder(were[at].Env, c.Env, func(e corev1.EnvVar) string { return e.Name })
				c.VolumeMounts = inOrder(were[at].VolumeMounts, c.VolumeMounts, func(m corev1.VolumeMount) string { return m.Name + " " + m.MountPath })
			}
		}
	}
}

// inOrder puts those elements of after that were in before into the order that they had there; others stay at their places.
func inOrder[T any](before, after []T, identity func(T) string) []T {
	places := map[string][]int{}
	for n, e := range before {
		places[identity(e)] = append(places[identity(e)], n)
	}
	type known struct {
		element   T
		was, here int
	}
	var all []known
	for n, e := range after {
		if left := places[identity(e)]; len(left) > 0 {
			places[identity(e)] = left[1:]
			all = append(all, known{e, left[0], n})
		}
	}
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b known) int { return a.was - b.was })
	for n, k := range all {
		after[k.here] = sorted[n].element
	}
	return after
}

// What was found out of a workload is so for its next pod. To write and to read a configuration takes longer than all the rest.
var (
	written memo // configurations, by what is to stand in them
	sound   memo // configurations that the sidecar can read
)

// A memo holds so many bytes of texts at most, and none that is longer than the longest. Both are far more than real workloads need.
const (
	maxKnown    = 1 << 20
	longestKept = 32 << 10
	entryCost   = 128 // bytes of an entry beside its texts
)

// memo remembers texts by texts. When it is full, it forgets some, whichever they are.
type memo struct {
	mu    sync.RWMutex
	known map[string]string
	bytes int
}

func (m *memo) get(key string) (string, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	text, ok := m.known[key]
	return text, ok
}

func (m *memo) set(key, text string) {
	size := cost(key, text)
	if size > longestKept {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = make(map[string]string)
	}
	if was, ok := m.known[key]; ok {
		m.bytes -= cost(key, was)
	}
	m.known[key] = text
	m.bytes += size
	for other, was := range m.known {
		if m.bytes <= maxKnown {
			break
		}
		if other != key {
			delete(m.known, other)
			m.bytes -= cost(other, was)
		}
	}
}

func cost(key, text string) int { return len(key) + len(text) + entryCost }
