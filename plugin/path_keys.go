// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/nearest"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsKeys() []*framework.Path {
	return []*framework.Path{
		b.listing("keys", "List the keys.", "Names only; read hyvve/status for all keys at a glance.", func(_ context.Context, e *engine.Engine) ([]string, error) { return e.KeyNames(), nil }),
		{
			// Not GenericNameRegex alone: the error for a name with a slash should say what is wrong.
			Pattern:        "keys/(?P<name>.+)",
			Fields:         b.keyFields(),
			ExistenceCheck: b.exists("name", func(e *engine.Engine, name string) bool { _, ok := e.Key(name); return ok }),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.write(b.writeKey, b.keyAttempt, oneOf{api.Key{}, api.DefinitionPlan{}, api.PlainLines{}}, "create", "key", "Define a key, and give it its first version."),
				logical.UpdateOperation: b.write(b.writeKey, b.keyAttempt, oneOf{api.Key{}, api.DefinitionPlan{}, api.PlainLines{}}, "update", "key", "Change a key's definition, or give it its first version."),
				logical.ReadOperation:   b.operation(b.readKey, oneOf{api.Key{}, api.PlainLines{}}, "read", "key", "Read a key's definition and its versions, without values."),
				logical.DeleteOperation: b.write(b.deleteKey, aboutKey("deleting a key"), nil, "delete", "key", "Erase a key and all its values."),
			},
			HelpSynopsis:    "Keys: definition, policy and versions. Values are never read here.",
			HelpDescription: strings.TrimSpace(b.keysHelp()),
		},
	}
}

// keyFields are those of every key, and the options of every kind.
func (b *backend) keyFields() map[string]*framework.FieldSchema {
	fields := withDetail(requestFields(api.KeyRequest{}, "{kinds}", strings.Join(b.kinds.Names(), ", ")))
	for _, k := range b.kinds {
		for _, f := range k.Fields() {
			addField(fields, f, k.Name())
		}
	}
	return fields
}

func (b *backend) keysHelp() string {
	text := `
A key is a named secret that the platform needs. Writing it creates or changes its definition; fields not given stay
as they are. Its versions change by rotation only, except for the first one:

    vault write hyvve/keys/agent-service-token format=hex length=32 generate=true
    vault write hyvve/keys/encryption-master-key format=base64 rule=encryption-master-key value=-

A wrong first value, imported or made, is replaced by writing the right one, as long as no instance was given it.

A value of several lines, such as a PEM, needs multiline=true, and workloads that can carry it (docs/sidecar.md):

    vault write hyvve/keys/tls-key kind=external multiline=true value=@tls.key

Where it protects rows, let the engine open them itself before a version is erased (docs/reencryption.md):

    vault write hyvve/keys/encryption-master-key witness=main

It rotates by itself with rotation_period or rotation_schedule:

    vault write hyvve/keys/jwt-secret rotation_period=30d
    vault write hyvve/keys/jwt-secret rotation_period=0 rotation_schedule="CRON_TZ=Europe/Berlin 0 3 * * SUN" rotation_window=2h

Neither makes up for a time before it was written. next_rotation in the answer is when that will be.

The value of a retired version is retained for a time (retain=), in no bundle, and brought back by keys/NAME/undelete.

Kinds:
`
	for _, k := range b.kinds {
		text += fmt.Sprintf("\n    %-10s %s", k.Name(), k.Summary())
	}
	return text
}

func (b *backend) writeKey(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	defer b.definitions.Lock("keys/" + name)()
	definition, err := b.definition(e, d, name)
	if err != nil {
		return nil, err
	}
	if err := key.ValidateName("key", name); err != nil {
		return nil, rotation.Refusef("%w", err)
	}
	value, hasValue := d.GetOk("value")
	generate := d.Get("generate").(bool)
	if err := b.guessedKind(e, d, definition); err != nil {
		return nil, err
	}
	if err := b.checkFirst(e, definition, value, hasValue, generate); err != nil {
		return nil, err
	}
	if text, _ := value.(string); hasValue || generate {
		if err := e.TryFirst(ctx, definition, key.NewValue(text)); err != nil {
			return nil, err
		}
	}
	if d.Get("dry_run").(bool) {
		plan, err := e.PlanKey(definition, caller(req))
		if hasValue {
			plan.Changes = append(plan.Changes, importChange(e, name))
		} else if generate {
			plan.Changes = append(plan.Changes, rotation.EntryChange{Field: "value", To: "version 1, made"})
		}
		return definitionPlan(d, plan), err
	}
	if _, err := e.PutKey(ctx, definition, caller(req)); err != nil {
		return nil, err
	}
	var warnings []string
	if hasValue || generate {
		text, _ := value.(string)
		first := e.First
		if k, _ := e.Key(name); hasValue && len(k.Versions) > 0 {
			first = e.Replace
		}
		var err error
		if _, warnings, err = first(ctx, name, key.NewValue(text), caller(req)); err != nil {
			return nil, err
		}
	}
	_, witness := d.GetOk("witness")
	if _, protects := d.GetOk("protects"); witness || protects {
		for _, fault := range e.TryWitness(ctx, name) {
			warnings = append(warnings, "The key is written, and no rotation of it will start: "+fault)
		}
	}
	warnings = append(warnings, e.KeyRisks(name, written(d))...)
	resp, err := b.readKey(ctx, e, req, d)
	if resp != nil {
		for _, w := range warnings {
			resp.AddWarning(w)
		}
	}
	return resp, err
}

