// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	kjson "sigs.k8s.io/json"
)

// Patch returns what Inject changes of a pod in JSON, as operations on that JSON. Fields that a newer Kubernetes has and this
// program does not know stay as they are. Errors are those of Inject, and one for what is no pod.
//
// It compares typed pods, and only what Inject may change: to compare them as JSON takes four times as long as all the rest.
func (o Options) Patch(raw []byte, namespace string) ([]jsonpatch.Operation, error) {
	var pod corev1.Pod
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &pod); err != nil {
		return nil, fmt.Errorf("that is no pod: %w", err)
	}
	before := pod // whose parts Inject leaves alone: it changes a copy
	if err := o.Inject(&pod, namespace); err != nil {
		return nil, err
	}
	var p patch
	p.texts("/metadata/annotations", before.Annotations, pod.Annotations)
	p.field("/spec/shareProcessNamespace", before.Spec.ShareProcessNamespace, pod.Spec.ShareProcessNamespace)
	elements(&p, "/spec/volumes", before.Spec.Volumes, pod.Spec.Volumes, func(v corev1.Volume) string { return v.Name }, replace)
	name := func(c corev1.Container) string { return c.Name }
	elements(&p, "/spec/initContainers", before.Spec.InitContainers, pod.Spec.InitContainers, name, container)
	elements(&p, "/spec/containers", before.Spec.Containers, pod.Spec.Containers, name, container)
	return p, nil
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
