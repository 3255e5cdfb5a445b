// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"math"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsRotations() []*framework.Path {
	id := &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "Id of the rotation, as the answer to rotate gave it."}
	return []*framework.Path{
		{
			Pattern: "rotations/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation(b.listRotations, "list", "rotations", "List all rotations, oldest first."),
			},
			HelpSynopsis:    "List all rotations, oldest first.",
			HelpDescription: "Ids begin with the UTC time of their start.",
		},
		{
			Pattern: "rotations/" + framework.GenericNameRegex("id"),
			Fields:  map[string]*framework.FieldSchema{"id": id},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.readRotation, "read", "rotation", "Look at a rotation: state, gates, instances, rows, timeline."),
			},
			HelpSynopsis:    "One rotation: state, gates with reasons, waves, instances, rows, timeline.",
			HelpDescription: "gates lists the conditions of the present step, each with holds and, where it does not hold, the reason in plain words; waves lists the next instances that will be let go.",
		},
		b.rotationCommand("revert", (*engine.Engine).Revert, "Take a rotation back: the moves are undone, backwards.", `
Possible until the rotation is retiring. Those that present go back to the old version, re-encrypted rows get their old
ciphertexts back, those that verify forget the new version, and its value is erased, or, where rows may
be under it, retained.
`),
		b.rotationCommand("pause", (*engine.Engine).Pause, "Let a rotation stand still.", `
No instance's bundle changes and no server is asked for anything until somebody resumes it; both versions stay accepted.
`),
		b.rotationCommand("resume", (*engine.Engine).Resume, "Let a paused rotation continue, or one that has failed at a server try again now.", `
The deadline of its step and the soak time begin again. One that was paused because of a failure pauses again if that is
still so. Where a rotation is not paused and waits for its next attempt at a server, or for the engine's next look at rows, that is made
at once: write it when you have mended there what the gates name.
`),
		b.rotationCommand("confirm", (*engine.Engine).Confirm, "Confirm that the old version may be retired.", `
For rotations with confirm=manual, while they are soaking. All evidence is still waited for. With confirm_by=other, the user
who started the rotation is refused, and so is a token without an entity: log in with userpass, oidc, approle or the like.
`),
		b.rotationCommand("accept-witness", (*engine.Engine).AcceptWitness, "Take the responsibility for rows that one witness alone has checked.", `
Before a value is erased that rows may need, two independent witnesses open every row without it. Where there is one only, and
no second one can be had, this accepts its word: if it errs or lies, the value is erased and the rows are lost. Rows that
somebody has found to need the value are never passed over. Give a reason.
`),
	}
}

// rotationCommand is a path that does one thing to a rotation.
func (b *backend) rotationCommand(
	verb string, do func(e *engine.Engine, ctx context.Context, id string, by rotation.Actor, reason string) (engine.View, error), synopsis, help string,
) *framework.Path {
	handle := func(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		reason := d.Get("reason").(string)
		if err := engine.CheckReason(reason); err != nil {
			return nil, err
		}
		view, err := do(e, ctx, d.Get("id").(string), caller(req), reason)
		if err != nil {
			return nil, err
		}
		return &logical.Response{Data: rotationSummary(view)}, nil
	}
	command := "vault write -f hyvve/rotations/ID/" + verb
	if verb == "accept-witness" {
		command = `vault write hyvve/rotations/ID/accept-witness reason="…"`
	}
	return &framework.Path{
		Pattern: "rotations/" + framework.GenericNameRegex("id") + "/" + verb,
		Fields: map[string]*framework.FieldSchema{
			"id":     {Type: framework.TypeString, Required: true, Description: "Id of the rotation, as the answer to rotate gave it."},
			"reason": {Type: framework.TypeString, Description: "Why; kept in the timeline and the journal. Never put a secret here."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.write(handle, aboutRotation(verb+" of a rotation"), verb, "rotation", synopsis),
		},
		HelpSynopsis:    synopsis,
		HelpDescription: strings.TrimSpace(help) + "\n\n    " + command + "\n",
	}
}

func (b *backend) listRotations(ctx context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	ids, err := e.RotationIDs(ctx)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(ids), nil
}

func (b *backend) readRotation(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	view, err := e.View(ctx, d.Get("id").(string))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: rotationDetails(view)}, nil
}

