// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
)

// contentJSONLines is JSON, one value a line.
const contentJSONLines = "application/x-ndjson"

// mostExported is how many bytes of JSON lines an export answers with, beside its last line.
const mostExported = 1 << 20

func (b *backend) pathsJournal() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "journal/?$",
			Fields:  journalQueryFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation(b.listJournal, "list", "journal", "List the journal's entries, oldest first."),
				logical.ReadOperation: b.operation(b.pageJournal, "page", "journal", "Read entries of the journal, a page at a time."),
			},
			HelpSynopsis: "The journal's entries, oldest first.",
			HelpDescription: strings.TrimSpace(`
Ids count up. Listing gives ids; with after, limit or a filter it gives a page, with what each entry is about. Reading gives
a page of whole entries. next is the after= of the next page, and empty where there is none. A page with a filter may have
few entries, or none, although more follow: it looks at a limited number of them.

    vault list hyvve/journal
    vault read hyvve/journal newest=true limit=20
    vault read -format=json hyvve/journal key=jwt-secret actor=userpass-ann after=0000000000057
    curl -H "X-Vault-Token: …" -X LIST "$VAULT_ADDR/v1/hyvve/journal?after=57&limit=100"

How many entries are kept is said by journal_max_entries and journal_max_age of hyvve/config, and at least by
hyvve/journal/config.
`),
		},
		b.pathJournalConfig(),
		{
			Pattern: "journal/verify$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.verifyJournal, "verify", "journal", "Check that no entry was changed or taken out."),
			},
			HelpSynopsis: "Check that no entry of the journal was changed or taken out.",
			HelpDescription: "Each entry has the hash of the one before, keyed with the mount's secret. The chain is walked from the oldest entry that " +
				"retention has left to the newest, which is stored beside the journal, too; faults says in words what does not fit. " +
				"count is how many entries were ever written, head the hash of the newest. The key of the hashes lies in the same storage: " +
				"a user who controls that can write all of it again. Note count and head elsewhere, and compare: the entry of that number must " +
				"still have that hash. The server's log has them at the end of each rotation, and every ten minutes while the journal grows.",
		},
		{
			Pattern: "journal/head$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.readHead, "read", "journal-head", "Read how many entries were ever written, and the hash of the newest."),
			},
			HelpSynopsis:    "How many entries were ever written, and the hash of the newest.",
			HelpDescription: "To be noted elsewhere, from time to time: see hyvve/journal/verify, which reads the whole journal. This reads none of it.",
		},
		{
			Pattern: "journal/export$",
			Fields: map[string]*framework.FieldSchema{
				"after": {Type: framework.TypeString, Query: true, Description: "Id of the entry before the first. Default: from the beginning."},
				"limit": {Type: framework.TypeInt, Query: true, Default: engine.MostEntries, Description: "At most so many entries, and at most 1000."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.exportJournal, "export", "journal", "Export entries as JSON lines."),
			},
			HelpSynopsis: "Entries as JSON, one a line, oldest first.",
			HelpDescription: strings.TrimSpace(`
The answer is no JSON of Vault's but the lines themselves (` + contentJSONLines + `), at most about a megabyte of them. Go on with
after=, the id of the last line, until the answer is empty. The vault command prints the first line alone; use curl.

    curl -H "X-Vault-Token: …" "$VAULT_ADDR/v1/hyvve/journal/export?after=$ID"
`),
		},
		{
			Pattern: "journal/" + framework.GenericNameRegex("id"),
			Fields:  map[string]*framework.FieldSchema{"id": {Type: framework.TypeString, Required: true, Description: "Id of the entry, or its number."}},
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

func journalQueryFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"after":    {Type: framework.TypeString, Query: true, Description: "Id of the entry before the first, or its number. Default: from the beginning."},
		"limit":    {Type: framework.TypeInt, Query: true, Default: 100, Description: "At most so many entries, and at most 1000."},
		"newest":   {Type: framework.TypeBool, Query: true, Description: "Newest first; after= is then the entry behind the first."},
		"key":      {Type: framework.TypeString, Query: true, Description: "Only entries on this key."},
		"rotation": {Type: framework.TypeString, Query: true, Description: "Only entries on the rotation of this id."},
		"actor":    {Type: framework.TypeString, Query: true, Description: "Only what this user did: by display name, such as userpass-ann, or entity id."},
	}
}

func (b *backend) pathJournalConfig() *framework.Path {
	return &framework.Path{
		Pattern: "journal/config$",
		Fields: map[string]*framework.FieldSchema{
			"min_entries": {Type: framework.TypeInt, Description: "So many of the newest journal entries are kept in any case, and so many ended rotations. At least 100. Default 10000."},
			"min_age":     {Type: framework.TypeDurationSecond, Description: "Journal entries and ended rotations are kept for so long in any case. Default 2160h, which is 90 days."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readFloor, "read", "journal-configuration", "Read what retention never goes below."),
			logical.UpdateOperation: b.write(b.writeFloor, b.floorAttempt, "write", "journal-configuration", "Change what retention never goes below; what is not given stays."),
		},
		HelpSynopsis: "What retention never goes below.",
		HelpDescription: strings.TrimSpace(`
An entry is kept while it is among the newest min_entries, and while it is not older than min_age: whichever keeps more
holds, whatever journal_max_entries and journal_max_age of hyvve/config say. An entry that says that this was lowered is never
taken away. Let nobody write here who may also write definitions or rotate (policy auditor).

    vault write hyvve/journal/config min_age=8760h
`),
	}
}

