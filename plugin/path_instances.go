// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsInstances() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "workloads/(?P<name>[^/]+)/instances/?$",
			Fields:  requestFields(api.WorkloadName{}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation(b.listInstances, api.InstanceList{}, "list", "instances", "List the live instances of a workload."),
			},
			HelpSynopsis:    "List the live instances of a workload.",
			HelpDescription: "Those without a name begin with lease-.\n\n    vault list hyvve/workloads/api/instances",
		},
		{
			Pattern: "workloads/(?P<name>[^/]+)/instances/(?P<instance>[^/]+)$",
			Fields:  requestFields(api.InstanceRequest{}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   b.operation(b.readInstance, api.InstanceDetails{}, "read", "instance", "Read an instance: whose it is, where it runs, what it holds."),
				logical.DeleteOperation: b.write(b.removeInstance, aboutInstance, nil, "remove", "instance", "Remove an instance that has ended."),
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

func aboutInstance(_ *engine.Engine, d *framework.FieldData) journal.Entry {
	return journal.Entry{
		What: "removing an instance", Workload: text(d, "name"),
		Changes: []rotation.EntryChange{{Field: "instance", From: kind.PublicText("instance", text(d, "instance"))}},
	}
}

func (b *backend) listInstances(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name, list := d.Get("name").(string), api.InstanceList{Info: map[string]api.InstanceInfo{}}
	if _, ok := e.Workload(name); !ok {
		return nil, rotation.Refusef("workload %q is not known; list the workloads with: vault list hyvve/workloads", name)
	}
	for _, i := range e.Instances(name) {
		list.Keys = append(list.Keys, i.ID)
		list.Info[i.ID] = api.InstanceInfo{Login: i.Login.Name, Healthy: i.Healthy, Seen: api.Time{Time: i.Seen}}
	}
	return answer(list), nil
}

func (b *backend) readInstance(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	i, ok := e.Instance(d.Get("name").(string), d.Get("instance").(string))
	if !ok {
		return nil, nil
	}
	return answer(api.InstanceDetails{
		Instance: instanceData(i.Instance), Workload: i.Workload, Anonymous: i.Anonymous, Login: b.loginData(i.Login), LoginSince: api.Time{Time: i.LoggedIn},
		SaysPod: i.Pod, SaysNode: i.Node, Sidecar: i.Heartbeat, LastHeard: wholeSeconds(i.Heard), FreeIn: wholeSeconds(i.FreeIn), Lease: wholeSeconds(i.Lease),
		Issued: heldData(i.Issued.Keys),
	}), nil
}

// heldData is what an instance holds, by key.
func heldData(keys map[string]workload.Held) map[string]api.Held {
	all := map[string]api.Held{}
	for name, held := range keys {
		all[name] = api.Held{Presents: held.Value, Accepts: held.Accepts}
	}
	return all
}

func wholeSeconds(d time.Duration) api.Seconds { return api.SecondsOf(d.Round(time.Second)) }

// shortLogin is how much of a fingerprint is shown: enough to tell logins apart.
const shortLogin = 8

// loginData is a login for people, with what Vault knows of its entity now.
func (b *backend) loginData(l workload.Login) api.Login {
	data := api.Login{
		DisplayName: l.Name, Entity: l.Entity, AccessorFingerprint: l.Accessor[:min(len(l.Accessor), shortLogin)], ServiceAccounts: []string{},
	}
	if l.Entity == "" {
		return data
	}
	entity, err := b.System().EntityInfo(l.Entity)
	if err != nil || entity == nil {
		return data // it is for information; Vault may have removed it
	}
	data.EntityName = entity.Name
	for _, alias := range entity.Aliases {
		if account := alias.Metadata["service_account_name"]; account != "" {
			data.ServiceAccounts = append(data.ServiceAccounts, alias.Metadata["service_account_namespace"]+"/"+account)
		}
	}
	slices.Sort(data.ServiceAccounts)
	return data
}

func (b *backend) removeInstance(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, e.RemoveInstance(ctx, d.Get("name").(string), d.Get("instance").(string), caller(req))
}
