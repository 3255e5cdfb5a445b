// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsInstances() []*framework.Path {
	name := &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "Name of the workload."}
	return []*framework.Path{
		{
			Pattern: "workloads/(?P<name>[^/]+)/instances/?$",
			Fields:  map[string]*framework.FieldSchema{"name": name},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation(b.listInstances, "list", "instances", "List the live instances of a workload."),
			},
			HelpSynopsis:    "List the live instances of a workload.",
			HelpDescription: "Those without a name begin with lease-.\n\n    vault list hyvve/workloads/api/instances",
		},
		{
			Pattern: "workloads/(?P<name>[^/]+)/instances/(?P<instance>[^/]+)$",
			Fields: map[string]*framework.FieldSchema{
				"name":     name,
				"instance": {Type: framework.TypeString, Required: true, Description: "Name of the instance."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   b.operation(b.readInstance, "read", "instance", "Read an instance: whose it is, where it runs, what it holds."),
				logical.DeleteOperation: b.write(b.removeInstance, aboutInstance, "remove", "instance", "Remove an instance that has ended."),
			},
			HelpSynopsis: "A live instance: whose it is, where it runs, what it holds; delete removes it.",
			HelpDescription: strings.TrimSpace(`
    vault read hyvve/workloads/api/instances/api-1
    vault delete hyvve/workloads/api/instances/api-1

login         whose token it reads with, as Vault says: display name, entity and service account; of the token's accessor there is
              a fingerprint alone
says_pod      where it runs in Kubernetes, as the sidecar itself says: Vault's kubernetes method does not know
last_heard    seconds since its last sign of life; free_in: until another login of the same entity may use its name
lease         seconds until it is removed if nothing is heard of it

Delete only what has ended: rotations no longer wait for it, whatever it may still present. A removed instance that lives has its
next report refused, reads its bundle again, and is a new instance from then on.
`),
		},
	}
}

func aboutInstance(_ *engine.Engine, d *framework.FieldData) engine.Entry {
	return engine.Entry{
		What: "removing an instance", Workload: text(d, "name"),
		Changes: []rotation.EntryChange{{Field: "instance", From: kind.PublicText("instance", text(d, "instance"))}},
	}
}

func (b *backend) listInstances(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name, all, info := d.Get("name").(string), []string{}, map[string]any{}
	if _, ok := e.Workload(name); !ok {
		return nil, rotation.Refusef("workload %q is not known; list the workloads with: vault list hyvve/workloads", name)
	}
	for _, i := range e.Instances(name) {
		all = append(all, i.ID)
		info[i.ID] = map[string]any{"login": i.Login.Name, "healthy": i.Healthy, "seen": stamp(i.Seen)}
	}
	return logical.ListResponseWithInfo(all, info), nil
}

func (b *backend) readInstance(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	i, ok := e.Instance(d.Get("name").(string), d.Get("instance").(string))
	if !ok {
		return nil, nil
	}
	data := instanceData(i.Instance)
	maps.Copy(data, map[string]any{
		"workload": i.Workload, "anonymous": i.Anonymous, "login": b.loginData(i.Login), "login_since": stamp(i.LoggedIn), "says_pod": i.Pod,
		"says_node": i.Node, "sidecar": i.Heartbeat, "last_heard": wholeSeconds(i.Heard), "free_in": wholeSeconds(i.FreeIn), "lease": wholeSeconds(i.Lease),
	})
	issued := map[string]any{}
	for name, held := range i.Issued.Keys {
		issued[name] = map[string]any{"presents": held.Value, "accepts": held.Accepts}
	}
	data["issued"] = issued
	return &logical.Response{Data: data}, nil
}

func wholeSeconds(d time.Duration) int64 { return int64(d.Round(time.Second).Seconds()) }

// shortLogin is how much of a fingerprint is shown: enough to tell logins apart.
const shortLogin = 8

// loginData is a login for people, with what Vault knows of its entity now.
func (b *backend) loginData(l workload.Login) map[string]any {
	data := map[string]any{
		"display_name": l.Name, "entity": l.Entity, "accessor_fingerprint": l.Accessor[:min(len(l.Accessor), shortLogin)],
		"entity_name": "", "service_accounts": []string{},
	}
	if l.Entity == "" {
		return data
	}
	entity, err := b.System().EntityInfo(l.Entity)
	if err != nil || entity == nil {
		return data // it is for information; Vault may have removed it
	}
	data["entity_name"] = entity.Name
	accounts := []string{}
	for _, alias := range entity.Aliases {
		if account := alias.Metadata["service_account_name"]; account != "" {
			accounts = append(accounts, alias.Metadata["service_account_namespace"]+"/"+account)
		}
	}
	slices.Sort(accounts)
	data["service_accounts"] = accounts
	return data
}

func (b *backend) removeInstance(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, e.RemoveInstance(ctx, d.Get("name").(string), d.Get("instance").(string), caller(req))
}
