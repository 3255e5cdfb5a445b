// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// contentJSONLines is JSON, one value a line.
const contentJSONLines = "application/x-ndjson"

// newestEntry names the newest entry.
const newestEntry = "latest"

// maxExported is how many bytes of JSON lines an export answers with, beside its last line.
const maxExported = 1 << 20

func (b *backend) pathsJournal() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "journal/?$",
			Fields:  withDetail(requestFields(api.JournalRequest{})),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation(b.listJournal, api.JournalList{}, "list", "journal", "List the journal's entries, oldest first."),
				logical.ReadOperation: b.operation(b.pageJournal, oneOf{api.Journal{}, api.PlainLines{}}, "page", "journal", "Read entries of the journal, a page at a time."),
			},
			HelpSynopsis: "The journal's entries, oldest first.",
			HelpDescription: strings.TrimSpace(`
Ids count up. Listing gives ids; with after, limit or a filter it gives a page, with what each entry is about. Reading gives
a page of entries, a line each, or whole with detailed=true. next is the after= of the next page, and empty where there is none. A page with a filter may have
few entries, or none, although more follow: it looks at a limited number of them.

    vault list hyvve/journal
    vault read hyvve/journal newest=true limit=20
    vault read hyvve/journal key=jwt-secret actor=userpass-ann after=57
    vault read -format=json hyvve/journal limit=1000 detailed=true
    curl -H "X-Vault-Token: …" -X LIST "$VAULT_ADDR/v1/hyvve/journal?after=57&limit=100"

How many entries are kept is said by journal_max_entries and journal_max_age of hyvve/config, and at least by
hyvve/journal/config.
`),
		},
		b.pathJournalConfig(),
		{
			Pattern: "journal/verify$",
			Fields:  withDetail(map[string]*framework.FieldSchema{}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.verifyJournal, oneOf{api.JournalVerified{}, api.PlainLines{}}, "verify", "journal", "Check that no entry was changed or taken out."),
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
				logical.ReadOperation: b.operation(b.readHead, api.JournalHead{}, "read", "journal-head", "Read how many entries were ever written, and the hash of the newest."),
			},
			HelpSynopsis:    "How many entries were ever written, and the hash of the newest.",
			HelpDescription: "To be noted elsewhere, from time to time: see hyvve/journal/verify, which reads the whole journal. This reads none of it.",
		},
		{
			Pattern: "journal/export$",
			Fields:  requestFields(api.ExportRequest{}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.exportJournal, rawLines{}, "export", "journal", "Export entries as JSON lines."),
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
			Fields:  withDetail(requestFields(api.EntryRequest{})),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.readJournal, oneOf{api.Entry{}, api.PlainLines{}}, "read", "journal-entry", "Read one entry."),
			},
			HelpSynopsis: "Who did what to which version when, and why.",
			HelpDescription: "Entries are only ever added. None holds a value; fingerprint is a keyed hash that tells values apart. " +
				"changes are the fields that a write has changed, from what to what. A write that was refused leaves an entry, too: refused says why, and changes what it would have changed. " +
				"One that failed may have taken effect or not: failed says why.",
		},
	}
}

func (b *backend) pathJournalConfig() *framework.Path {
	return &framework.Path{
		Pattern: "journal/config$",
		Fields:  withDetail(requestFields(api.JournalConfigRequest{})),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readFloor, api.JournalConfig{}, "read", "journal-configuration", "Read what retention never goes below."),
			logical.UpdateOperation: b.write(b.writeFloor, b.floorAttempt, api.JournalConfig{}, "write", "journal-configuration", "Change what retention never goes below; what is not given stays."),
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

func (b *backend) readFloor(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	f := e.Floor()
	return forPeople(d, api.JournalConfig{JournalConfigRequest: api.JournalConfigRequest{MinEntries: &f.Entries, MinAge: inSeconds(f.Age)}}), nil
}

func (b *backend) writeFloor(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if err := e.PutFloor(ctx, writtenFloor(e, d), caller(req)); err != nil {
		return nil, err
	}
	return b.readFloor(ctx, e, req, d)
}

func (b *backend) floorAttempt(e *engine.Engine, d *framework.FieldData) journal.Entry {
	return journal.Entry{What: "writing the journal's floor", Changes: e.FloorChanges(writtenFloor(e, d))}
}

// writtenFloor is what is stored with what is written over it.
func writtenFloor(e *engine.Engine, d *framework.FieldData) catalog.Floor {
	f, r := e.Floor(), request[api.JournalConfigRequest](d)
	set(&f.Entries, r.MinEntries)
	setSeconds(&f.Age, r.MinAge)
	return f
}

func journalQuery(d *framework.FieldData) journal.Query {
	return journal.Query(request[api.JournalRequest](d))
}

func (b *backend) listJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if len(d.Raw) == 0 {
		ids, err := e.Journal().IDs(ctx)
		if err != nil {
			return nil, err
		}
		return answer(api.List{Keys: ids}), nil
	}
	page, err := e.Journal().Page(ctx, journalQuery(d))
	if err != nil {
		return nil, err
	}
	list := api.JournalList{Info: map[string]api.EntryInfo{}, Next: &page.Next}
	for _, n := range page.Entries {
		list.Keys = append(list.Keys, n.Stored)
		list.Info[n.Stored] = api.EntryInfo{Time: api.Time{Time: n.At}, What: n.What, By: n.By, Rotation: n.Rotation, Keys: keyNames(n.Entry)}
	}
	return answer(list), nil
}