// importChange says what the import of a value would change.
func importChange(e *engine.Engine, name string) rotation.EntryChange {
	change := rotation.EntryChange{Field: "value", To: "version 1, imported"}
	k, _ := e.Key(name)
	if current, ok := k.Current(); ok {
		change.From = fmt.Sprintf("version %d, which nobody was given", current.Number)
		change.To = fmt.Sprintf("version %d, imported", k.NextNumber())
	}
	return change
}

// guessedKind refuses a new key with a value of which no kind is given: its name is misspelt, or its kind forgotten. As a token, the
// default, its next version would be a random string.
func (b *backend) guessedKind(e *engine.Engine, d *framework.FieldData, definition catalog.Definition) error {
	text, _ := d.Get("value").(string)
	_, given := d.GetOk("kind")
	_, exists := e.Key(definition.Name)
	if given || exists || text == "" || d.Get("generate").(bool) {
		return nil
	}
	meant := "is the name misspelt? The keys are listed by: vault list hyvve/keys"
	if name := nearest.To(definition.Name, e.KeyNames()); name != "" {
		meant = "did you mean " + name + "?"
	}
	return rotation.Refusef("key %s is new; %s To define a new key, say of what kind its value is: kind= (%s); nothing was stored", definition.Name, meant, strings.Join(b.kinds.Names(), ", "))
}

// definition is what is stored with what is written over it.
func (b *backend) definition(e *engine.Engine, d *framework.FieldData, name string) (catalog.Definition, error) {
	definition := catalog.Definition{Name: name, Kind: d.Get("kind").(string), Options: kind.Options{}, Policy: key.Policy{Soak: key.Inherit, Observe: key.Inherit, Deadline: key.Inherit, Retain: key.Inherit}}
	if old, ok := e.Key(name); ok {
		definition.Env, definition.Protects, definition.IgnoreColumns, definition.Policy = old.Env, old.Protects, old.IgnoreColumns, old.Policy
		definition.Witness = old.Witness
		for option, value := range old.Options {
			definition.Options[option] = value
		}
		if _, given := d.GetOk("kind"); !given {
			definition.Kind = old.Kind
		}
	}
	for _, k := range b.kinds {
		for _, f := range k.Fields() {
			if v, ok := d.GetOk(f.Name); ok {
				definition.Options[f.Name] = v.(string)
			}
		}
	}
	r := request[api.KeyRequest](d)
	set(&definition.Env, r.Env)
	set(&definition.Witness, r.Witness)
	writePolicy(r, &definition.Policy)
	if r.IgnoreColumns != nil {
		if definition.IgnoreColumns = slices.Clone(*r.IgnoreColumns); slices.Equal(definition.IgnoreColumns, []string{"none"}) {
			definition.IgnoreColumns = nil
		}
	}
	if r.Protects != nil {
		columns, err := parseColumns(*r.Protects)
		if err != nil {
			return definition, err
		}
		definition.Protects = columns
	}
	return definition, nil
}

// writePolicy puts what is written over a policy.
func writePolicy(r api.KeyRequest, p *key.Policy) {
	setSeconds(&p.Period, r.RotationPeriod)
	setSeconds(&p.Window, r.RotationWindow)
	inherits(&p.Soak, r.Soak)
	inherits(&p.Observe, r.Observe)
	inherits(&p.Deadline, r.Deadline)
	inherits(&p.Retain, r.Retain)
	set(&p.Schedule, r.RotationSchedule)
	set(&p.OnFailure, r.OnFailure)
	set(&p.Confirm, r.Confirm)
	set(&p.ConfirmBy, r.ConfirmBy)
	set(&p.Disabled, r.Disabled)
}

// inherits is [setSeconds] of a duration for which -1 stands for that of the configuration.
func inherits(into *time.Duration, given *api.SignedSeconds) {
	switch {
	case given == nil:
	case *given == -1:
		*into = key.Inherit
	default:
		*into = api.Seconds(*given).Duration()
	}
}

