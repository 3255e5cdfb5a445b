// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Whatever stands in annotations, a pod is refused in words or injected for good: the patch applies, and a second time changes
// nothing.
func FuzzAnnotations(f *testing.F) {
	all := shapes(f)
	names := slices.Sorted(maps.Keys(all))
	for n, name := range names {
		var pod corev1.Pod
		if err := json.Unmarshal(all[name], &pod); err != nil {
			f.Fatal(err)
		}
		for annotation, value := range pod.Annotations {
			f.Add(n, annotation, value, "hyvve.app/render", "bundle,dotenv")
		}
	}
	f.Fuzz(func(t *testing.T, n int, name1, value1, name2, value2 string) {
		var pod corev1.Pod
		if err := json.Unmarshal(all[names[uint(n)%uint(len(names))]], &pod); err != nil {
			t.Fatal(err)
		}
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[name1], pod.Annotations[name2] = value1, value2
		raw, err := json.Marshal(&pod)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := patched(t, raw); err == nil {
			checkInjected(t, raw, out)
		}
	})
}

// Whatever comes in a pod's place is answered.
func FuzzPod(f *testing.F) {
	for _, raw := range shapes(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var pod corev1.Pod
		if json.Unmarshal(raw, &pod) != nil {
			if _, err := options.Patch(raw, "hyvve"); err == nil {
				t.Error("what is no pod is injected")
			}
			return
		}
		canonical, err := json.Marshal(&pod) // as an API server sends it
		if err != nil {
			return
		}
		if out, err := patched(t, canonical); err == nil {
			checkInjected(t, canonical, out)
		}
	})
}