func keyNames(n journal.Entry) []string {
	names := []string{}
	for _, k := range n.Keys {
		names = append(names, k.Key)
	}
	return names
}

func (b *backend) pageJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	page, err := e.Journal().Page(ctx, journalQuery(d))
	if err != nil {
		return nil, err
	}
	journal := api.Journal{Entries: []api.Entry{}, Next: page.Next}
	for _, n := range page.Entries {
		journal.Entries = append(journal.Entries, entryData(n.Stored, n.Entry))
	}
	resp := forPeople(d, journal)
	if len(journal.Entries) == 0 && page.Next == "" {
		resp.AddWarning("No entry matches. key= is the name of a key, rotation= the id of a rotation, and actor= a display name as entries have it in by (userpass-ann, not ann), or an entity id.")
	}
	return resp, nil
}

func (b *backend) exportJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.ExportRequest](d)
	page, err := e.Journal().Page(ctx, journal.Query{After: r.After, Limit: r.Limit})
	if err != nil {
		return nil, err
	}
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	encoder.SetEscapeHTML(false)
	for _, n := range page.Entries {
		if err := encoder.Encode(api.Data(entryData(n.Stored, n.Entry))); err != nil {
			return nil, err
		}
		if lines.Len() >= maxExported {
			break
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode: http.StatusOK, logical.HTTPContentType: contentJSONLines, logical.HTTPRawBody: append([]byte{}, lines.Bytes()...), // not nil: Vault has no answer for that
	}}, nil
}

func (b *backend) readJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	id := journal.FullID(text(d, "id"))
	if id == newestEntry {
		page, err := e.Journal().Page(ctx, journal.Query{Newest: true, Limit: 1})
		if err != nil || len(page.Entries) == 0 {
			return nil, err
		}
		id = page.Entries[0].Stored
	}
	entry, ok, err := e.Journal().Entry(ctx, id)
	if err != nil || !ok {
		return nil, err
	}
	return forPeople(d, entryData(id, entry)), nil
}

func entryData(id string, entry journal.Entry) api.Entry {
	keys := make([]api.EntryKey, 0, len(entry.Keys))
	for _, k := range entry.Keys {
		keys = append(keys, api.EntryKey(k))
	}
	changes := make([]api.EntryChange, 0, len(entry.Changes))
	for _, c := range entry.Changes {
		changes = append(changes, api.EntryChange{Field: c.Field, From: c.From, To: c.To})
	}
	return api.Entry{
		ID: id, Time: api.Time{Time: entry.At}, What: entry.What, By: entry.By, EntityID: entry.Entity, Reason: entry.Reason,
		Rotation: entry.Rotation, State: string(entry.State), Step: string(entry.Step), Keys: keys,
		Workload: entry.Workload, Connection: entry.Connection, Changes: changes, Refused: entry.Refused, Failed: entry.Failed,
		KeptForGood: entry.Keep != nil, Prev: entry.Prev, Hash: entry.Hash,
	}
}

func (b *backend) readHead(_ context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	h := e.Journal().Head()
	return answer(api.JournalHead{Count: h.Count, Head: h.Hash}), nil
}

func (b *backend) verifyJournal(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	v, err := e.Journal().Verify(ctx)
	if err != nil {
		return nil, err
	}
	return forPeople(d, api.JournalVerified{
		JournalHead: api.JournalHead{Count: v.Count, Head: v.Hash}, Whole: len(v.Faults) == 0, Entries: v.Entries, First: v.First, Last: v.Last,
		Faults: append([]string{}, v.Faults...), EntriesKeptForGood: v.Kept, EntriesWithoutChain: v.Older,
	}), nil
}

// attempt says what a request would have done, for the journal: What without its outcome, and the fields that it would have
// changed. It is asked when the request was refused or has failed.
type attempt func(e *engine.Engine, d *framework.FieldData) journal.Entry

