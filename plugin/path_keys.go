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

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsKeys() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "keys/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation(b.listKeys, "list", "keys", "List the keys."),
			},
			HelpSynopsis:    "List the keys.",
			HelpDescription: "Names only; read hyvve/status for all keys at a glance.",
		},
		{
			// Not GenericNameRegex alone: a name with a slash should be told what is wrong with it.
			Pattern:        "keys/(?P<name>.+)",
			Fields:         b.keyFields(),
			ExistenceCheck: b.exists("name", func(e *engine.Engine, name string) bool { _, ok := e.Key(name); return ok }),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.write(b.writeKey, b.keyAttempt, "create", "key", "Define a key, and give it its first version."),
				logical.UpdateOperation: b.write(b.writeKey, b.keyAttempt, "update", "key", "Change a key's definition, or give it its first version."),
				logical.ReadOperation:   b.operation(b.readKey, "read", "key", "Read a key's definition and its versions, without values."),
				logical.DeleteOperation: b.write(b.deleteKey, aboutKey("deleting a key"), "delete", "key", "Erase a key and all its values."),
			},
			HelpSynopsis:    "Keys: definition, policy and versions. Values are never read here.",
			HelpDescription: strings.TrimSpace(b.keysHelp()),
		},
	}
}

// keyFields are those of every key, and the options of every kind.
func (b *backend) keyFields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"name":  {Type: framework.TypeString, Required: true, Description: "Name of the key: lower-case letters, digits, '-', '_' and '.'."},
		"kind":  {Type: framework.TypeString, Default: "token", Description: "What makes and checks values: " + strings.Join(b.kinds.Names(), ", ") + "."},
		"env":   {Type: framework.TypeString, Description: "Environment name under which workloads know it. Default: the name in upper case."},
		"value": {Type: framework.TypeString, Description: "The value in use today, imported as version 1. Only for a key without versions. Use value=- to read it from standard input.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
		"generate": {
			Type: framework.TypeBool, Description: "Make version 1 instead of importing it. Only for a key without versions.",
		},
		"protects":        {Type: framework.TypeCommaStringSlice, Description: "Columns of envelopes that the key encrypts, as [schema.]table.column:layout with layout tag-first or tag-last, and rows where only some have them: \" where column=value and other is null\". \"none\" for none."},
		"waives":          {Type: framework.TypeCommaStringSlice, Description: "Columns, as [schema.]table.column, in which envelopes of the key may be found that nobody re-encrypts: they are lost with the version that opens them. \"none\" for none."},
		"witness":         {Type: framework.TypeString, Description: "Who else than instances opens every row before a version that rows may need is erased: the name of a connection of kind postgres to their database, whose administrator may SELECT the columns, so that the engine looks itself. \"none\": one instance's word is enough. \"\": two instances with logins of their own are waited for. Default \"\"."},
		"rotation_period": {Type: framework.TypeDurationSecond, Description: "Rotate by itself when a version is so old. 0: only when asked."},
		"rotation_schedule": {
			Type:        framework.TypeString,
			Description: "Rotate by itself at these times: cron of five fields in UTC, or in a zone, as in \"CRON_TZ=Europe/Berlin 0 3 * * SUN\". Not together with rotation_period. \"\" for none.",
		},
		"rotation_window": {
			Type:        framework.TypeDurationSecond,
			Description: "For how long after a time of rotation_schedule a rotation may start; a time missed for longer waits for the next. 0: it is made up for whenever.",
		},
		"disable_automated_rotation": {Type: framework.TypeBool, Description: "Rotate only when asked, whatever rotation_period and rotation_schedule say."},
		"soak":                       {Type: framework.TypeSignedDurationSecond, Description: "How long a new version must work everywhere before the old one may be retired. Default: that of hyvve/config; -1 goes back to it."},
		"observe":                    {Type: framework.TypeSignedDurationSecond, Description: "For how long the key's server must have seen nobody use the old version before it is retired; each use starts it again. Make it longer than the pause between the rarest logins: 25h for a daily job. Default: that of hyvve/config; -1 goes back to it."},
		"deadline":                   {Type: framework.TypeSignedDurationSecond, Description: "How long a step of a rotation may take before it has failed. 0: for as long as it takes. Default: that of hyvve/config; -1 goes back to it."},
		"on_failure":                 {Type: framework.TypeString, Description: "What happens to a rotation that has failed (an unhealthy instance while it presents, or the deadline passed): pause or revert. Default: that of hyvve/config."},
		"confirm":                    {Type: framework.TypeString, Description: "manual: somebody must confirm a rotation before the old version is retired. auto: evidence is enough. Default: that of hyvve/config."},
		"confirm_by":                 {Type: framework.TypeString, Description: "other: another user than the one who started the rotation must confirm it, even where it is compromised; it implies confirm=manual. any: every user with the right to. Default: that of hyvve/config; \"\" goes back to it."},
		"retain":                     {Type: framework.TypeSignedDurationSecond, Description: "For how long the value of a retired version is retained in quarantine, in no bundle; hyvve/keys/NAME/undelete brings it back until then. Holds for versions that are retired from then on. 0s: it is erased at once. Default: that of hyvve/config; -1 goes back to it."},
	}
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

