// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsWorkloads() []*framework.Path {
	return []*framework.Path{
		b.listing("workloads", "List the workloads.", "A workload is a set of identical processes that load keys.", func(_ context.Context, e *engine.Engine) ([]string, error) { return e.WorkloadNames(), nil }),
		{
			Pattern:        "workloads/(?P<name>.+)",
			Fields:         requestFields(api.WorkloadRequest{}),
			ExistenceCheck: b.exists("name", func(e *engine.Engine, name string) bool { _, ok := e.Workload(name); return ok }),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.write(b.writeWorkload, b.workloadAttempt, oneOf{api.Workload{}, api.DefinitionPlan{}, api.PlainLines{}}, "create", "workload", "Define a workload."),
				logical.UpdateOperation: b.write(b.writeWorkload, b.workloadAttempt, oneOf{api.Workload{}, api.DefinitionPlan{}, api.PlainLines{}}, "update", "workload", "Change a workload; fields not given stay."),
				logical.ReadOperation:   b.operation(b.readWorkload, oneOf{api.Workload{}, api.PlainLines{}}, "read", "workload", "Read a workload, its live instances and what each has loaded."),
				logical.DeleteOperation: b.write(b.deleteWorkload, aboutWorkload("deleting a workload"), nil, "delete", "workload", "Remove a workload and its instances."),
			},
			HelpSynopsis: "Workloads: which keys they present or verify, and their live instances.",
			HelpDescription: strings.TrimSpace(`
A workload is a set of identical processes that load keys.

    vault write hyvve/workloads/agents presents=agent-service-token after=api max_unavailable=1
    vault read hyvve/workloads/agents
    vault write hyvve/workloads/agents add_presents=redis-url dry_run=true      whom it is about, and what would change
    vault write hyvve/workloads/agents add_presents=redis-url
    vault write hyvve/workloads/agents remove_presents=redis-url drop=true      takes it away from live instances

require_proof=health makes rotations wait until a health check of each instance has passed after each load (etag and reload are
more and less than that). Readers without instance= prove nothing. A workload of the preset requires health.

Live instances follow a change of keys in waves, as many at a time as max_unavailable says: the next ones when those before have
loaded it and are healthy. change= of a read says how far they are. To undo a change under way, write the lists as they were. A
write that takes a key away from live instances that hold it is refused without drop=true, and so is a delete: no rotation waits
for such instances after it.

A workload that presents and verifies a key (it encrypts and decrypts, say) names it in both. Reading shows the live
instances: those whose lease on hyvve/creds/NAME is outstanding, with what each has loaded and whether it is healthy. More of
each are at hyvve/workloads/NAME/instances/INSTANCE.
`),
		},
	}
}

func (b *backend) writeWorkload(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	defer b.definitions.Lock("workloads/" + d.Get("name").(string))()
	w, err := b.workload(e, d)
	if err != nil {
		return nil, err
	}
	r := request[api.WorkloadRequest](d)
	if r.DryRun {
		plan, err := e.PlanWorkload(w, r.Drop)
		return definitionPlan(d, plan), err
	}
	before, _ := e.Workload(w.Name)
	if err := e.PutWorkload(ctx, w, r.Drop, caller(req)); err != nil {
		return nil, err
	}
	resp, err := b.readWorkload(ctx, e, req, d)
	dropped := slices.DeleteFunc(before.KeyNames(), func(name string) bool { _, ok := w.Keys[name]; return ok })
	if resp != nil && len(dropped) > 0 {
		resp.AddWarning("workload " + w.Name + " does not use " + strings.Join(dropped, ", ") + " any more")
	}
	if text := e.ProvesLess(w.Name); resp != nil && text != "" && r.RequireProof != nil {
		resp.AddWarning("rotations wait until all prove as much as is required now. " + text)
	}
	if text := e.Change(w.Name); resp != nil && text != "" {
		resp.AddWarning("its live instances follow the change in waves: vault read hyvve/workloads/" + w.Name)
	}
	return resp, err
}

// definitionPlan is the answer to a write with dry_run=true.
func definitionPlan(d *framework.FieldData, p engine.DefinitionPlan, warnings ...string) *logical.Response {
	changes := []string{}
	for _, c := range p.Changes {
		changes = append(changes, c.Field+": "+cmp.Or(c.From, "nothing")+" → "+cmp.Or(c.To, "nothing"))
	}
	return forPeople(d, api.DefinitionPlan{DryRun: true, Changes: changes, Affected: append([]string{}, p.Affected...)}, warnings...)
}

