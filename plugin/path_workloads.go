// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsWorkloads() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "workloads/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation(b.listWorkloads, "list", "workloads", "List the workloads."),
			},
			HelpSynopsis:    "List the workloads.",
			HelpDescription: "A workload is a set of identical processes that load keys.",
		},
		{
			Pattern: "workloads/(?P<name>.+)",
			Fields: map[string]*framework.FieldSchema{
				"name":            {Type: framework.TypeString, Required: true, Description: "Name of the workload, such as api."},
				"presents":        {Type: framework.TypeCommaStringSlice, Description: "Keys that it presents (as a client) or encrypts with: the whole list, in place of the one before."},
				"verifies":        {Type: framework.TypeCommaStringSlice, Description: "Keys that it verifies (as a server) or decrypts with: the whole list, in place of the one before."},
				"after":           {Type: framework.TypeCommaStringSlice, Description: "Workloads whose instances change before those of this one."},
				"min_instances":   {Type: framework.TypeInt, Default: 1, Description: "A rotation waits until so many live instances take part. 0 for a workload that may be absent."},
				"max_instances":   {Type: framework.TypeInt, Default: workload.DefaultMaxInstances, Description: "How many instances it may have at a time, anonymous readers counted, too; reads beyond that are refused."},
				"max_unavailable": {Type: framework.TypeString, Default: "25%", Description: "How many instances change at a time: a number, or a percentage of the live ones (rounded down, at least one)."},
				"single_value":    {Type: framework.TypeCommaStringSlice, Description: "Those of verifies= of which its processes can hold one value at a time. A rotation has a gap there, and says so. \"none\" for none."},
				"reencrypts":      {Type: framework.TypeBool, Description: "Its sidecars reach the database and re-encrypt rows that its keys protect."},
			},
			ExistenceCheck: b.exists("name", func(e *engine.Engine, name string) bool { _, ok := e.Workload(name); return ok }),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.write(b.writeWorkload, b.workloadAttempt, "create", "workload", "Define a workload."),
				logical.UpdateOperation: b.write(b.writeWorkload, b.workloadAttempt, "update", "workload", "Change a workload; fields not given stay."),
				logical.ReadOperation:   b.operation(b.readWorkload, "read", "workload", "Read a workload, its live instances and what each has loaded."),
				logical.DeleteOperation: b.write(b.deleteWorkload, aboutWorkload("deleting a workload"), "delete", "workload", "Remove a workload and its instances."),
			},
			HelpSynopsis: "Workloads: which keys they present or verify, and their live instances.",
			HelpDescription: strings.TrimSpace(`
A workload is a set of identical processes that load keys.

    vault write hyvve/workloads/agents presents=agent-service-token after=api max_unavailable=1
    vault read hyvve/workloads/agents

A workload that presents and verifies a key (it encrypts and decrypts, say) names it in both. Reading shows the live
instances: those whose lease on hyvve/creds/NAME is outstanding, with what each has loaded and whether it is healthy. More of
each are at hyvve/workloads/NAME/instances/INSTANCE.
`),
		},
	}
}

func (b *backend) listWorkloads(_ context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return logical.ListResponse(e.WorkloadNames()), nil
}

func (b *backend) writeWorkload(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	w, err := b.workload(e, d)
	if err != nil {
		return nil, err
	}
	before, _ := e.Workload(w.Name)
	if err := e.PutWorkload(ctx, w, caller(req)); err != nil {
		return nil, err
	}
	resp, err := b.readWorkload(ctx, e, req, d)
	dropped := slices.DeleteFunc(before.KeyNames(), func(name string) bool { return w.Uses(name) })
	if resp != nil && len(dropped) > 0 {
		resp.AddWarning("workload " + w.Name + " does not use " + strings.Join(dropped, ", ") + " any more: presents= and verifies= replace the whole list")
	}
	return resp, err
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
	w.Keys = roles(d, w.Keys)
	if v, ok := d.GetOk("after"); ok {
		w.After = v.([]string)
	}
	if v, ok := d.GetOk("min_instances"); ok {
		w.MinInstances = v.(int)
	}
	if v, ok := d.GetOk("max_instances"); ok {
		w.MaxInstances = v.(int)
	}
	if v, ok := d.GetOk("max_unavailable"); ok {
		w.MaxUnavailable = v.(string)
	}
	if v, ok := d.GetOk("reencrypts"); ok {
		w.Reencrypts = v.(bool)
	}
	return w, single(d, w)
}

// roles gives the stored roles with the lists that were written in place of theirs.
func roles(d *framework.FieldData, old map[string]workload.Role) map[string]workload.Role {
	presented, presentsGiven := d.GetOk("presents")
	verified, verifiesGiven := d.GetOk("verifies")
	all := map[string]workload.Role{}
	for name, role := range old {
		if presentsGiven {
			role.Presents = false
		}
		if verifiesGiven {
			role.Verifies = false
		}
		all[name] = role
	}
	if presentsGiven {
		for _, name := range presented.([]string) {
			role := all[name]
			role.Presents = true
			all[name] = role
		}
	}
	if verifiesGiven {
		for _, name := range verified.([]string) {
			role := all[name]
			role.Verifies = true
			all[name] = role
		}
	}
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
func single(d *framework.FieldData, w workload.Workload) error {
	given, ok := d.GetOk("single_value")
	if !ok {
		return nil
	}
	names := given.([]string)
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
	instances := []map[string]any{}
	for _, i := range e.Instances(w.Name) {
		instances = append(instances, instanceData(i))
	}
	full := ""
	if crowd, ok := e.Crowded(w.Name); ok {
		full = crowd.String()
	}
	return &logical.Response{Data: map[string]any{
		"max_instances": w.MostInstances(), "limit_hit": full,
		"name": w.Name, "presents": keysThat(w, presents), "verifies": keysThat(w, verifies), "after": w.After, "min_instances": w.MinInstances,
		"max_unavailable": w.MaxUnavailable, "reencrypts": w.Reencrypts, "single_value": keysThat(w, holdsOne), "instances": instances,
	}}, nil
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

func instanceData(i workload.Instance) map[string]any {
	oneLine := []string{"all"}
	if i.Multiline {
		oneLine = append([]string{}, i.OneLine...)
	}
	data := map[string]any{
		"one_line": oneLine, "instance": i.ID, "healthy": i.Healthy, "reason": i.Reason, "seen": stamp(i.Seen), "etag_issued": i.Issued.Etag,
		"etag_loaded": "", "loaded": map[string]any{}, "login": i.Login.Name,
	}
	holding, ok := i.HoldsLoaded()
	if !ok {
		return data
	}
	data["etag_loaded"] = holding.Etag
	loaded := map[string]any{}
	for name, held := range holding.Keys {
		loaded[name] = map[string]any{"presents": held.Value, "accepts": held.Accepts}
	}
	data["loaded"] = loaded
	return data
}

func (b *backend) deleteWorkload(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	if err := key.ValidateName("workload", name); err != nil {
		return nil, rotation.Refusef("%w", err)
	}
	return nil, e.DeleteWorkload(ctx, name, caller(req))
}