// checkFirst refuses a first version before anything is stored.
func (b *backend) checkFirst(e *engine.Engine, definition catalog.Definition, value any, hasValue, generate bool) error {
	if !hasValue && !generate {
		return nil
	}
	if hasValue && generate {
		return rotation.Refusef("value and generate exclude each other; give the value in use, or generate=true for a new one")
	}
	old, _ := e.Key(definition.Name)
	if _, begun := old.FirstStaged(); begun && hasValue {
		return rotation.Refusef("key %s has a version 1 that is not valid at its server yet; go on with it by generate=true, or delete the key first", old.Name)
	} else if len(old.Versions) > 0 && !begun && generate {
		return rotation.Refusef("key %s has %d versions already; rotate it with: vault write hyvve/rotate key=%s", old.Name, len(old.Versions), old.Name)
	} else if current, has := old.Current(); has {
		if err := e.CheckReplace(old.Name); err != nil {
			return err
		}
		if current.Value.Equal(key.NewValue(value.(string))) { // only here: of a value that is in use this would answer guesses
			return rotation.Refusef("key %s has this value already, as version %d; nothing was changed", old.Name, current.Number)
		}
	}
	if !hasValue {
		return nil
	}
	if value.(string) == "" {
		return rotation.Refusef("key %s: value is empty; give the value in use today, or generate=true for a new one", definition.Name)
	}
	k, err := b.kinds.Get(definition.Kind)
	if err != nil {
		return rotation.Refusef("%w", err)
	}
	options, err := k.Normalize(definition.Options)
	if err != nil {
		return rotation.Refusef("key %s: %w", definition.Name, err)
	}
	if _, err := catalog.CheckValue(k, options, key.NewValue(value.(string))); err != nil {
		return rotation.Refusef("key %s: %w", definition.Name, err)
	}
	return nil
}

// parseColumns reads what key.Column.Protected writes.
func parseColumns(texts []string) ([]key.Column, error) {
	if slices.Equal(texts, []string{"none"}) {
		return nil, nil
	}
	var columns []key.Column
	for _, text := range texts {
		c, err := key.ParseProtected(text)
		if err != nil {
			return nil, rotation.Refusef("protects: %w", err)
		}
		columns = append(columns, c)
	}
	return columns, nil
}

func (b *backend) readKey(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	k, ok := e.Key(d.Get("name").(string))
	if !ok {
		return nil, nil
	}
	p := e.Config().Effective(k.Policy)
	current, _ := k.Current()
	data := api.Key{
		Name: k.Name, Kind: k.Kind, Env: k.Env, Protects: protectedColumns(k.Protects), IgnoreColumns: append([]string{}, k.IgnoreColumns...), Witness: k.Witness,
		Versions: make([]api.KeyVersion, 0, len(k.Versions)), Created: api.Time{Time: k.Created}, CurrentVersion: current.Number,
		NextRotation:   api.Time{Time: e.NextRotation(k.Name)},
		RotationPeriod: api.SecondsOf(p.Period), RotationSchedule: p.Schedule, RotationWindow: api.SecondsOf(p.Window), Disabled: p.Disabled,
		Soak: api.SecondsOf(p.Soak), Observe: api.SecondsOf(p.Observe), Deadline: api.SecondsOf(p.Deadline), OnFailure: p.OnFailure,
		Confirm: p.Confirm, ConfirmBy: p.ConfirmBy, Retain: api.SecondsOf(e.RetainOf(k)), Presented: presented(e.Trips(k.Name)), Options: map[string]string{},
	}
	for _, v := range slices.Backward(k.Versions) {
		data.Versions = append(data.Versions, api.KeyVersion{
			Version: v.Number, State: string(v.State), Created: api.Time{Time: v.Created}, CreatedBy: v.CreatedBy,
			Fingerprint: v.Fingerprint, Rotation: v.Rotation, Until: api.Time{Time: v.Until},
		})
	}
	for option, value := range k.Options {
		data.Options[option] = redacted(value)
	}
	return forPeople(d, data, e.ReservedNames(k)...), nil
}

// protectedColumns are the texts of columns.
func protectedColumns(columns []key.Column) []string {
	texts := make([]string, 0, len(columns))
	for _, c := range columns {
		texts = append(texts, c.Protected())
	}
	return texts
}

func (b *backend) deleteKey(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	defer b.definitions.Lock("keys/" + name)()
	logins := e.Logins(name)
	k, _ := e.Key(name)
	if err := e.DeleteKey(ctx, name, caller(req)); err != nil {
		return nil, err
	}
	resp := &logical.Response{}
	if retained := k.Retained(); len(retained) > 0 {
		resp.AddWarning(fmt.Sprintf("The values of %d retained versions are erased, too: nothing brings them back.", len(retained)))
	}
	if len(logins) == 0 {
		return warned(resp), nil
	}
	resp.AddWarning("The key and its values are deleted here. Its server was not asked: " + strings.Join(logins, ", ") +
		" can log in there as before. Lock or drop what nobody uses any more.")
	return resp, nil
}

// warned is an answer that says nothing but warnings; nil: there are none.
func warned(resp *logical.Response) *logical.Response {
	if len(resp.Warnings) == 0 {
		return nil
	}
	return resp
}