// workload is what is stored with what is written over it.
func (b *backend) workload(e *engine.Engine, d *framework.FieldData) (workload.Workload, error) {
	w, exists := e.Workload(d.Get("name").(string))
	if !exists {
		w = workload.Workload{
			Name: d.Get("name").(string), Keys: map[string]workload.Role{},
			MinInstances: d.Get("min_instances").(int), MaxUnavailable: d.Get("max_unavailable").(string),
		}
	}
	r := request[api.WorkloadRequest](d)
	if err := listed(&r, w); err != nil {
		return w, err
	}
	w.Keys = roles(r, w.Keys)
	set(&w.After, r.After)
	set(&w.MinInstances, r.MinInstances)
	set(&w.MaxInstances, r.MaxInstances)
	set(&w.MaxUnavailable, r.MaxUnavailable)
	set(&w.Reencrypts, r.Reencrypts)
	if r.RequireProof != nil {
		if *r.RequireProof == "" { // a variable that is not set, which must not loosen anything
			return w, rotation.Refusef("require_proof is empty; use etag, health, reload or none")
		}
		w.RequireProof = workload.Proof(*r.RequireProof) // checked with the rest
	}
	return w, single(r, w)
}

// listed makes whole lists of what is to be added to those that are stored, and taken out of them.
func listed(r *api.WorkloadRequest, w workload.Workload) error {
	for _, list := range []struct {
		name        string
		whole       **[]string
		add, remove *[]string
		stored      []string
	}{
		{"presents", &r.Presents, r.AddPresents, r.RemovePresents, keysThat(w, presents)},
		{"verifies", &r.Verifies, r.AddVerifies, r.RemoveVerifies, keysThat(w, verifies)},
		{"single_value", &r.SingleValue, r.AddSingleValue, r.RemoveSingleValue, keysThat(w, holdsOne)},
		{"after", &r.After, r.AddAfter, r.RemoveAfter, w.After},
	} {
		if list.add == nil && list.remove == nil {
			continue
		}
		if *list.whole != nil {
			return rotation.Refusef("%s is the whole list, and add_%s and remove_%s change the one that is stored; give one or the other", list.name, list.name, list.name)
		}
		all := slices.Clone(list.stored)
		if list.remove != nil {
			for _, name := range *list.remove {
				if !slices.Contains(all, name) {
					return rotation.Refusef("remove_%s: %q is not in %s of workload %s, which has: %s", list.name, name, list.name, w.Name, cmp.Or(strings.Join(all, ", "), "nothing"))
				}
				all = slices.DeleteFunc(all, func(n string) bool { return n == name })
			}
		}
		if list.add != nil {
			for _, name := range *list.add {
				if !slices.Contains(all, name) {
					all = append(all, name)
				}
			}
		}
		*list.whole = &all
	}
	return nil
}

// roles returns the stored roles with the lists that were written in place of theirs.
func roles(r api.WorkloadRequest, old map[string]workload.Role) map[string]workload.Role {
	all := map[string]workload.Role{}
	for name, role := range old {
		role.Presents = role.Presents && r.Presents == nil
		role.Verifies = role.Verifies && r.Verifies == nil
		all[name] = role
	}
	mark := func(names *[]string, as func(*workload.Role)) {
		if names == nil {
			return
		}
		for _, name := range *names {
			role := all[name]
			as(&role)
			all[name] = role
		}
	}
	mark(r.Presents, func(role *workload.Role) { role.Presents = true })
	mark(r.Verifies, func(role *workload.Role) { role.Verifies = true })
	for name, role := range all {
		if !role.Verifies {
			role.Single = false
			all[name] = role
		}
		if role == (workload.Role{}) {
			delete(all, name)
		}
	}
	return all
}

// single marks the keys of which the workload holds one value at a time.
func single(r api.WorkloadRequest, w workload.Workload) error {
	if r.SingleValue == nil {
		return nil
	}
	names := *r.SingleValue
	if slices.Equal(names, []string{"none"}) {
		names = nil
	}
	for name, role := range w.Keys {
		role.Single = slices.Contains(names, name)
		w.Keys[name] = role
	}
	for _, name := range names {
		if !w.Keys[name].Verifies {
			return rotation.Refusef("single_value: workload %s does not verify key %s; name it in verifies= too, or take it out of single_value=", w.Name, name)
		}
	}
	return nil
}

func (b *backend) readWorkload(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	w, ok := e.Workload(d.Get("name").(string))
	if !ok {
		return nil, nil
	}
	instances := []api.Instance{}
	out := e.LockedOut(w.Name)
	for _, i := range e.Instances(w.Name) {
		instances = append(instances, instanceData(i, lockedOutText(out, i)))
	}
	full := ""
	if crowd, ok := e.Crowded(w.Name); ok {
		full = crowd.String()
	}
	conflicts := append([]string{}, e.NameConflicts(w.Name)...)
	return forPeople(d, api.Workload{
		Name: w.Name, Presents: keysThat(w, presents), Verifies: keysThat(w, verifies), SingleValue: keysThat(w, holdsOne), After: append([]string{}, w.After...),
		MinInstances: w.MinInstances, MaxInstances: w.InstanceLimit(), MaxUnavailable: w.MaxUnavailable, Reencrypts: w.Reencrypts, RequireProof: w.RequireProof.String(),
		Change: e.Change(w.Name), LimitHit: full, Conflicts: conflicts, Instances: instances,
	}, conflicts...), nil
}

