// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"net/url"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// victim is a Vault with one live instance, api-1 of workload api, that reports.
type victim struct {
	t      *testing.T
	vault  *bed.Vault
	token  string // of api, with the shipped policy
	lease  string
	secret string
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := &victim{t: t, vault: v}
	w.write("", "hyvve/keys/a-key", map[string]any{"kind": "token", "env": "A_KEY"})
	w.write("", "hyvve/keys/b-key", map[string]any{"kind": "token", "env": "B_KEY"})
	w.write("", "hyvve/workloads/api", map[string]any{"presents": "a-key", "min_instances": 0})
	w.write("", "hyvve/workloads/agents", map[string]any{"presents": "b-key", "min_instances": 0})
	w.token = shippedToken(t, v.Client, "api")
	read := w.must(w.as(w.token).Logical().ReadWithDataWithContext(t.Context(), "hyvve/creds/api", url.Values{"instance": {"api-1"}}))
	w.lease, w.secret = read.LeaseID, read.Data["instance_secret"].(string)
	w.write(w.token, "hyvve/report/api", map[string]any{"instance": "api-1", "instance_secret": w.secret, "etag": read.Data["etag"], "healthy": true, "extend_lease": true})
	return w
}

// as is a client with a token; empty: root's.
func (w *victim) as(token string) *api.Client {
	w.t.Helper()
	c, err := w.vault.Client.CloneWithHeaders()
	if err != nil {
		w.t.Fatal(err)
	}
	c.SetToken(w.vault.Token)
	if token != "" {
		c.SetToken(token)
	}
	return c
}

func (w *victim) must(s *api.Secret, err error) *api.Secret {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *victim) write(token, path string, data map[string]any) *api.Secret {
	w.t.Helper()
	return w.must(w.as(token).Logical().WriteWithContext(w.t.Context(), path, data))
}

// refused checks that a write is refused with a status.
func (w *victim) refused(token, path string, data map[string]any, status int) {
	w.t.Helper()
	_, err := w.as(token).Logical().WriteWithContext(w.t.Context(), path, data)
	if e := (*api.ResponseError)(nil); !errors.As(err, &e) || e.StatusCode != status {
		w.t.Errorf("%s: %v; want status %d", path, err, status)
	}
}

// instances are the names of api's live instances.
func (w *victim) instances() (names []string) {
	w.t.Helper()
	read := w.must(w.as("").Logical().ReadWithDataWithContext(w.t.Context(), "hyvve/workloads/api", url.Values{"detailed": {"true"}}))
	for _, i := range read.Data["instances"].([]any) {
		names = append(names, i.(map[string]any)["instance"].(string))
	}
	return names
}

// Another workload that has seen an id of a lease cannot end it. A user who can ends no instance that reports.
func TestAdversaryRevokesAnothersLease(t *testing.T) {
	w := newVictim(t)
	agents := shippedToken(t, w.vault.Client, "agents")
	w.refused(agents, "sys/leases/revoke", map[string]any{"lease_id": w.lease}, 403)
	w.refused(agents, "hyvve/leave/api", map[string]any{"instance": "api-1", "instance_secret": w.secret}, 403)
	w.refused(w.token, "hyvve/leave/api", map[string]any{"instance": "api-1", "instance_secret": "guess"}, 400)
	w.write("", "sys/leases/revoke", map[string]any{"lease_id": w.lease, "sync": true})
	if names := w.instances(); len(names) != 1 {
		t.Fatalf("live are %v", names)
	}
	w.write(w.token, "hyvve/leave/api", map[string]any{"instance": "api-1", "instance_secret": w.secret})
	if names := w.instances(); len(names) != 0 {
		t.Errorf("live after its leave are %v", names)
	}
}
