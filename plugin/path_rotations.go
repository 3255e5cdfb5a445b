// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
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
			HelpSynopsis:    "One rotation: state, gates with reasons, instances, rows, timeline.",
			HelpDescription: "gates lists the conditions of the present step, each with holds and, where it does not hold, the reason in plain words.",
		},
		{
			Pattern: "rotations/" + framework.GenericNameRegex("id") + "/revert",
			Fields: map[string]*framework.FieldSchema{
				"id":     id,
				"reason": {Type: framework.TypeString, Description: "Why; kept in the timeline and the journal."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.operation(b.revertRotation, "revert", "rotation", "Take a rotation back."),
			},
			HelpSynopsis: "Take a rotation back: the moves are undone, backwards.",
			HelpDescription: strings.TrimSpace(`
Possible until the rotation is retiring. Those that present go back to the old version, re-encrypted rows get their old
ciphertexts back, those that verify forget the new version, and its value is erased.

    vault write -f hyvve/rotations/ID/revert
`),
		},
	}
}

func (b *backend) listRotations(ctx context.Context, e *rotation.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	ids, err := e.RotationIDs(ctx)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(ids), nil
}

func (b *backend) readRotation(ctx context.Context, e *rotation.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	view, err := e.View(ctx, d.Get("id").(string))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: rotationDetails(view)}, nil
}

func (b *backend) revertRotation(ctx context.Context, e *rotation.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	view, err := e.Revert(ctx, d.Get("id").(string), caller(req), d.Get("reason").(string))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: rotationSummary(view)}, nil
}

// rotationSummary is what a write answers with.
func rotationSummary(v rotation.View) map[string]any {
	versions := map[string]any{}
	for _, c := range v.Changes {
		versions[c.Key] = map[string]any{"from": c.From, "to": c.To}
	}
	return map[string]any{
		"id": v.ID, "state": string(v.State), "step": string(v.Step), "keys": v.KeyNames(), "versions": versions,
		"next_gate": v.Waits(),
	}
}

func rotationDetails(v rotation.View) map[string]any {
	data := rotationSummary(v)
	data["trigger"], data["reason"], data["by"] = string(v.Trigger), v.Reason, v.By
	data["created_time"], data["since"], data["soak"] = stamp(v.Created), stamp(v.Since), int64(v.Soak.Seconds())

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
		columns := make([]map[string]any, 0, len(report.Columns))
		for _, c := range report.Columns {
			columns = append(columns, map[string]any{
				"column": c.Column, "total": c.Total, "staged": c.Staged, "rotated": c.Rotated, "left": c.Left,
				"other": c.Other, "unreadable": c.Bad,
			})
		}
		rows[name] = map[string]any{"done": report.Done, "error": report.Error, "columns": columns}
	}
	data["rows"] = rows

	timeline := make([]map[string]any, 0, len(v.Timeline))
	for _, t := range v.Timeline {
		timeline = append(timeline, map[string]any{
			"time": stamp(t.At), "state": string(t.State), "step": string(t.Step), "text": t.Text, "by": t.By,
		})
	}
	data["timeline"] = timeline
	return data
}

// positions says in words how far an instance was let go.
var positions = map[int]string{0: "old", 1: "accept both", 2: "present new", 3: "new only"}
