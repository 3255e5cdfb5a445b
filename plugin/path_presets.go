// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsPresets() []*framework.Path {
	return []*framework.Path{{
		Pattern: "presets/hyvve",
		Fields:  withDetail(requestFields(api.PresetRequest{}, "{workloads}", strings.Join(platformWorkloads(), ", "))),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readPreset, oneOf{api.Preset{}, api.PlainLines{}}, "read", "preset", "Show what the preset defines."),
			logical.UpdateOperation: b.write(b.writePreset, presetAttempt, oneOf{api.PresetMade{}, api.DefinitionPlan{}, api.PlainLines{}}, "apply", "preset", "Define all the platform's keys and workloads."),
		},
		HelpSynopsis: "All the HYVVE platform's keys and workloads from one call.",
		HelpDescription: strings.TrimSpace(`
Defines the platform's keys and workloads.

    vault write -f hyvve/presets/hyvve                               a running platform: definitions only, then import
    vault write hyvve/keys/encryption-master-key value=-             each value in use, as version 1
    vault write hyvve/presets/hyvve generate=true                    a new platform: version 1 of every key is made

With connections to its database and its Redis (see hyvve/connections), DATABASE_URL and REDIS_URL are among them;
import the URLs in use:

    vault write hyvve/presets/hyvve database=main redis=cache
    vault write hyvve/keys/database-url value=-
    vault write hyvve/keys/redis-url value=-

Keys and workloads that are there already are left as they are, but for keys that this call makes: their workloads get them, in
waves. So writing it again changes nothing; what else workloads lack of the preset is in the answer. dry_run=true says what would be made. Keys that no chosen workload uses are defined too.
`),
	}}
}

func platformWorkloads() []string {
	var names []string
	for _, w := range platform.Workloads(platform.Servers{}) {
		names = append(names, w.Name)
	}
	return names
}

func (b *backend) readPreset(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	servers := presetServers(d)
	preset := api.Preset{Keys: map[string]api.PresetKey{}, Workloads: map[string]api.PresetWorkload{}}
	for _, p := range platform.Keys(servers) {
		_, there := e.Key(p.Name)
		preset.Keys[p.Name] = api.PresetKey{
			Env: p.Env, Kind: p.Kind, Options: p.Options, Protects: protectedColumns(p.Protects), RotationPeriod: api.SecondsOf(p.Period), Defined: there,
		}
	}
	for _, w := range platform.Workloads(servers) {
		_, there := e.Workload(w.Name)
		preset.Workloads[w.Name] = api.PresetWorkload{Keys: w.KeyNames(), After: w.After, Reencrypts: w.Reencrypts, RequireProof: w.RequireProof.String(), Defined: there}
	}
	return forPeople(d, preset), nil
}

func (b *backend) writePreset(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	servers := presetServers(d)
	r := request[api.PresetRequest](d)
	chosen, err := chosenWorkloads(servers, r.Workloads, r.MinInstances)
	if err != nil {
		return nil, err
	}
	if err := presetConnections(e, servers); err != nil {
		return nil, err
	}
	if r.DryRun {
		return presetPlan(e, d, servers, chosen, r.Generate), nil
	}
	made := []string{}
	added := map[string]bool{} // keys that were not there
	resp := &logical.Response{}
	by := caller(req)
	for _, p := range platform.Keys(servers) {
		what, err := b.presetKey(ctx, e, p, r.Generate, by, resp)
		if err != nil {
			return nil, err
		}
		added[p.Name] = slices.Contains(what, "key "+p.Name)
		made = append(made, what...)
	}
	for _, w := range chosen {
		what, err := b.presetWorkload(ctx, e, w, added, by, resp)
		if err != nil {
			return nil, err
		}
		made = append(made, what...)
	}
	return forPeople(d, api.PresetMade{Made: made}, resp.Warnings...), nil
}

// presetKey defines a key that is not there, and makes its first version if asked. It returns what it has made.
func (b *backend) presetKey(ctx context.Context, e *engine.Engine, p platform.Key, generate bool, by rotation.Actor, resp *logical.Response) (made []string, err error) {
	defer b.definitions.Lock("keys/" + p.Name)()
	k, there := e.Key(p.Name)
	if !there {
		definition := catalog.Definition{
			Name: p.Name, Env: p.Env, Kind: p.Kind, Options: p.Options, Protects: p.Protects,
			Policy: key.Policy{Period: p.Period, Soak: key.Inherit, Observe: key.Inherit, Deadline: key.Inherit, Retain: key.Inherit},
		}
		if k, err = e.PutKey(ctx, definition, by); err != nil {
			return nil, err
		}
		made = append(made, "key "+p.Name)
	}
	if len(k.Versions) > 0 {
		return made, nil
	}
	if !generate || p.Options[kind.OptionConnection] != "" { // a server has its credential already
		resp.AddWarning("key " + p.Name + " has no version yet; import the value in use with: vault write hyvve/keys/" + p.Name + " value=-")
		return made, nil
	}
	if _, _, err := e.First(ctx, p.Name, key.Value{}, by); err != nil {
		return nil, err
	}
	return append(made, "version 1 of "+p.Name), nil
}

