// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
)

func (b *backend) pathsConfig() []*framework.Path {
	return []*framework.Path{{
		Pattern: "config",
		Fields:  requestFields(api.ConfigRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readConfig, api.Config{}, "read", "configuration", "Read the mount-wide defaults."),
			logical.UpdateOperation: b.write(b.writeConfig, b.configAttempt, api.Config{}, "write", "configuration", "Change the mount-wide defaults; those not given stay."),
		},
		HelpSynopsis:    "Mount-wide defaults: leases, soak time, deadlines, what to do about failures, how much journal to keep.",
		HelpDescription: "Changes hold for leases and rotations that begin after them.\n\n    vault write hyvve/config lease_ttl=5m soak=30s",
	}}
}

func (b *backend) readConfig(_ context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c := e.Config()
	var warnings []string
	if f := e.Floor(); c.JournalEntries != 0 && c.JournalEntries < f.Entries || c.JournalAge != 0 && c.JournalAge < f.Age {
		warnings = append(warnings, "journal_max_entries or journal_max_age is below the floor of hyvve/journal/config: the floor holds.")
	}
	return answer(api.Config{ConfigRequest: api.ConfigRequest{
		LeaseTTL: inSeconds(c.LeaseTTL), TakeoverAfter: inSeconds(c.TakeoverAfter), MaxInstancesPerLogin: &c.LoginInstances,
		Soak: inSeconds(c.Soak), Observe: inSeconds(c.Observe), LookEvery: inSeconds(c.LookEvery), Deadline: inSeconds(c.Deadline),
		OnFailure: &c.OnFailure, Confirm: &c.Confirm, ConfirmBy: &c.ConfirmBy, CompromisedDeadline: inSeconds(c.CutAfter),
		Retain: inSeconds(c.Retain), RetainRows: inSeconds(c.RetainRows), JournalMaxEntries: &c.JournalEntries, JournalMaxAge: inSeconds(c.JournalAge),
	}}, warnings...), nil
}

func (b *backend) writeConfig(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if err := e.PutConfig(ctx, b.config(e, d), caller(req)); err != nil {
		return nil, err
	}
	return b.readConfig(ctx, e, req, d)
}

// config is what is stored with what is written over it.
func (b *backend) config(e *engine.Engine, d *framework.FieldData) catalog.Config {
	c, r := e.Config(), request[api.ConfigRequest](d)
	setSeconds(&c.LeaseTTL, r.LeaseTTL)
	setSeconds(&c.TakeoverAfter, r.TakeoverAfter)
	set(&c.LoginInstances, r.MaxInstancesPerLogin)
	setSeconds(&c.Soak, r.Soak)
	setSeconds(&c.Observe, r.Observe)
	setSeconds(&c.LookEvery, r.LookEvery)
	setSeconds(&c.Deadline, r.Deadline)
	set(&c.OnFailure, r.OnFailure)
	set(&c.Confirm, r.Confirm)
	set(&c.ConfirmBy, r.ConfirmBy)
	setSeconds(&c.CutAfter, r.CompromisedDeadline)
	setSeconds(&c.Retain, r.Retain)
	setSeconds(&c.RetainRows, r.RetainRows)
	set(&c.JournalEntries, r.JournalMaxEntries)
	setSeconds(&c.JournalAge, r.JournalMaxAge)
	return c
}