// write is operation for what an operator changes: an attempt that comes to nothing leaves an entry in the journal.
// A question (dry_run) leaves none.
func (b *backend) write(h handler, what attempt, response any, verb, suffix, summary string) framework.OperationHandler {
	strictly := strict(h)
	recorded := func(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		resp, err := strictly(ctx, e, req, d)
		if err != nil && !asks(d) {
			entry := what(e, d)
			by := caller(req)
			entry.By, entry.Entity = by.Name, by.Entity
			b.journalAttempt(ctx, e, req.Storage, err, entry)
		}
		return resp, err
	}
	return recordedOperation{b.lenient(recorded, response, verb, suffix, summary)}
}

// recordedOperation is what write makes.
type recordedOperation struct{ framework.OperationHandler }

func asks(d *framework.FieldData) bool {
	if _, ok := d.Schema["dry_run"]; !ok {
		return false
	}
	return d.Get("dry_run").(bool)
}

// refuseType refuses a request with a parameter of the wrong type, and journals that where the operation is one that write
// has made. The parameters are not in the entry: they cannot be read.
func (b *backend) refuseType(ctx context.Context, req *logical.Request, wrong string) *logical.Response {
	refused := rotation.Refusef("%s", wrong)
	if _, ok := b.Route(req.Path).Operations[req.Operation].(recordedOperation); ok {
		if e, err := b.open(ctx, req.Storage); err != nil {
			b.Logger().Error("a refused write could not be journaled", "error", err)
		} else if e.Writes() {
			by := caller(req)
			b.journalAttempt(ctx, e, req.Storage, refused, journal.Entry{What: "writing " + strconv.Quote(req.Path), By: by.Name, Entity: by.Entity})
		}
	}
	return logical.ErrorResponse(refused.Error())
}

// reopening bounds the time that journaling a failed write may take.
const reopening = 10 * time.Second

// journalAttempt journals what came to nothing. An engine that became stale by it cannot: another one is opened.
func (b *backend) journalAttempt(ctx context.Context, e *engine.Engine, storage logical.Storage, err error, entry journal.Entry) {
	if e.Stale() {
		again, cancel := context.WithTimeout(context.WithoutCancel(ctx), reopening)
		defer cancel()
		fresh, errOpen := b.open(again, storage)
		if errOpen != nil || !fresh.Writes() {
			b.Logger().Error("a failed write could not be journaled", "what", entry.What, "failure", err, "error", errOpen)
			return
		}
		ctx, e = again, fresh
	}
	e.JournalAttempt(ctx, err, entry)
}

// on a key, a workload, a connection or a rotation that a path names.

func aboutKey(what string) attempt {
	return func(_ *engine.Engine, d *framework.FieldData) journal.Entry {
		return journal.Entry{What: what, Keys: []journal.Key{{Key: text(d, "name")}}}
	}
}

func aboutWorkload(what string) attempt {
	return func(_ *engine.Engine, d *framework.FieldData) journal.Entry {
		return journal.Entry{What: what, Workload: text(d, "name")}
	}
}

func aboutConnection(what string) attempt {
	return func(_ *engine.Engine, d *framework.FieldData) journal.Entry {
		return journal.Entry{What: what, Connection: text(d, "name")}
	}
}

func aboutRotation(what string) attempt {
	return func(_ *engine.Engine, d *framework.FieldData) journal.Entry {
		return journal.Entry{What: what, Rotation: text(d, "id"), Reason: text(d, "reason")}
	}
}

// text is a field as a string, empty where it was not given.
func text(d *framework.FieldData, name string) string {
	s, _ := d.Get(name).(string)
	return s
}

func (b *backend) keyAttempt(e *engine.Engine, d *framework.FieldData) journal.Entry {
	definition, _ := b.definition(e, d, text(d, "name")) // as far as it can be read
	entry := aboutKey("writing a key")(e, d)
	entry.Changes = e.KeyChanges(definition, key.NewValue(text(d, "value")))
	return entry
}

func (b *backend) workloadAttempt(e *engine.Engine, d *framework.FieldData) journal.Entry {
	w, _ := b.workload(e, d)
	entry := aboutWorkload("writing a workload")(e, d)
	entry.Changes = e.WorkloadChanges(w)
	return entry
}

func (b *backend) connectionAttempt(e *engine.Engine, d *framework.FieldData) journal.Entry {
	c, _ := b.connection(e, d)
	entry := aboutConnection("writing a connection")(e, d)
	entry.Changes = e.ConnectionChanges(c)
	return entry
}

func (b *backend) configAttempt(e *engine.Engine, d *framework.FieldData) journal.Entry {
	return journal.Entry{What: "writing the configuration", Changes: e.ConfigChanges(b.config(e, d))}
}
