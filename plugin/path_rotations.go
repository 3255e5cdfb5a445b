// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"math"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsRotations() []*framework.Path {
	return []*framework.Path{
		b.listing("rotations", "List all rotations, oldest first.", "Ids begin with the UTC time of their start.", func(ctx context.Context, e *engine.Engine) ([]string, error) { return e.RotationIDs(ctx) }),
		{
			Pattern: "rotations/" + framework.GenericNameRegex("id"),
			Fields:  requestFields(api.RotationRequest{}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.readRotation, api.Rotation{}, "read", "rotation", "Look at a rotation: state, gates, instances, rows, timeline."),
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
		r := request[api.RotationCommand](d)
		if err := engine.CheckReason(r.Reason); err != nil {
			return nil, err
		}
		view, err := do(e, ctx, r.ID, caller(req), r.Reason)
		if err != nil {
			return nil, err
		}
		return answer(rotationSummary(view)), nil
	}
	command := "vault write -f hyvve/rotations/ID/" + verb
	if verb == "accept-witness" {
		command = `vault write hyvve/rotations/ID/accept-witness reason="…"`
	}
	return &framework.Path{
		Pattern: "rotations/" + framework.GenericNameRegex("id") + "/" + verb,
		Fields:  requestFields(api.RotationCommand{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.write(handle, aboutRotation(verb+" of a rotation"), api.RotationSummary{}, verb, "rotation", synopsis),
		},
		HelpSynopsis:    synopsis,
		HelpDescription: strings.TrimSpace(help) + "\n\n    " + command + "\n",
	}
}

func (b *backend) readRotation(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	view, err := e.View(ctx, d.Get("id").(string))
	if err != nil {
		return nil, err
	}
	return answer(rotationDetails(view)), nil
}

// rotationSummary is what a write answers with.
func rotationSummary(v engine.View) api.RotationSummary {
	return api.RotationSummary{
		ID: v.ID, State: string(v.State), Step: string(v.Step), Keys: v.KeyNames(), Versions: versionsData(v.Rotation),
		NextGate: v.Waits(), Paused: v.Paused != nil, Retention: v.Retention(),
	}
}

func versionsData(r rotation.Rotation) map[string]api.VersionChange {
	versions := map[string]api.VersionChange{}
	for _, c := range r.Changes {
		versions[c.Key] = api.VersionChange{From: c.From, To: c.To}
	}
	return versions
}

func rotationDetails(v engine.View) api.Rotation {
	data := api.Rotation{
		RotationSummary: rotationSummary(v), Trigger: string(v.Trigger), Reason: v.Reason, By: v.By, EntityID: v.Entity,
		Created: api.Time{Time: v.Created}, Since: api.Time{Time: v.Since}, Soak: api.SecondsOf(v.Soak), Observe: api.SecondsOf(v.Observe),
		Deadline: api.SecondsOf(v.Deadline), OnFailure: v.OnFailure, Compromised: v.Compromised, Confirm: v.Confirm, ConfirmBy: v.ConfirmBy,
		ConfirmedBy: v.Confirmed, Retain: retainAsked(v.Rotation), Waves: wavesData(v.Waves), Gates: make([]api.Gate, 0, len(v.Gates)),
		Instances: make([]api.RotationInstance, 0, len(v.Instances)), Rows: map[string]api.Rows{}, Witnesses: map[string][]api.Witness{},
		OneWitness: v.OneWitness, Timeline: make([]api.Event, 0, len(v.Timeline)), TimelineOmitted: v.Omitted,
	}
	for _, g := range v.Gates {
		data.Gates = append(data.Gates, api.Gate{Gate: g.Name, Holds: g.Holds, Reason: g.Reason})
	}
	for _, i := range v.Instances {
		data.Instances = append(data.Instances, api.RotationInstance{
			Workload: i.Instance.Workload, Instance: i.Instance.ID, MayGoTo: i.Stage.String(), Loaded: i.Loaded,
			Healthy: i.Instance.Healthy, Reason: i.Instance.Reason, Seen: api.Time{Time: i.Instance.Seen},
		})
	}
	for name, report := range v.Progress {
		data.Rows[name] = rowsData(report)
	}
	for _, c := range v.Changes {
		if all := v.WitnessesOf(c); len(all) > 0 {
			data.Witnesses[c.Key] = witnessesData(all)
		}
	}
	for _, t := range v.Timeline {
		data.Timeline = append(data.Timeline, api.Event{
			Time: api.Time{Time: t.At}, State: string(t.State), Step: string(t.Step), Text: t.Text, By: t.By, EntityID: t.Entity, Reason: t.Reason,
		})
	}
	return data
}

// retainAsked is the retention that the request has set; nil: the keys say it.
func retainAsked(r rotation.Rotation) *api.Seconds {
	if r.Retain == nil {
		return nil
	}
	return inSeconds(*r.Retain)
}

// witnessesData are those who have checked rows before a value is erased.
func witnessesData(all []rotation.Evidence) []api.Witness {
	list := make([]api.Witness, 0, len(all))
	for _, e := range all {
		left, bad := e.Report.Left()
		data := api.Witness{Witness: e.Witness(), Time: api.Time{Time: e.At}, Done: e.Report.Done, Error: e.Report.Error, Left: left + bad}
		if e.Report.Place != nil {
			data.Place = e.Report.Place.String()
		}
		list = append(list, data)
	}
	return list
}

// rowsData is how far the re-encryption of a key is, and what was found where nobody has configured it.
func rowsData(report workload.WorkReport) api.Rows {
	data := api.Rows{
		Done: report.Done, Error: report.Error, Columns: columnsData(report.Columns), Unseen: append([]string{}, report.Unseen...),
		Unconfigured: make([]api.UnconfiguredColumn, 0, len(report.Finds)), UnconfiguredMore: report.MoreFinds,
	}
	if left, ok := rotation.TimeLeft(report); ok {
		data.RowsPerSecond, data.ExpectedSeconds = new(math.Round(report.Rate)), inSeconds(left)
	}
	for _, f := range report.Finds {
		data.Unconfigured = append(data.Unconfigured, api.UnconfiguredColumn{Column: f.Column, JSON: f.JSON, RowsOfThatShape: f.Shaped, Tried: f.Tried, Opened: f.Opened})
	}
	return data
}
