// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsJournal() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "journal/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation(b.listJournal, "list", "journal", "List the journal's entries, oldest first."),
			},
			HelpSynopsis:    "List the journal's entries, oldest first.",
			HelpDescription: "Ids count up. How many are kept is said by journal_max_entries and journal_max_age of hyvve/config.",
		},
		{
			Pattern: "journal/verify$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.verifyJournal, "verify", "journal", "Check that no entry was changed or taken out."),
			},
			HelpSynopsis: "Check that no entry of the journal was changed or taken out.",
			HelpDescription: "Each entry has the hash of the one before, keyed with the mount's secret. The chain is walked from the oldest entry that " +
				"retention has left to the newest; faults says in words what does not fit.",
		},
		{
			Pattern: "journal/" + framework.GenericNameRegex("id"),
			Fields:  map[string]*framework.FieldSchema{"id": {Type: framework.TypeString, Required: true, Description: "Id of the entry."}},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.readJournal, "read", "journal-entry", "Read one entry."),
			},
			HelpSynopsis: "Who did what to which version when, and why.",
			HelpDescription: "Entries are only ever added. None holds a value; fingerprint is a keyed hash that tells values apart. " +
				"changes are the fields that a write has changed, from what to what. A write that was refused leaves an entry, too: refused says why, and changes what it would have changed. " +
				"One that failed may have taken effect or not: failed says why.",
		},
	}
}

func (b *backend) listJournal(ctx context.Context, e *rotation.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	ids, err := e.JournalIDs(ctx)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(ids), nil
}

func (b *backend) readJournal(ctx context.Context, e *rotation.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	entry, ok, err := e.JournalEntry(ctx, d.Get("id").(string))
	if err != nil || !ok {
		return nil, err
	}
	keys := make([]map[string]any, 0, len(entry.Keys))
	for _, k := range entry.Keys {
		keys = append(keys, map[string]any{"key": k.Key, "from": k.From, "to": k.To, "fingerprint": k.Fingerprint})
	}
	changes := make([]map[string]any, 0, len(entry.Changes))
	for _, c := range entry.Changes {
		changes = append(changes, map[string]any{"field": c.Field, "from": c.From, "to": c.To})
	}
	return &logical.Response{Data: map[string]any{
		"id": d.Get("id").(string), "time": stamp(entry.At), "what": entry.What, "by": entry.By, "entity_id": entry.Entity, "reason": entry.Reason,
		"rotation": entry.Rotation, "state": string(entry.State), "step": string(entry.Step), "keys": keys,
		"workload": entry.Workload, "connection": entry.Connection, "changes": changes, "refused": entry.Refused, "failed": entry.Failed, "prev": entry.Prev, "hash": entry.Hash,
	}}, nil
}

func (b *backend) verifyJournal(ctx context.Context, e *rotation.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	v, err := e.VerifyJournal(ctx)
	if err != nil {
		return nil, err
	}
	faults := v.Faults
	if faults == nil {
		faults = []string{}
	}
	return &logical.Response{Data: map[string]any{
		"whole": len(faults) == 0, "entries": v.Entries, "first": v.First, "last": v.Last, "faults": faults,
		"entries_without_chain": v.Older,
	}}, nil
}
