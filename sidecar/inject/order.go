// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

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
