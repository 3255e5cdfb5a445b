// SPDX-License-Identifier: Apache-2.0

// Package workload holds who loads keys: workloads, what each does with a key, their running instances, and the
// bundle that an instance should hold.
package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Role is what a workload does with a key.
type Role struct {
	Presents bool `json:"presents,omitempty"` // client, encryptor
	Verifies bool `json:"verifies,omitempty"` // server, decryptor
	// Single says that its processes verify against one value at a time: they cannot accept both during a rotation.
	Single bool `json:"single_value,omitempty"`
}

// AcceptsBoth reports whether the role can verify against two values at a time.
func (r Role) AcceptsBoth() bool { return r.Verifies && !r.Single }

// Workload is a set of identical processes that load keys.
type Workload struct {
	Name           string          `json:"name"`
	Keys           map[string]Role `json:"keys"`            // by key name
	After          []string        `json:"after,omitempty"` // workloads whose instances change first
	MinInstances   int             `json:"min_instances"`   // a rotation waits until so many live instances take part
	MaxUnavailable string          `json:"max_unavailable"` // instances that change at a time: a number or a percentage
	Reencrypts     bool            `json:"reencrypts,omitempty"`
	MaxInstances   int             `json:"max_instances,omitempty"` // 0: DefaultMaxInstances
}

// DefaultMaxInstances is how many instances a workload may have that does not say.
const DefaultMaxInstances = 1000

// MostInstances is how many instances it may have.
func (w Workload) MostInstances() int {
	if w.MaxInstances == 0 {
		return max(DefaultMaxInstances, w.MinInstances)
	}
	return w.MaxInstances
}

// Uses reports whether the workload has anything to do with one of the keys.
func (w Workload) Uses(keys ...string) bool {
	return slices.ContainsFunc(keys, func(name string) bool { _, ok := w.Keys[name]; return ok })
}

// KeyNames returns the names of its keys, sorted.
func (w Workload) KeyNames() []string { return slices.Sorted(maps.Keys(w.Keys)) }

// Validate names the field that is wrong.
func (w Workload) Validate() error {
	if err := key.ValidateName("workload", w.Name); err != nil {
		return err
	}
	if len(w.Keys) == 0 {
		return fmt.Errorf("workload %s has no keys; list them in presents= or verifies=", w.Name)
	}
	if w.MinInstances < 0 {
		return fmt.Errorf("min_instances %d is negative; use 0 for a workload that may be absent", w.MinInstances)
	}
	if w.MaxInstances < 0 {
		return fmt.Errorf("max_instances %d is negative; use 0 for %d, the default", w.MaxInstances, DefaultMaxInstances)
	}
	if w.MostInstances() < w.MinInstances {
		return fmt.Errorf("max_instances %d is below min_instances %d, so that no rotation could go on; raise it, or lower min_instances", w.MaxInstances, w.MinInstances)
	}
	if slices.Contains(w.After, w.Name) {
		return fmt.Errorf("after: workload %s cannot come after itself", w.Name)
	}
	for _, name := range w.KeyNames() {
		if role := w.Keys[name]; role.Single && !role.Verifies {
			return fmt.Errorf("single_value: workload %s does not verify key %s; name it in verifies= too, or take it out of single_value=", w.Name, name)
		}
	}
	if w.Reencrypts && !slices.ContainsFunc(slices.Collect(maps.Values(w.Keys)), Role.AcceptsBoth) {
		return errors.New("reencrypts needs a key that the workload verifies, and not as single_value: only those come with the old and the new value")
	}
	_, err := w.AtATime(1)
	return err
}

// AtATime is how many of total instances may change at a time, at least one.
func (w Workload) AtATime(total int) (int, error) {
	text, percent := strings.CutSuffix(w.MaxUnavailable, "%")
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || (percent && n > 100) {
		return 0, fmt.Errorf("max_unavailable %q is neither a number from 1 nor a percentage from 1%% to 100%%", w.MaxUnavailable)
	}
	if percent {
		n = total * n / 100
	}
	return max(n, 1), nil
}

type workloadRecord struct {
	Schema int `json:"schema"`
	Workload
}

// workloadSchema is the number of the stored form. Schema 1 knew no single_value.
const workloadSchema = 2

// Encode returns the stored form.
func (w Workload) Encode() ([]byte, error) { return json.Marshal(workloadRecord{workloadSchema, w}) }

// Decode reads the stored form, of this schema and of those before.
func Decode(data []byte) (Workload, error) {
	var r workloadRecord
	if err := decode(data, &r, func() int { return r.Schema }, workloadSchema); err != nil {
		return Workload{}, fmt.Errorf("stored workload: %w", err)
	}
	if err := r.Validate(); err != nil {
		return Workload{}, fmt.Errorf("stored workload: %w", err)
	}
	return r.Workload, nil
}

// decode reads JSON of a schema from 1 to newest.
func decode(data []byte, into any, schema func() int, newest int) error {
	if err := json.Unmarshal(data, into); err != nil {
		return err
	}
	if n := schema(); n < 1 || n > newest {
		return fmt.Errorf("schema %d is not among 1 to %d that this release reads; use the release that wrote it or a newer one", n, newest)
	}
	return nil
}
