// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

const (
	// EtagName is the variable that names the bundle which a workload was started with. It reveals no value.
	EtagName = "HYVVE_ETAG"

	acceptsAfter  = "_ACCEPTS"
	previousAfter = "_PREVIOUS"

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
		for _, after := range []string{acceptsAfter, previousAfter} {
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
	wanted := func(name string) bool { return len(o.Keys) == 0 || slices.Contains(o.Keys, name) }
	values, lists := map[string]string{}, map[string]string{}
	for name, list := range b.Accepts {
		if !wanted(name) || len(list) == 0 {
			continue
		}
		// A workload that only verifies a key needs it too: the newest is what it would be configured with.
		values[name] = list[0].Reveal()
		if o.Accepts {
			text, err := arrayText(list)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			lists[name+acceptsAfter] = text
		}
		if o.Previous && len(list) > 1 {
			lists[name+previousAfter] = list[1].Reveal()
		}
	}
	for name, v := range b.Values {
		if wanted(name) {
			values[name] = v.Reveal()
		}
	}
	for name, text := range lists {
		if _, ok := values[name]; ok {
			return nil, fmt.Errorf("%s is a key's own name; leave accepts or previous out, or name that key otherwise", name)
		}
		values[name] = text
	}
	return values, nil
}

// arrayText is a JSON array as text, with <, > and & as they are.
func arrayText(list []key.Value) (string, error) {
	all := make([]string, 0, len(list))
	for _, v := range list {
		all = append(all, v.Reveal())
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(all)
	return strings.TrimSpace(out.String()), err
}