func (b *backend) readFloor(_ context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	f := e.Floor()
	return &logical.Response{Data: map[string]any{"min_entries": f.Entries, "min_age": int64(f.Age.Seconds())}}, nil
}

func (b *backend) writeFloor(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if err := e.PutFloor(ctx, writtenFloor(e, d), caller(req)); err != nil {
		return nil, err
	}
	return b.readFloor(ctx, e, req, d)
}

func (b *backend) floorAttempt(e *engine.Engine, d *framework.FieldData) engine.Entry {
	return engine.Entry{What: "writing the journal's floor", Changes: e.FloorChanges(writtenFloor(e, d))}
}

// writtenFloor is what is stored with what is written over it.
func writtenFloor(e *engine.Engine, d *framework.FieldData) engine.Floor {
	f := e.Floor()
	if v, ok := d.GetOk("min_entries"); ok {
		f.Entries = v.(int)
	}
	if v, ok := d.GetOk("min_age"); ok {
		f.Age = time.Duration(v.(int)) * time.Second
	}
	return f
}

func journalQuery(d *framework.FieldData) engine.JournalQuery {
	return engine.JournalQuery{
		After: text(d, "after"), Limit: d.Get("limit").(int), Newest: d.Get("newest").(bool),
		Key: text(d, "key"), Rotation: text(d, "rotation"), Actor: text(d, "actor"),
	}
}

func (b *backend) listJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if len(d.Raw) == 0 {
		ids, err := e.JournalIDs(ctx)
		if err != nil {
			return nil, err
		}
		return logical.ListResponse(ids), nil
	}
	page, err := e.JournalPage(ctx, journalQuery(d))
	if err != nil {
		return nil, err
	}
	ids, about := []string{}, map[string]any{}
	for _, n := range page.Entries {
		ids = append(ids, n.Stored)
		about[n.Stored] = map[string]any{"time": stamp(n.At), "what": n.What, "by": n.By, "rotation": n.Rotation, "keys": keyNames(n.Entry)}
	}
	resp := logical.ListResponseWithInfo(ids, about)
	resp.Data["next"] = page.Next
	return resp, nil
}

func keyNames(n engine.Entry) []string {
	names := []string{}
	for _, k := range n.Keys {
		names = append(names, k.Key)
	}
	return names
}

func (b *backend) pageJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	page, err := e.JournalPage(ctx, journalQuery(d))
	if err != nil {
		return nil, err
	}
	entries := []map[string]any{}
	for _, n := range page.Entries {
		entries = append(entries, entryData(n.Stored, n.Entry))
	}
	resp := &logical.Response{Data: map[string]any{"entries": entries, "next": page.Next}}
	if len(entries) == 0 && page.Next == "" {
		resp.AddWarning("No entry matches. key= is the name of a key, rotation= the id of a rotation, and actor= a display name as entries have it in by (userpass-ann, not ann), or an entity id.")
	}
	return resp, nil
}

func (b *backend) exportJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	page, err := e.JournalPage(ctx, engine.JournalQuery{After: text(d, "after"), Limit: d.Get("limit").(int)})
	if err != nil {
		return nil, err
	}
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	encoder.SetEscapeHTML(false)
	for _, n := range page.Entries {
		if err := encoder.Encode(entryData(n.Stored, n.Entry)); err != nil {
			return nil, err
		}
		if lines.Len() >= mostExported {
			break
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode: http.StatusOK, logical.HTTPContentType: contentJSONLines, logical.HTTPRawBody: append([]byte{}, lines.Bytes()...), // not nil: Vault has no answer for that
	}}, nil
}

func (b *backend) readJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	id := engine.JournalID(text(d, "id"))
	entry, ok, err := e.JournalEntry(ctx, id)
	if err != nil || !ok {
		return nil, err
	}
	return &logical.Response{Data: entryData(id, entry)}, nil
}

func entryData(id string, entry engine.Entry) map[string]any {
	keys := make([]map[string]any, 0, len(entry.Keys))
	for _, k := range entry.Keys {
		keys = append(keys, map[string]any{"key": k.Key, "from": k.From, "to": k.To, "fingerprint": k.Fingerprint})
	}
	changes := make([]map[string]any, 0, len(entry.Changes))
	for _, c := range entry.Changes {
		changes = append(changes, map[string]any{"field": c.Field, "from": c.From, "to": c.To})
	}
	return map[string]any{
		"id": id, "time": stamp(entry.At), "what": entry.What, "by": entry.By, "entity_id": entry.Entity, "reason": entry.Reason,
		"rotation": entry.Rotation, "state": string(entry.State), "step": string(entry.Step), "keys": keys,
		"workload": entry.Workload, "connection": entry.Connection, "changes": changes, "refused": entry.Refused, "failed": entry.Failed,
		"kept_for_good": entry.Keep != nil, "prev": entry.Prev, "hash": entry.Hash,
	}
}

func (b *backend) readHead(_ context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	h := e.Head()
	return &logical.Response{Data: map[string]any{"count": h.Count, "head": h.Hash}}, nil
}

func (b *backend) verifyJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
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
		"count": v.Count, "head": v.Hash, "entries_kept_for_good": v.Kept, "entries_without_chain": v.Older,
	}}, nil
}
