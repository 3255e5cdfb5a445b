// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsConnections() []*framework.Path {
	return []*framework.Path{
		b.listing("connections", "List the connections.", "A connection is an administrator's login at a server where keys are valid.", func(_ context.Context, e *engine.Engine) ([]string, error) { return e.ConnectionNames(), nil }),
		{
			Pattern: "connections/(?P<name>[^/]+)/rotate-root",
			Fields:  withDetail(requestFields(api.ConnectionName{})),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.write(b.rotateRoot, aboutConnection("rotating an administrator's password"), oneOf{api.Connection{}, api.PlainLines{}}, "rotate", "connection-root", "Give the administrator a password that only this mount knows."),
			},
			HelpSynopsis: "Give the administrator a password that only this mount knows.",
			HelpDescription: strings.TrimSpace(`
The new password is stored before the server hears of it, and tried before the old one is forgotten. If anything fails in
between, both are known and tried; write it again to finish. Nobody can read the new password: keep another login at the
server that may change the administrator's. After a restore of the server, or of Vault, from before this, the two differ. Then
set a password of your choice at the server (PostgreSQL: ALTER ROLE hyvve_admin PASSWORD '…', as a superuser; Redis:
ACL SETUSER hyvve_admin on >PASSWORD and its rights), and write it to the connection.

    vault write -f hyvve/connections/NAME/rotate-root
    vault write hyvve/connections/NAME password=-        # after a restore
`),
		},
		{
			Pattern:        "connections/(?P<name>.+)",
			Fields:         b.connectionFields(),
			ExistenceCheck: b.exists("name", func(e *engine.Engine, name string) bool { _, ok := e.Connection(name); return ok }),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.write(b.writeConnection, b.connectionAttempt, oneOf{api.Connection{}, api.DefinitionPlan{}, api.PlainLines{}}, "create", "connection", "Store an administrator's login, when it has been tried."),
				logical.UpdateOperation: b.write(b.writeConnection, b.connectionAttempt, oneOf{api.Connection{}, api.DefinitionPlan{}, api.PlainLines{}}, "update", "connection", "Change a connection; fields not given stay."),
				logical.ReadOperation:   b.operation(b.lookAtConnection, oneOf{api.Connection{}, api.PlainLines{}}, "read", "connection", "Read a connection, without passwords and private keys, and what is wrong with its server now."),
				logical.DeleteOperation: b.write(b.deleteConnection, aboutConnection("deleting a connection"), nil, "delete", "connection", "Forget a connection."),
			},
			HelpSynopsis:    "Connections: administrators' logins at the servers where keys are valid.",
			HelpDescription: strings.TrimSpace(b.connectionsHelp()),
		},
	}
}

// connectionFields are those of every kind that has connections.
func (b *backend) connectionFields() map[string]*framework.FieldSchema {
	fields := withDetail(requestFields(api.ConnectionRequest{}, "{kinds}", strings.Join(connectors(b.kinds), ", ")))
	for _, k := range b.kinds {
		connector, ok := k.(kind.Connector)
		if !ok {
			continue
		}
		for _, f := range connector.ConnectionFields() {
			addField(fields, f, k.Name())
		}
	}
	return fields
}

// addField adds a kind's field, or what this kind says of one that another kind has too.
func addField(fields map[string]*framework.FieldSchema, f kind.Field, kindName string) {
	text := fmt.Sprintf("%s (kind %s; default %q)", f.Description, kindName, f.Default)
	if there, ok := fields[f.Name]; ok {
		there.Description += " " + text
		return
	}
	fields[f.Name] = &framework.FieldSchema{Type: framework.TypeString, Description: text}
	if f.Secret {
		fields[f.Name].DisplayAttrs = &framework.DisplayAttributes{Sensitive: true}
	}
}

func connectors(list kind.List) []string {
	var names []string
	for _, name := range list.Names() {
		if k, err := list.Get(name); err == nil {
			if _, ok := k.(kind.Connector); ok {
				names = append(names, name)
			}
		}
	}
	return names
}

