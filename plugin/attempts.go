// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

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
