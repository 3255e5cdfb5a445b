// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
)

func (b *backend) pathsConfig() []*framework.Path {
	return []*framework.Path{{
		Pattern: "config",
		Fields: map[string]*framework.FieldSchema{
			"lease_ttl": {
				Type:        framework.TypeDurationSecond,
				Description: "How long the lease on a bundle lasts before it must be renewed. An instance that dies without a word counts as live for so long. Default 5m.",
			},
			"takeover_after": {
				Type:        framework.TypeDurationSecond,
				Description: "For how long nothing must have been heard of an instance before another login of the same entity may read under its name, as a pod that was killed and started again does. Not below 10s. Default 30s.",
			},
			"max_instances_per_login": {
				Type:        framework.TypeInt,
				Description: "How many instances of a workload one login may have at a time; reads beyond that are refused. Default 100; 0: no bound but max_instances of the workload.",
			},
			"soak": {
				Type:        framework.TypeDurationSecond,
				Description: "How long a new version must work everywhere before the old one may be retired, for keys that set no soak of their own. Default 30s.",
			},
			"observe": {
				Type:        framework.TypeDurationSecond,
				Description: "For how long servers (PostgreSQL, Redis) must have seen nobody use the old version before it is retired, for keys that set no observe of their own. The soak time counts, and each use starts it again. Logins that are rarer are not seen. Default 10s.",
			},
			"look_every": {
				Type:        framework.TypeDurationSecond,
				Description: "How often each connection, and each key's current version, is checked at its server: status and connections/NAME show what is wrong. Default 5m; 0s: never.",
			},
			"deadline": {
				Type:        framework.TypeDurationSecond,
				Description: "How long a step of a rotation may take before it has failed, for keys that set none of their own. Default 0s: for as long as it takes.",
			},
			"on_failure": {
				Type:        framework.TypeString,
				Description: "What happens to a rotation that has failed (an unhealthy instance while it presents, or a deadline passed), for keys that do not say: pause or revert. Default pause.",
			},
			"confirm": {
				Type:        framework.TypeString,
				Description: "Whether somebody must confirm a rotation before the old version is retired, for keys that do not say: manual or auto. Default auto.",
			},
			"confirm_by": {
				Type:        framework.TypeString,
				Description: "other: another user than the one who started a rotation must confirm it, for keys that do not say; it implies confirm=manual. Default any.",
			},
			"compromised_deadline": {
				Type:        framework.TypeDurationSecond,
				Description: "How long a rotation with compromised=true waits at each step before it cuts. Default 1m.",
			},
			"retain": {
				Type:        framework.TypeDurationSecond,
				Description: "For how long the value of a retired version is retained in quarantine, from which hyvve/keys/NAME/undelete brings it back, for keys that protect no rows and set no retain of their own. Holds for versions that are retired from then on. Default 24h; 0s: it is erased at once.",
			},
			"retain_rows": {
				Type:        framework.TypeDurationSecond,
				Description: "The same for keys that protect rows. Make it longer than backups of the database are kept: rows that are restored need the key that they were written with. Default 30d; 0s: it is erased at once.",
			},
			"journal_max_entries": {
				Type:        framework.TypeInt,
				Description: "How many journal entries are kept, and how many ended rotations. Not below min_entries of hyvve/journal/config. Default 100000; 0: all.",
			},
			"journal_max_age": {
				Type:        framework.TypeDurationSecond,
				Description: "For how long journal entries and ended rotations are kept. Not below min_age of hyvve/journal/config. Default 0s: for ever.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readConfig, "read", "configuration", "Read the mount-wide defaults."),
			logical.UpdateOperation: b.write(b.writeConfig, b.configAttempt, "write", "configuration", "Change the mount-wide defaults; those not given stay."),
		},
		HelpSynopsis:    "Mount-wide defaults: leases, soak time, deadlines, what to do about failures, how much journal to keep.",
		HelpDescription: "Changes hold for leases and rotations that begin after them.\n\n    vault write hyvve/config lease_ttl=5m soak=30s",
	}}
}

func (b *backend) readConfig(_ context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c := e.Config()
	resp := &logical.Response{}
	if f := e.Floor(); c.JournalEntries != 0 && c.JournalEntries < f.Entries || c.JournalAge != 0 && c.JournalAge < f.Age {
		resp.AddWarning("journal_max_entries or journal_max_age is below the floor of hyvve/journal/config: the floor holds.")
	}
	resp.Data = map[string]any{
		"lease_ttl": int64(c.LeaseTTL.Seconds()), "takeover_after": int64(c.TakeoverAfter.Seconds()),
		"max_instances_per_login": c.LoginInstances,
		"soak":                    int64(c.Soak.Seconds()),
		"observe":                 int64(c.Observe.Seconds()), "look_every": int64(c.LookEvery.Seconds()),
		"deadline": int64(c.Deadline.Seconds()), "on_failure": c.OnFailure,
		"confirm": c.Confirm, "confirm_by": c.ConfirmBy,
		"compromised_deadline": int64(c.CutAfter.Seconds()),
		"retain":               int64(c.Retain.Seconds()), "retain_rows": int64(c.RetainRows.Seconds()),
		"journal_max_entries": c.JournalEntries, "journal_max_age": int64(c.JournalAge.Seconds()),
	}
	return resp, nil
}

func (b *backend) writeConfig(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if err := e.PutConfig(ctx, b.config(e, d), caller(req)); err != nil {
		return nil, err
	}
	return b.readConfig(ctx, e, req, d)
}

// config is what is stored with what is written over it.
func (b *backend) config(e *engine.Engine, d *framework.FieldData) engine.Config {
	c := e.Config()
	for field, into := range map[string]*time.Duration{
		"lease_ttl": &c.LeaseTTL, "takeover_after": &c.TakeoverAfter, "soak": &c.Soak, "observe": &c.Observe, "look_every": &c.LookEvery, "deadline": &c.Deadline,
		"compromised_deadline": &c.CutAfter, "retain": &c.Retain, "retain_rows": &c.RetainRows, "journal_max_age": &c.JournalAge,
	} {
		if v, ok := d.GetOk(field); ok {
			*into = time.Duration(v.(int)) * time.Second
		}
	}
	for field, into := range map[string]*string{"on_failure": &c.OnFailure, "confirm": &c.Confirm, "confirm_by": &c.ConfirmBy} {
		if v, ok := d.GetOk(field); ok {
			*into = v.(string)
		}
	}
	for field, into := range map[string]*int{"journal_max_entries": &c.JournalEntries, "max_instances_per_login": &c.LoginInstances} {
		if v, ok := d.GetOk(field); ok {
			*into = v.(int)
		}
	}
	return c
}