// Which keys of a workload are in a list of its fields.
func presents(r workload.Role) bool { return r.Presents }
func verifies(r workload.Role) bool { return r.Verifies }
func holdsOne(r workload.Role) bool { return r.Single }

// keysThat are the keys of a workload with such a role, sorted; never nil.
func keysThat(w workload.Workload, has func(workload.Role) bool) []string {
	names := []string{}
	for _, name := range w.KeyNames() {
		if has(w.Keys[name]) {
			names = append(names, name)
		}
	}
	return names
}

// lockedOutText says which retired versions an instance runs with; empty: none.
func lockedOutText(all []engine.LockedOut, i workload.Instance) string {
	for _, o := range all {
		if o.Workload == i.Workload && o.Instance == i.ID {
			return o.Text
		}
	}
	return ""
}

// healthOf is whether an instance is healthy, and why it is not: one that is locked out never is.
func healthOf(i workload.Instance, out string) (healthy bool, reason string) {
	if out == "" {
		return i.Healthy, i.Reason
	}
	return false, strings.TrimSuffix("locked out: "+out+"; "+i.Reason, "; ")
}

func instanceData(i workload.Instance, out string) api.Instance {
	oneLine := []string{"all"}
	if i.Multiline {
		oneLine = append([]string{}, i.OneLine...)
	}
	healthy, reason := healthOf(i, out)
	data := api.Instance{
		Instance: i.ID, Healthy: healthy, LockedOut: out, Reason: reason, Seen: api.Time{Time: i.Seen},
		Leaving: api.Time{Time: i.Leaving.At}, Counts: api.Time{Time: i.Leaving.Until}, Login: i.Login.Name, OneLine: oneLine, EtagIssued: i.Issued.Etag, Proof: i.Proof.String(),
		Loaded: map[string]api.Held{},
	}
	if holding, ok := i.HoldsLoaded(); ok {
		data.EtagLoaded, data.Loaded = holding.Etag, heldData(holding.Keys)
	}
	return data
}

func (b *backend) deleteWorkload(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	if err := key.ValidateName("workload", name); err != nil {
		return nil, rotation.Refusef("%w", err)
	}
	defer b.definitions.Lock("workloads/" + name)()
	return nil, e.DeleteWorkload(ctx, name, d.Get("drop").(bool), caller(req))
}

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
			Fields:  withDetail(requestFields(api.InstanceRequest{})),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   b.operation(b.readInstance, oneOf{api.InstanceDetails{}, api.PlainLines{}}, "read", "instance", "Read an instance: whose it is, where it runs, what it holds."),
				logical.DeleteOperation: b.write(b.removeInstance, aboutInstance, nil, "remove", "instance", "Remove an instance that has ended."),
			},
			HelpSynopsis: "A live instance: whose it is, where it runs, what it holds; delete removes it.",
			HelpDescription: strings.TrimSpace(`
    vault read hyvve/workloads/api/instances/api-1
    vault delete hyvve/workloads/api/instances/api-1

login         whose token it reads with, as Vault says: display name, entity and service account; of the token's accessor there is
              a fingerprint alone
says_pod      where it runs in Kubernetes, as the sidecar itself says: Vault's kubernetes method does not know
last_heard    time since its last sign of life; free_in: until another login of the same entity may use its name
lease         time until it is removed if nothing is heard of it

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
	out := e.LockedOut(name)
	for _, i := range e.Instances(name) {
		list.Keys = append(list.Keys, i.ID)
		healthy, _ := healthOf(i, lockedOutText(out, i))
		list.Info[i.ID] = api.InstanceInfo{Login: i.Login.Name, Healthy: healthy, Seen: api.Time{Time: i.Seen}}
	}
	return answer(list), nil
}

func (b *backend) readInstance(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	i, ok := e.Instance(d.Get("name").(string), d.Get("instance").(string))
	if !ok {
		return nil, nil
	}
	return forPeople(d, api.InstanceDetails{
		Instance: instanceData(i.Instance, lockedOutText(e.LockedOut(i.Workload), i.Instance)), Workload: i.Workload, Anonymous: i.Anonymous, Login: b.loginData(i.Login), LoginSince: api.Time{Time: i.LoggedIn},
		SaysPod: i.Pod, SaysNode: i.Node, Sidecar: i.Heartbeat, LastHeard: wholeSeconds(i.Heard), FreeIn: wholeSeconds(i.FreeIn), Conflict: e.NameConflict(i.Workload, i.ID), Lease: wholeSeconds(i.Lease),
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
