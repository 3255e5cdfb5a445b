// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"errors"
	"fmt"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
)

// Patch gives what Inject changes of a pod in JSON, as operations on that JSON. Fields that a newer Kubernetes has and this
// program does not know stay as they are. Errors are those of Inject, and one for what is no pod.
func (o Options) Patch(raw []byte, namespace string) ([]jsonpatch.Operation, error) {
	var pod corev1.Pod
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &pod); err != nil {
		return nil, fmt.Errorf("that is no pod: %w", err)
	}
	if err := o.Inject(&pod, namespace); err != nil {
		return nil, err
	}
	var before map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &before); err != nil {
		return nil, err
	}
	typed, err := json.Marshal(&pod)
	if err != nil {
		return nil, err
	}
	var after map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(typed, &after); err != nil {
		return nil, err
	}
	if err := graft(before, after); err != nil {
		return nil, err
	}
	current, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	return jsonpatch.CreatePatch(raw, current)
}

// graft puts what Inject may change from the typed copy into the pod as it came.
func graft(pod, typed map[string]any) error {
	meta, ok1 := pod["metadata"].(map[string]any)
	spec, ok2 := pod["spec"].(map[string]any)
	newMeta, ok3 := typed["metadata"].(map[string]any)
	newSpec, ok4 := typed["spec"].(map[string]any)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return errors.New("that is no pod: metadata or spec is missing")
	}
	meta["annotations"] = newMeta["annotations"] // text and nothing else
	take(spec, newSpec, "shareProcessNamespace")
	merge(spec, newSpec, "volumes", byName, nil)
	for _, field := range []string{"initContainers", "containers"} {
		merge(spec, newSpec, field, byName, func(c, typed map[string]any) {
			take(c, typed, "command")
			take(c, typed, "args")
			merge(c, typed, "env", byName, nil)
			merge(c, typed, "volumeMounts", func(m map[string]any) string { return fmt.Sprint(m["name"], m["mountPath"]) }, nil)
		})
	}
	return nil
}

func byName(m map[string]any) string { return fmt.Sprint(m["name"]) }

// take lets a field be as the typed copy has it.
func take(into, typed map[string]any, field string) {
	if v, ok := typed[field]; ok {
		into[field] = v
	} else {
		delete(into, field)
	}
}

// merge lets a list have the elements of the typed one, in its order; those that were there before are as they were, but for what
// change does with them.
func merge(into, typed map[string]any, field string, identity func(map[string]any) string, change func(was, typed map[string]any)) {
	were := map[string][]map[string]any{}
	before, _ := into[field].([]any)
	for _, e := range before {
		if m, ok := e.(map[string]any); ok {
			were[identity(m)] = append(were[identity(m)], m)
		}
	}
	wanted, _ := typed[field].([]any)
	var after []any
	for _, e := range wanted {
		m, ok := e.(map[string]any)
		if !ok {
			continue
		}
		if same := were[identity(m)]; len(same) > 0 {
			were[identity(m)] = same[1:]
			if change != nil {
				change(same[0], m)
			}
			m = same[0]
		}
		after = append(after, m)
	}
	if len(after) > 0 {
		into[field] = after
	} else if len(before) > 0 {
		delete(into, field)
	}
}
