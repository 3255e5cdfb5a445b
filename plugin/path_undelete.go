// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// pathsUndelete are those of retained versions, each with a path of its own: policies can give one without the others.
func (b *backend) pathsUndelete() []*framework.Path {
	path := func(verb, summary, description string, fields any, do handler, about string) *framework.Path {
		return &framework.Path{
			Pattern: "keys/(?P<name>[^/]+)/" + verb,
			Fields:  requestFields(fields),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.write(whenFree(do), aboutKey(about), api.Version{}, verb, "version", summary),
			},
			HelpSynopsis:    summary,
			HelpDescription: strings.TrimSpace(description),
		}
	}
	return []*framework.Path{
		path("undelete", "Make a retained version of a key accepted again beside the current one.", undeleteHelp, api.UndeleteRequest{}, b.undelete, "undeleting a version"),
		path("retire", "End an undeleted version of a key before its time.", retireHelp, api.RetireRequest{}, b.retire, "retiring an undeleted version"),
		path("erase", "Erase the value of a retained version for good.", eraseHelp, api.VersionRequest{}, b.erase, "erasing a retained version"),
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
	r := request[api.UndeleteRequest](d)
	if err := namesVersion(r.VersionRequest); err != nil {
		return nil, err
	}
	v, warnings, err := e.Undelete(ctx, engine.Undeletion{Key: r.Name, Version: *r.Version, For: r.For.Duration(), Reason: r.Reason, By: caller(req)})
	if err != nil {
		return nil, err
	}
	return answer(api.Version{Version: v.Number, State: string(v.State), Until: api.Time{Time: v.Until}}, warnings...), nil
}

func (b *backend) retire(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.RetireRequest](d)
	if err := namesVersion(r.VersionRequest); err != nil {
		return nil, err
	}
	if err := e.RetireVersion(ctx, r.Name, *r.Version, r.Force, r.Reason, caller(req)); err != nil {
		return nil, err
	}
	return versionNow(e, r.VersionRequest), nil
}

func (b *backend) erase(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.VersionRequest](d)
	if err := namesVersion(r); err != nil {
		return nil, err
	}
	if err := e.EraseVersion(ctx, r.Name, *r.Version, r.Reason, caller(req)); err != nil {
		return nil, err
	}
	return versionNow(e, r), nil
}

// namesVersion refuses a request without a version.
func namesVersion(r api.VersionRequest) error {
	if r.Version == nil {
		return rotation.Refusef("version is missing; give version=NUMBER (vault read hyvve/keys/%s lists the versions with their states)", r.Name)
	}
	return nil
}

// versionNow answers with what has become of a version.
func versionNow(e *engine.Engine, r api.VersionRequest) *logical.Response {
	k, _ := e.Key(r.Name)
	v, _ := k.Version(*r.Version)
	return answer(api.Version{Version: *r.Version, State: string(v.State), Until: api.Time{Time: v.Until}})
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

func (b *backend) pathsReconcile() []*framework.Path {
	return []*framework.Path{{
		Pattern: "keys/(?P<name>[^/]+)/reconcile",
		Fields:  withDetail(requestFields(api.ReconcileRequest{})),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.write(b.reconcile, aboutKey("restoring a key at its server"), oneOf{api.Reconciled{}, api.PlainLines{}}, "reconcile", "key", "Make a key's current version valid again at its server."),
		},
		HelpSynopsis: "Make a key's current version valid again at its server.",
		HelpDescription: strings.TrimSpace(`
A server may forget what Vault holds: a Redis without persistence that restarts, a database restored from a backup. Or Vault
may forget what the server knows: Vault restored from a snapshot. This looks at the key's current version at its server, and
makes it valid again from what Vault holds. It takes no login away from anybody, but for nopass of a Redis user. What can hurt nobody is restored by the
regular checks, without being asked for (hyvve/config look_every=).

    vault write hyvve/keys/NAME/reconcile dry_run=true
    vault write -f hyvve/keys/NAME/reconcile
`),
	}}
}

func (b *backend) reconcile(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.ReconcileRequest](d)
	result, err := reconcileWhenFree(ctx, e, r.Name, r.DryRun, caller(req))
	if err != nil {
		return nil, err
	}
	done, would := result.Done, []string{}
	if r.DryRun {
		done, would = nil, append(would, result.Done...)
	}
	resp := forPeople(d, api.Reconciled{
		Done: append([]string{}, done...), WouldDo: would, Problems: append([]string{}, result.Texts()...),
		Notes: append([]string{}, result.Notes...), Checked: api.Time{Time: result.At},
	})
	switch {
	case len(result.Done) == 0 && len(result.Problems) == 0:
		resp.AddWarning("The server accepts the current version. There is nothing to do.")
	case !r.DryRun && len(result.Texts()) > 0:
		resp.AddWarning("Not everything could be restored; see problems.")
	}
	return resp, nil
}

// How long reconcile waits for a check or a step of a rotation that is at the server of the key, and how often it looks.
const (
	reconcilePatience = 20 * time.Second
	reconcileEvery    = 100 * time.Millisecond
)

// reconcileWhenFree reconciles a key once nothing else is at its server.
func reconcileWhenFree(ctx context.Context, e *engine.Engine, name string, dryRun bool, by rotation.Actor) (result engine.Reconciled, err error) {
	err = onceFree(ctx, func() error {
		result, err = e.Reconcile(ctx, name, dryRun, by)
		return err
	})
	return result, err
}

// onceFree does something again while something else is at the server of the key.
func onceFree(ctx context.Context, do func() error) error {
	end := time.NewTimer(reconcilePatience)
	defer end.Stop()
	again := time.NewTicker(reconcileEvery)
	defer again.Stop()
	for {
		err := do()
		if !engine.Passing(err) {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		case <-end.C:
			return err
		}
	}
}