func (b *backend) connectionsHelp() string {
	return `
A connection is an administrator's login at a server where keys are valid: keys of kind ` + strings.Join(connectors(b.kinds), " or ") + ` name one
in connection=. It is tried when it is written: it can log in, and may do what rotations will ask for. What an operator
should know of the server stands in notes. Passwords and private keys are never read back; give them on standard input:

    vault write hyvve/connections/main kind=postgres url=postgresql://hyvve_admin@db:5432/postgres password=-
    vault write -f hyvve/connections/main/rotate-root

A read looks at the server: problems says what is wrong there now. hyvve/status shows it, too, as of the last check (look_every=
of hyvve/config).

Rotations that wait because a server refused its administrator go on as soon as the connection is mended here.
`
}

func (b *backend) writeConnection(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c, err := b.connection(e, d)
	if err != nil {
		return nil, err
	}
	if d.Get("dry_run").(bool) {
		plan, notes, err := e.PlanConnection(ctx, c, d.Get("verify_connection").(bool))
		return definitionPlan(d, plan, notes...), err
	}
	if _, err := e.PutConnection(ctx, c, d.Get("verify_connection").(bool), caller(req)); err != nil {
		return nil, err
	}
	return b.readConnection(ctx, e, req, d)
}

// connection is what is written.
func (b *backend) connection(e *engine.Engine, d *framework.FieldData) (kind.Connection, error) {
	c := kind.Connection{
		Name: d.Get("name").(string), Kind: d.Get("kind").(string), Options: kind.Options{}, Secrets: map[string]key.Value{},
	}
	for _, k := range b.kinds {
		connector, ok := k.(kind.Connector)
		if !ok {
			continue
		}
		for _, f := range connector.ConnectionFields() {
			v, given := d.GetOk(f.Name)
			switch {
			case !given:
			case f.Secret:
				c.Secrets[f.Name] = key.NewValue(v.(string))
			default:
				c.Options[f.Name] = v.(string)
			}
		}
	}
	if err := key.ValidateName("connection", c.Name); err != nil { // a misspelt rotate-root, say
		return c, rotation.Refusef("%w", err)
	}
	if _, exists := e.Connection(c.Name); c.Kind == "" && !exists {
		return c, rotation.Refusef("kind is empty; use one of: %s", strings.Join(connectors(b.kinds), ", "))
	}
	return c, nil
}

// lookAtConnection is readConnection after a look at the server.
func (b *backend) lookAtConnection(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	inTime := e.LookAtConnection(ctx, d.Get("name").(string))
	resp, err := b.readConnection(ctx, e, req, d)
	if resp != nil && !inTime {
		resp.AddWarning("The server has not answered yet; problems are those of the check before. Read it again.")
	}
	return resp, err
}

func (b *backend) readConnection(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c, ok := e.Connection(d.Get("name").(string))
	if !ok {
		return nil, nil
	}
	response, health := connectionData(c), e.ConnectionHealth(c.Name)
	response.Checked, response.Problems = &api.Time{Time: health.At}, append([]string{}, health.Texts()...)
	if len(health.Notes) > 0 {
		response.Notes = health.Notes
	}
	return forPeople(d, response), nil
}

func connectionData(c kind.Connection) api.Connection {
	options := map[string]string{}
	for name, value := range c.Options {
		options[name] = redacted(value)
	}
	return api.Connection{
		Name: c.Name, Kind: c.Kind, Notes: append([]string{}, c.Notes...), Written: api.Time{Time: c.Written}, LastRootRotation: api.Time{Time: c.Rotated},
		RootRotationUnfinished: !c.Next.Empty(), Options: options,
	}
}

func (b *backend) deleteConnection(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, e.DeleteConnection(ctx, d.Get("name").(string), caller(req))
}

func (b *backend) rotateRoot(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c, err := e.RotateRoot(ctx, d.Get("name").(string), caller(req))
	if err != nil {
		return nil, err
	}
	return forPeople(d, connectionData(c)), nil
}