// rotationSummary is what a write answers with.
func rotationSummary(v engine.View) map[string]any {
	versions := map[string]any{}
	for _, c := range v.Changes {
		versions[c.Key] = map[string]any{"from": c.From, "to": c.To}
	}
	return map[string]any{
		"id": v.ID, "state": string(v.State), "step": string(v.Step), "keys": v.KeyNames(), "versions": versions,
		"next_gate": v.Waits(), "paused": v.Paused != nil, "retention": v.Retention(),
	}
}

func rotationDetails(v engine.View) map[string]any {
	data := rotationSummary(v)
	data["trigger"], data["reason"], data["by"] = string(v.Trigger), v.Reason, v.By
	data["created_time"], data["since"] = stamp(v.Created), stamp(v.Since)
	data["soak"], data["observe"] = int64(v.Soak.Seconds()), int64(v.Observe.Seconds())

	data["entity_id"], data["on_failure"], data["compromised"] = v.Entity, v.OnFailure, v.Compromised
	data["confirm"], data["confirmed_by"], data["deadline"] = v.Confirm, v.Confirmed, int64(v.Deadline.Seconds())
	data["confirm_by"], data["retain"] = v.ConfirmBy, retainAsked(v.Rotation)
	data["waves"] = wavesData(v.Waves)

	gates := make([]map[string]any, 0, len(v.Gates))
	for _, g := range v.Gates {
		gates = append(gates, map[string]any{"gate": g.Name, "holds": g.Holds, "reason": g.Reason})
	}
	data["gates"] = gates

	instances := make([]map[string]any, 0, len(v.Instances))
	for _, i := range v.Instances {
		instances = append(instances, map[string]any{
			"workload": i.Instance.Workload, "instance": i.Instance.ID, "may_go_to": positions[i.Position], "loaded": i.Loaded,
			"healthy": i.Instance.Healthy, "reason": i.Instance.Reason, "seen": stamp(i.Instance.Seen),
		})
	}
	data["instances"] = instances

	rows := map[string]any{}
	for name, report := range v.Progress {
		rows[name] = rowsData(report)
	}
	data["rows"] = rows

	witnesses := map[string]any{}
	for _, c := range v.Changes {
		if all := v.WitnessesOf(c); len(all) > 0 {
			witnesses[c.Key] = witnessesData(all)
		}
	}
	data["witnesses"], data["one_witness"] = witnesses, v.OneWitness

	timeline := make([]map[string]any, 0, len(v.Timeline))
	for _, t := range v.Timeline {
		timeline = append(timeline, map[string]any{
			"time": stamp(t.At), "state": string(t.State), "step": string(t.Step), "text": t.Text, "by": t.By, "entity_id": t.Entity,
			"reason": t.Reason,
		})
	}
	data["timeline"], data["timeline_omitted"] = timeline, v.Omitted
	return data
}

// retainAsked is the retention that the request has set, in seconds; nil: the keys say it.
func retainAsked(r rotation.Rotation) any {
	if r.Retain == nil {
		return nil
	}
	return int64(r.Retain.Seconds())
}

// witnessesData are those who have checked rows before a value is erased.
func witnessesData(all []rotation.Evidence) []map[string]any {
	list := make([]map[string]any, 0, len(all))
	for _, e := range all {
		left, bad := e.Report.Left()
		data := map[string]any{"witness": e.Witness(), "time": stamp(e.At), "done": e.Report.Done, "error": e.Report.Error, "left": left + bad}
		if e.Report.Place != nil {
			data["place"] = e.Report.Place.String()
		}
		list = append(list, data)
	}
	return list
}

// rowsData is how far the re-encryption of a key is, and what was found where nobody has configured it.
func rowsData(report workload.WorkReport) map[string]any {
	data := map[string]any{"done": report.Done, "error": report.Error, "columns": columnsData(report.Columns), "unseen": append([]string{}, report.Unseen...)}
	if left, ok := rotation.TimeLeft(report); ok {
		data["rows_per_second"], data["expected_seconds"] = math.Round(report.Rate), int64(left.Seconds())
	}
	finds := make([]map[string]any, 0, len(report.Finds))
	for _, f := range report.Finds {
		finds = append(finds, map[string]any{"column": f.Column, "json": f.JSON, "rows_of_that_shape": f.Shaped, "tried": f.Tried, "opened": f.Opened})
	}
	data["unconfigured"], data["unconfigured_more"] = finds, report.MoreFinds
	return data
}

// positions says in words how far an instance was let go.
var positions = map[int]string{0: "old", 1: "accept both", 2: "present new", 3: "new only"}
