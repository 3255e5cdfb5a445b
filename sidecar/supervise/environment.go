// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

const (
	// EtagName is the variable that names the bundle which a workload was started with. It reveals no value.
	EtagName = "HYVVE_ETAG"

	// The kernel takes no longer string of an environment (MAX_ARG_STRLEN of execve(2)), its end included.
	longest = 128<<10 - 1
)

// own are the beginnings of names that are settings of the sidecar, or of Vault's client in it. The token among them
// can read every key of the workload, and report for it.
var own = []string{"VAULT_", "HYVVE_SIDECAR_"}

// environment is what the workload is started with: what the sidecar was started with, without what is the sidecar's
// own, and then what the bundle holds. The sum is over all of the bundle that is in it.
func (o Options) environment(b client.Bundle) (env []string, sum [sha256.Size]byte, err error) {
	values, err := o.values(b)
	if err != nil {
		return nil, sum, err
	}
	replaced := func(name string) bool {
		_, ok := values[name]
		for _, after := range []string{variables.AcceptsAfter, variables.PreviousAfter} {
			// An old value that the sidecar was started with must not pass for one of this bundle.
			_, stale := values[strings.TrimSuffix(name, after)]
			ok = ok || stale
		}
		return ok
	}
	for _, entry := range o.Environ {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.ContainsFunc(own, func(s string) bool { return strings.HasPrefix(name, s) }) && !slices.Contains(o.Withheld, name) && !replaced(name) {
			env = append(env, entry)
		}
	}
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		entry := name + "=" + values[name]
		if strings.ContainsRune(entry, 0) || len(entry) > longest {
			return nil, sum, fmt.Errorf("%s holds a NUL, or is longer than %d bytes: no environment can hold it; render it to a file, and leave it out of keys of exec", name, longest)
		}
		env = append(env, entry)
		_, _ = fmt.Fprintf(hash, "%q", entry)
	}
	env = append(env, EtagName+"="+b.Etag)
	if o.ByEtag {
		_, _ = hash.Write([]byte(b.Etag))
	}
	return env, [sha256.Size]byte(hash.Sum(nil)), nil
}

// values are the variables that come from the bundle.
func (o Options) values(b client.Bundle) (map[string]string, error) {
	set, err := variables.Choice{Keys: o.Keys, Accepts: o.Accepts, Previous: o.Previous, Allow: o.Allow}.Of(b)
	if err != nil {
		return nil, err
	}
	return set.Text()
}
