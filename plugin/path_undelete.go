// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// pathsUndelete are those of retained versions, each with a path of its own: policies can give one without the others.
func (b *backend) pathsUndelete() []*framework.Path {
	fields := func(more map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
		all := map[string]*framework.FieldSchema{
			"name":    {Type: framework.TypeString, Required: true, Description: "Name of the key."},
			"version": {Type: framework.TypeInt, Required: true, Description: "Number of the version."},
			"reason":  {Type: framework.TypeString, Description: "Why; kept in the journal. Never put a secret here."},
		}
		for name, field := range more {
			all[name] = field
		}
		return all
	}
	path := func(verb, summary, description string, more map[string]*framework.FieldSchema, do handler, about string) *framework.Path {
		return &framework.Path{
			Pattern: "keys/(?P<name>[^/]+)/" + verb,
			Fields:  fields(more),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.write(whenFree(do), aboutKey(about), verb, "version", summary),
			},
			HelpSynopsis:    summary,
			HelpDescription: strings.TrimSpace(description),
		}
	}
	return []*framework.Path{
		path("undelete", "Make a retained version of a key accepted again beside the current one.", undeleteHelp, map[string]*framework.FieldSchema{
			"for": {Type: framework.TypeDurationSecond, Description: "For how long. Default, and 0s: as long as the key retains versions, or 24h where it retains none. At most 30 days, or as long as the key retains versions. Not for a key that protects rows: a rotation ends it there."},
		}, b.undelete, "undeleting a version"),
		path("retire", "End an undeleted version of a key before its time.", retireHelp, map[string]*framework.FieldSchema{
			"force": {Type: framework.TypeBool, Description: "End it although it is in use, or rows may need it. Its sessions at a server are ended."},
		}, b.retire, "retiring an undeleted version"),
		path("erase", "Erase the value of a retained version for good.", eraseHelp, nil, b.erase, "erasing a retained version"),
	}
}

const undeleteHelp = `
The value of a retired version is retained in quarantine for a time (retain= of the key): it is in no bundle, no path reads
it, and its login is locked. This makes it valid again beside the current version, which stays the one to present.

    vault read hyvve/keys/NAME                                   which versions are retained, and until when
    vault write hyvve/keys/NAME/undelete version=3 reason="nightly job was locked out"
    vault write hyvve/keys/NAME/undelete version=3 for=2h

  A login (PostgreSQL, Redis): clients with the old password log in again as soon as this answers. When the time is over,
  the login is locked again, once nobody uses it.
  A key that workloads verify: they get the version in their accept-lists until the time is over, or a rotation retires it.
  A key that protects rows: rows of a restored backup can be read again. Bring them under a new version by a rotation:
  vault write hyvve/rotate key=NAME. It retires the undeleted version, too, once no row needs it.

Refused while a rotation of the key runs. If the server fails, the same command does the rest.
`

const retireHelp = `
An undeleted version ends by itself; this ends it now. It goes back into quarantine for as long as the key retains versions,
and at least until its retention would have ended without the undeletion.

    vault write hyvve/keys/NAME/retire version=3

Refused while it is in use, and for a key that protects rows, which a rotation brings under a new version first. force=true
does it all the same. A login ends beside a running rotation of its key, too. If the server fails, its end is tried again by
itself; undelete takes that back.
`

const eraseHelp = `
The value of a retained version is erased at its end. This erases it now. Nothing brings it back: rows of a backup that need it
are lost.

    vault write hyvve/keys/NAME/erase version=3 reason="backups of that time are gone"
`

func (b *backend) undelete(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name, number, err := namedVersion(d)
	if err != nil {
		return nil, err
	}
	v, warnings, err := e.Undelete(ctx, engine.Undeletion{
		Key: name, Version: number, For: time.Duration(d.Get("for").(int)) * time.Second,
		Reason: d.Get("reason").(string), By: caller(req),
	})
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: map[string]any{"version": v.Number, "state": string(v.State), "until": stamp(v.Until)}}
	for _, w := range warnings {
		resp.AddWarning(w)
	}
	return resp, nil
}

func (b *backend) retire(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name, number, err := namedVersion(d)
	if err != nil {
		return nil, err
	}
	if err := e.RetireVersion(ctx, name, number, d.Get("force").(bool), d.Get("reason").(string), caller(req)); err != nil {
		return nil, err
	}
	return versionNow(e, name, number), nil
}

func (b *backend) erase(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name, number, err := namedVersion(d)
	if err != nil {
		return nil, err
	}
	if err := e.EraseVersion(ctx, name, number, d.Get("reason").(string), caller(req)); err != nil {
		return nil, err
	}
	return versionNow(e, name, number), nil
}

// namedVersion returns the key and the version that a request names.
func namedVersion(d *framework.FieldData) (name string, number int, err error) {
	name = d.Get("name").(string)
	if _, ok := d.GetOk("version"); !ok {
		return name, 0, rotation.Refusef("version is missing; give version=NUMBER (vault read hyvve/keys/%s lists the versions with their states)", name)
	}
	return name, d.Get("version").(int), nil
}

// versionNow answers with what has become of a version.
func versionNow(e *engine.Engine, name string, number int) *logical.Response {
	k, _ := e.Key(name)
	v, _ := k.Version(number)
	return &logical.Response{Data: map[string]any{"version": number, "state": string(v.State), "until": stamp(v.Until)}}
}

// whenFree does again what a check at the key's server has kept from being done.
func whenFree(do handler) handler {
	return func(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (resp *logical.Response, err error) {
		err = onceFree(ctx, func() error {
			resp, err = do(ctx, e, req, d)
			return err
		})
		return resp, err
	}
}
