// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// Two servers are down, of which one has two keys: a plan says so once for each server, and for which keys.
func TestPlanOfServersThatAreDown(t *testing.T) {
	rig := bed.ForTest(t)
	p, err := rig.Postgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := rig.Redis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := newBackendTest(t)
	b.write("connections/db", map[string]any{"kind": "postgres", "url": p.AdminURL("postgres")})
	b.write("connections/cache", map[string]any{"kind": "redis", "url": r.AdminURL()})
	for _, name := range []string{"one", "two"} {
		password, err := p.NewRole(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		b.write("keys/"+name, map[string]any{"kind": "postgres", "connection": "db", "value": p.URL("postgres", name, password)})
	}
	if _, err := r.Do(t.Context(), "ACL", "SETUSER", "appuser", "on", ">canary-app", "~*", "+@all"); err != nil {
		t.Fatal(err)
	}
	b.write("keys/three", map[string]any{"kind": "redis", "connection": "cache", "value": r.UserURL("appuser", "canary-app")})
	b.write("workloads/api", map[string]any{"presents": "one,two,three", "min_instances": 0})
	if err := errors.Join(p.Stop(), r.Stop()); err != nil {
		t.Fatal(err)
	}
	var said string
	kit.Until(t, "each server is named once", func() bool { // checks of before may be under way
		said = strings.Join(b.write("rotate", map[string]any{"keys": "one,two,three", "dry_run": true, "detailed": true})["blockers"].([]string), "\n")
		return strings.Count(said, "connection refused") == 2 && strings.Contains(said, "ONE, TWO: the server 127.0.0.1:") && strings.Contains(said, "THREE: node "+r.Addr)
	}, func() string { return said })
}