A value of several lines, such as a PEM, needs multiline=true, and workloads that can carry it (docs/sidecar.md):

    vault write hyvve/keys/tls-key kind=external multiline=true value=@tls.key

Where it protects rows, let the engine open them itself before a version is erased (docs/reencryption.md):

    vault write hyvve/keys/encryption-master-key witness=main

It rotates by itself with rotation_period or rotation_schedule:

    vault write hyvve/keys/jwt-secret rotation_period=30d
    vault write hyvve/keys/jwt-secret rotation_period=0 rotation_schedule="CRON_TZ=Europe/Berlin 0 3 * * SUN" rotation_window=2h

The value of a retired version is retained for a time (retain=), in no bundle, and brought back by keys/NAME/undelete.

Kinds:
`
	for _, k := range b.kinds {
		text += fmt.Sprintf("\n    %-10s %s", k.Name(), k.Summary())
	}
	return text
}

func (b *backend) listKeys(_ context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return logical.ListResponse(e.KeyNames()), nil
}

func (b *backend) writeKey(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
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
	if _, err := e.PutKey(ctx, definition, caller(req)); err != nil {
		return nil, err
	}
	var warnings []string
	if hasValue || generate {
		text, _ := value.(string)
		var err error
		if _, warnings, err = e.First(ctx, name, key.NewValue(text), caller(req)); err != nil {
			return nil, err
		}
	}
	_, witness := d.GetOk("witness")
	if _, protects := d.GetOk("protects"); witness || protects {
		for _, fault := range e.TryWitness(ctx, name) {
			warnings = append(warnings, "The key is written, and no rotation of it will start: "+fault)
		}
	}
	resp, err := b.readKey(ctx, e, req, d)
	if resp != nil {
		for _, w := range warnings {
			resp.AddWarning(w)
		}
	}
	return resp, err
}

// guessedKind refuses a new key of the default kind whose value is a URL with a password: its name is misspelt, or its kind
// forgotten. As a token, it would be replaced by a random string.
func (b *backend) guessedKind(e *engine.Engine, d *framework.FieldData, definition engine.Definition) error {
	text, _ := d.Get("value").(string)
	_, given := d.GetOk("kind")
	_, exists := e.Key(definition.Name)
	if given || exists || dsn.Redact(text) == text {
		return nil
	}
	return rotation.Refusef("key %s is new, and its value is a URL with a password; is the name misspelt? If not, give kind= (%s)", definition.Name, strings.Join(b.kinds.Names(), ", "))
}

// definition is what is stored with what is written over it.
func (b *backend) definition(e *engine.Engine, d *framework.FieldData, name string) (engine.Definition, error) {
	definition := engine.Definition{Name: name, Kind: d.Get("kind").(string), Options: kind.Options{}, Policy: key.Policy{Soak: key.Inherit, Observe: key.Inherit, Deadline: key.Inherit, Retain: key.Inherit}}
	if old, ok := e.Key(name); ok {
		definition.Env, definition.Protects, definition.Waives, definition.Policy = old.Env, old.Protects, old.Waives, old.Policy
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
	if v, ok := d.GetOk("env"); ok {
		definition.Env = v.(string)
	}
	writePolicy(d, &definition.Policy)
	if v, ok := d.GetOk("protects"); ok {
		columns, err := parseColumns(v.([]string))
		if err != nil {
			return definition, err
		}
		definition.Protects = columns
	}
	if v, ok := d.GetOk("waives"); ok {
		if definition.Waives = slices.Clone(v.([]string)); slices.Equal(definition.Waives, []string{"none"}) {
			definition.Waives = nil
		}
	}
	if v, ok := d.GetOk("witness"); ok {
		definition.Witness = v.(string)
	}
	return definition, nil
}

// writePolicy puts what is written over a policy.
func writePolicy(d *framework.FieldData, p *key.Policy) {
	for field, into := range map[string]*time.Duration{
		"rotation_period": &p.Period, "rotation_window": &p.Window, "soak": &p.Soak, "observe": &p.Observe, "deadline": &p.Deadline, "retain": &p.Retain,
	} {
		v, ok := d.GetOk(field)
		switch {
		case !ok:
		case v.(int) == -1 && (field == "soak" || field == "observe" || field == "deadline" || field == "retain"):
			*into = key.Inherit
		default:
			*into = time.Duration(v.(int)) * time.Second
		}
	}
	for field, into := range map[string]*string{
		"rotation_schedule": &p.Schedule, "on_failure": &p.OnFailure, "confirm": &p.Confirm, "confirm_by": &p.ConfirmBy,
	} {
		if v, ok := d.GetOk(field); ok {
			*into = v.(string)
		}
	}
	if v, ok := d.GetOk("disable_automated_rotation"); ok {
		p.Disabled = v.(bool)
	}
}

// checkFirst refuses a first version before anything is stored.
func (b *backend) checkFirst(e *engine.Engine, definition engine.Definition, value any, hasValue, generate bool) error {
	if !hasValue && !generate {
		return nil
	}
	if hasValue && generate {
		return rotation.Refusef("value and generate exclude each other; give the value in use, or generate=true for a new one")
	}
	old, _ := e.Key(definition.Name)
	if _, begun := old.FirstStaged(); begun && hasValue {
		return rotation.Refusef("key %s has a version 1 that is not valid at its server yet; go on with it by generate=true, or delete the key first", old.Name)
	} else if len(old.Versions) > 0 && !begun {
		return rotation.Refusef("key %s has %d versions already; rotate it with: vault write hyvve/rotate key=%s; if a wrong value was imported and nobody uses it, take the key out of its workloads, delete it with: vault delete hyvve/keys/%s, and import again", old.Name, len(old.Versions), old.Name, old.Name)
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
	if _, err := k.Check(options, key.NewValue(value.(string))); err != nil {
		return rotation.Refusef("key %s: %w", definition.Name, engine.NameNewline(key.NewValue(value.(string)), err))
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
	versions := make([]map[string]any, 0, len(k.Versions))
	for _, v := range slices.Backward(k.Versions) {
		versions = append(versions, map[string]any{
			"version": v.Number, "state": string(v.State), "created_time": stamp(v.Created), "created_by": v.CreatedBy,
			"fingerprint": v.Fingerprint, "rotation": v.Rotation, "until": stamp(v.Until),
		})
	}
	protects := make([]string, 0, len(k.Protects))
	for _, c := range k.Protects {
		protects = append(protects, c.Protected())
	}
	data := map[string]any{
		"name": k.Name, "kind": k.Kind, "env": k.Env, "protects": protects, "waives": append([]string{}, k.Waives...), "witness": k.Witness, "versions": versions,
		"created_time": stamp(k.Created), "current_version": 0,
	}
	p := e.Config().Effective(k.Policy)
	for name, value := range map[string]any{
		"rotation_period": int64(p.Period.Seconds()), "rotation_schedule": p.Schedule, "rotation_window": int64(p.Window.Seconds()),
		"disable_automated_rotation": p.Disabled, "soak": int64(p.Soak.Seconds()), "observe": int64(p.Observe.Seconds()), "deadline": int64(p.Deadline.Seconds()),
		"on_failure": p.OnFailure, "confirm": p.Confirm, "confirm_by": p.ConfirmBy, "retain": int64(e.RetainOf(k).Seconds()),
	} {
		data[name] = value
	}
	if current, ok := k.Current(); ok {
		data["current_version"] = current.Number
	}
	for option, value := range k.Options {
		data[option] = redacted(value)
	}
	return &logical.Response{Data: data, Warnings: e.ReservedNames(k)}, nil
}

func (b *backend) deleteKey(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
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

// stamp writes a time as Vault does, empty for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
