// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// secretTypeBundle names the leases of creds/ to Vault.
const secretTypeBundle = "bundle"

func (b *backend) pathsCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern: "creds/" + framework.GenericNameRegex("workload"),
		Fields:  requestFields(api.CredsRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readCreds, api.Creds{}, "read", "credentials", "Read what one instance should hold now, as a lease."),
			logical.UpdateOperation: b.lenient(b.readCreds, api.Creds{}, "read", "credentials-as-instance", "Read what one instance should hold now, as a lease; for sidecars."),
		},
		HelpSynopsis: "What one instance of a workload should hold now: values, accept-lists, versions, as a lease.",
		HelpDescription: strings.TrimSpace(`
Read by a sidecar for its instance, or by Vault Agent, or by hand.

    vault read hyvve/creds/api instance=api-7f9c
    vault read hyvve/creds/api instance=api-7f9c one_line=none

values        by environment name: to present, or to encrypt with
accepts       by environment name: to verify against, newest first
versions      by environment name
created_times by environment name: when that version was made
etag          changes when any of this should change; give it to hyvve/watch
instance_secret   proves this instance's reports, until its next read
work          re-encryption that is asked of this instance

The name belongs to the login that reads it first. Another login may read under it with instance_secret of the newest read, in a
write, as sidecars do; or once nothing was heard of the instance for takeover_after of hyvve/config, if both logins are of the
same entity and the instance is a sidecar's; otherwise when its lease has ended.

    vault write hyvve/creds/api instance=api-7f9c instance_secret=-

The lease is the instance: while it is outstanding, the instance counts as live, and an old version in it as used.
Renewal is refused once the instance should hold another bundle: read again. Revocation removes the instance.
`),
	}}
}

func (b *backend) secretBundle() *framework.Secret {
	return &framework.Secret{
		Type: secretTypeBundle,
		Fields: map[string]*framework.FieldSchema{
			"values":  {Type: framework.TypeMap, Description: "Values by environment name."},
			"accepts": {Type: framework.TypeMap, Description: "Accept-lists by environment name."},
		},
		Renew:  b.onLease(b.renewCreds),
		Revoke: b.onLease(b.revokeCreds),
	}
}

func (b *backend) readCreds(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.CredsRequest](d)
	reader := fleet.Reader{Workload: r.Workload, Instance: r.Instance, Token: token(req)}
	if req.Operation == logical.UpdateOperation {
		reader.Heartbeat = true
		reader.Secret = key.NewValue(r.Secret)
		reader.Pod, reader.Node = r.Pod, r.Node
	} else if r.Secret != "" {
		return nil, rotation.Refusef("instance_secret is not taken in a read, whose URL is in logs; give it in a write: vault write hyvve/creds/%s instance=… instance_secret=-", r.Workload)
	}
	if len(r.OneLine) > 0 && !slices.Contains(r.OneLine, "all") { // empty says nothing: all
		reader.Multiline = true
		reader.OneLine = slices.DeleteFunc(slices.Clone(r.OneLine), func(s string) bool { return s == "none" })
		slices.Sort(reader.OneLine)
	}
	reading, err := e.Read(ctx, reader, b.longestLease())
	if err != nil {
		return nil, err
	}
	resp := b.Secret(secretTypeBundle).Response(api.Data(bundleData(reading)), map[string]any{
		"workload": r.Workload, "instance": reading.Instance, "epoch": reading.Epoch,
	})
	resp.Secret.Renewable = true
	resp.Secret.TTL = reading.TTL
	for _, env := range reading.Missing {
		resp.AddWarning(fmt.Sprintf("%s has no version yet and is left out; import its value with vault write hyvve/keys/… value=-", env))
	}
	return resp, nil
}

func bundleData(reading engine.Reading) api.Creds {
	b := reading.Bundle
	c := api.Creds{
		Bundle: api.Bundle{
			Values: map[string]string{}, Accepts: map[string][]string{}, Versions: b.Versions, AcceptVersions: b.AcceptVersions, Etag: b.Holding.Etag,
		},
		Created: map[string]string{}, Work: append([]workload.Work{}, b.Work...), Instance: reading.Instance, Secret: reading.Secret.Reveal(),
	}
	for env, v := range b.Values {
		c.Values[env] = v.Reveal()
	}
	for env, list := range b.Accepts {
		c.Accepts[env] = reveal(list)
	}
	for env, at := range b.Created {
		c.Created[env] = at.UTC().Format(time.RFC3339)
	}
	return c
}

func reveal(list []key.Value) []string {
	all := make([]string, 0, len(list))
	for _, v := range list {
		all = append(all, v.Reveal())
	}
	return all
}

// lease is what a bundle's lease keeps of its read.
type lease struct{ workload, instance, epoch string }

type leaseHandler func(ctx context.Context, e *engine.Engine, req *logical.Request, l lease) (*logical.Response, error)

func (b *backend) onLease(h leaseHandler) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		e, err := b.open(ctx, req.Storage)
		if err != nil {
			return nil, err
		}
		if !e.Writes() {
			return nil, logical.ErrReadOnly
		}
		var l lease
		for name, into := range map[string]*string{"workload": &l.workload, "instance": &l.instance, "epoch": &l.epoch} {
			text, ok := req.Secret.InternalData[name].(string)
			if !ok {
				return nil, fmt.Errorf("the lease does not say its %s", name)
			}
			*into = text
		}
		resp, err := h(ctx, e, req, l)
		var refused *rotation.Refused
		if errors.As(err, &refused) {
			return logical.ErrorResponse(refused.Error()), nil
		}
		return resp, err
	}
}

func (b *backend) renewCreds(_ context.Context, e *engine.Engine, req *logical.Request, l lease) (*logical.Response, error) {
	// What CalculateTTL leaves of the longest time that Vault lets a lease live, the engine must know, too: it tells a lease
	// that ran out from one that was revoked.
	limit, warnings, err := framework.CalculateTTL(b.System(), 0, b.System().MaxLeaseTTL(), 0, 0, 0, req.Secret.IssueTime)
	if err != nil {
		return nil, err
	}
	ttl, err := e.Renew(l.workload, l.instance, l.epoch, limit)
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Secret: req.Secret, Warnings: warnings}
	resp.Secret.TTL = ttl
	return resp, nil
}

func (b *backend) revokeCreds(ctx context.Context, e *engine.Engine, _ *logical.Request, l lease) (*logical.Response, error) {
	return nil, e.Revoke(ctx, l.workload, l.instance, l.epoch)
}