// presetWorkload defines a workload that is not there, or adds to it keys that were made just now. It returns what it has made.
func (b *backend) presetWorkload(ctx context.Context, e *engine.Engine, w workload.Workload, added map[string]bool, by rotation.Actor, resp *logical.Response) ([]string, error) {
	defer b.definitions.Lock("workloads/" + w.Name)()
	old, there := e.Workload(w.Name)
	if !there {
		return []string{"workload " + w.Name}, e.PutWorkload(ctx, w, false, by)
	}
	attached := attach(old, w, added)
	if text := lacking(attached, w); text != "" {
		resp.AddWarning(text)
	}
	names := attachedTo(old, attached)
	if names == "" {
		return nil, nil
	}
	return []string{names + " of workload " + w.Name}, e.PutWorkload(ctx, attached, false, by)
}

// attach returns a workload that is there already with those of the keys that were made just now.
func attach(old, w workload.Workload, added map[string]bool) workload.Workload {
	old.Keys = maps.Clone(old.Keys)
	for name, role := range w.Keys {
		if _, ok := old.Keys[name]; !ok && added[name] {
			old.Keys[name] = role
		}
	}
	return old
}

// attachedTo names what attach has added.
func attachedTo(old, attached workload.Workload) string {
	return strings.Join(slices.DeleteFunc(attached.KeyNames(), func(name string) bool { return old.Keys[name] == attached.Keys[name] }), ", ")
}

// lacking says what a workload that is there already lacks of the platform's, with the command that adds it.
func lacking(old, w workload.Workload) string {
	var missing []string
	command := "vault write hyvve/workloads/" + w.Name
	for _, list := range []struct {
		field string
		in    func(workload.Role) bool
	}{{"add_presents", presents}, {"add_verifies", verifies}, {"add_single_value", holdsOne}} {
		var names []string
		for _, name := range keysThat(w, list.in) {
			if _, ok := old.Keys[name]; !ok {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			command += " " + list.field + "=" + strings.Join(names, ",")
			missing = append(missing, names...)
		}
	}
	if missing == nil {
		return ""
	}
	slices.Sort(missing)
	return "workload " + w.Name + " is there already and does not use " + strings.Join(slices.Compact(missing), ", ") + "; if it should: " + command
}

// presetPlan says what the preset would make.
func presetPlan(e *engine.Engine, d *framework.FieldData, servers platform.Servers, chosen []workload.Workload, generate bool) *logical.Response {
	plan, added := engine.DefinitionPlan{}, map[string]bool{}
	for _, p := range platform.Keys(servers) {
		k, there := e.Key(p.Name)
		if !there {
			added[p.Name] = true
			plan.Changes = append(plan.Changes, rotation.EntryChange{Field: "key " + p.Name, To: p.Kind + " " + p.Env})
		}
		if generate && len(k.Versions) == 0 && p.Options[kind.OptionConnection] == "" {
			plan.Changes = append(plan.Changes, rotation.EntryChange{Field: "version 1 of " + p.Name, To: "made"})
		}
	}
	for _, w := range chosen {
		old, there := e.Workload(w.Name)
		if !there {
			plan.Changes = append(plan.Changes, rotation.EntryChange{Field: "workload " + w.Name, To: strings.Join(w.KeyNames(), ", ")})
			continue
		}
		if names := attachedTo(old, attach(old, w, added)); names != "" {
			plan.Changes = append(plan.Changes, rotation.EntryChange{Field: "workload " + w.Name, To: "also " + names})
			if n := len(e.Instances(w.Name)); n > 0 {
				plan.Affected = append(plan.Affected, fmt.Sprintf("%d live instances of workload %s, in waves, once the new keys have versions", n, w.Name))
			}
		}
	}
	return definitionPlan(d, plan)
}

func presetAttempt(_ *engine.Engine, d *framework.FieldData) journal.Entry {
	entry := journal.Entry{What: "applying the preset"}
	for _, field := range []string{"database", "redis"} {
		if name := text(d, field); name != "" {
			entry.Changes = append(entry.Changes, rotation.EntryChange{Field: field, To: kind.PublicText(field, name)})
		}
	}
	return entry
}

func presetServers(d *framework.FieldData) platform.Servers {
	return platform.Servers{Database: d.Get("database").(string), Redis: d.Get("redis").(string)}
}

// presetConnections wants each connection that is named to be there, and of the kind of the key that is to name it.
func presetConnections(e *engine.Engine, s platform.Servers) error {
	for _, p := range platform.Keys(s) {
		if p.Server == "" {
			continue
		}
		name := p.Options[kind.OptionConnection]
		c, ok := e.Connection(name)
		switch {
		case !ok:
			return rotation.Refusef("%s: connection %q is not known; write hyvve/connections/%s kind=%s … first", p.Server, name, name, p.Kind)
		case c.Kind != p.Kind:
			return rotation.Refusef("%s: connection %q is of kind %s, and %s needs one of kind %s", p.Server, name, c.Kind, p.Env, p.Kind)
		}
	}
	return nil
}

// chosenWorkloads returns those named, or all; one that is not chosen is waited for by nobody.
func chosenWorkloads(s platform.Servers, names []string, minInstances int) ([]workload.Workload, error) {
	all := platformWorkloads()
	if len(names) == 0 {
		names = all
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, rotation.Refusef("workloads: %q is not one of the platform's; it has %s", name, strings.Join(all, ", "))
		}
	}
	if minInstances < 0 {
		return nil, rotation.Refusef("min_instances %d is negative; use 0 for workloads that may be absent", minInstances)
	}
	var chosen []workload.Workload
	for _, w := range platform.Workloads(s) {
		if !slices.Contains(names, w.Name) {
			continue
		}
		w.MinInstances = minInstances
		w.After = slices.DeleteFunc(w.After, func(name string) bool { return !slices.Contains(names, name) })
		chosen = append(chosen, w)
	}
	return chosen, nil
}
