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

func (b *backend) pathsReconcile() []*framework.Path {
	return []*framework.Path{{
		Pattern: "keys/(?P<name>[^/]+)/reconcile",
		Fields:  requestFields(api.ReconcileRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.write(b.reconcile, aboutKey("restoring a key at its server"), api.Reconciled{}, "reconcile", "key", "Make a key's current version valid again at its server."),
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
	resp := answer(api.Reconciled{
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
