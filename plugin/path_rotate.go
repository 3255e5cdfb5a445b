// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// maxWait is below Vault's default_max_request_duration of 90 s.
const maxWait = 60 * time.Second

func (b *backend) pathsRotate() []*framework.Path {
	path := func(pattern string, fields any, suffix string) *framework.Path {
		return &framework.Path{
			Pattern: pattern,
			Fields:  requestFields(fields),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.write(b.rotate, b.rotateAttempt, oneOf{api.RotationSummary{}, api.Plan{}, api.Imported{}, api.RotationLines{}}, "rotate", suffix, "Start a rotation."),
			},
			HelpSynopsis:    "Start a rotation: a new version is accepted everywhere, presented, and the old one retired on evidence.",
			HelpDescription: strings.TrimSpace(rotateHelp),
		}
	}
	return []*framework.Path{
		path("rotate/?$", api.RotateKeysRequest{}, "keys"),
		path("rotate/(?P<key>.+)", api.RotateRequest{}, "key"),
	}
}

const rotateHelp = `
Start a rotation of one key, or of several together.

    vault write hyvve/rotate key=agent-service-token
    vault write hyvve/rotate keys=jwt-secret,agno-api-key reason="quarterly"
    vault write hyvve/rotate keys=all reason="a new year"
    vault write hyvve/rotate key=metrics-api-key wait=60s
    echo -n "$NEW" | vault write hyvve/rotate key=jwt-secret value=-

The answer has the rotation's id, its state and, in words, what it waits for. It continues by itself from there; look at
it with "vault read hyvve/rotations/ID", take it back with "vault write -f hyvve/rotations/ID/revert".

    vault write hyvve/rotate key=jwt-secret dry_run=true        what would happen, to whom, how long, what blocks
    vault write hyvve/rotate key=jwt-secret on_failure=revert deadline=10m
    vault write hyvve/rotate key=jwt-secret confirm=manual confirm_by=other
    vault write hyvve/rotate key=jwt-secret compromised=true reason="in a public log"

After an intrusion: one rotation of every key, and the commands that are left to write (docs/incident.md).

    vault write hyvve/rotate keys=all compromised=true dry_run=true
    vault write hyvve/rotate keys=all compromised=true reason="an intruder in the cluster"

keys=all takes every key that can be rotated. left_out names the others, each with the command that helps: values that come from
elsewhere, keys without a version or a workload, and, without compromised=true, keys that rotate already. With compromised=true
rotations that run are cut, and another one follows each, since the new version may be known, too. Keys that would hold up the others
have a rotation of their own, which with names: those with confirm_by=other, with more than 5000 rows or rows that nobody has
counted, and with a connection that has a problem. To write it again does no harm: it continues what has begun.

A rotation makes three moves. Each waits for gates, and says in plain words which one does not hold and why:

  accept    The new version is stored, then valid beside the old one: every live instance of every workload that
            verifies the key has loaded both and reports healthy.
  present   Workloads that present the key switch to the new version, in waves (after, max_unavailable). Where the key
            protects rows, re-encrypted copies are staged before anyone switches and take the rows' place afterwards,
            in one transaction. Then the soak time runs; it starts again when an instance turns unhealthy.
  retire    Only when no lease on the old version is outstanding, no instance runs with it and no row needs it: the
            workloads that verify drop it, and its value goes into quarantine (retain=), or is erased. From here there is
            no way back; hyvve/keys/NAME/undelete makes the old version accepted again beside the new one.

An instance that turns unhealthy with what it was given while the rotation presents, or a step that takes longer than
deadline=, is a failure: the rotation pauses where it is, or reverts (on_failure=). With compromised=true nothing soaks,
nobody is asked, and whatever does not hold within the deadline (1m, see hyvve/config) is cut; rows are not, since nobody
could read those any more. Where a key has confirm_by=other, the new version is presented at once, and the old one ends when
another user has confirmed it. With compromised=true, a key that a rotation is running for has that one escalated, as by
hyvve/rotations/ID/compromised; the answer warns of it.

A workload that verifies against one value at a time (single_value= of hyvve/workloads) has a gap; the answer warns of it.

States: planned, accepting, presenting, soaking, retiring, done; from any before retiring: reverting, reverted.

min_instances of a workload guards against success by absence: no sidecars is not success. An instance that died
without a word counts as live until its lease ends (lease_ttl of hyvve/config).

Refused, with nothing changed: a parameter that is not known, a key that is not known or has no version yet, a value that
the key's kind refuses, a key that a rotation is running for, a key that no workload uses, and a key that protects rows
which no workload re-encrypts or which have no two witnesses, or a witness that cannot look at them (docs/reencryption.md).
With compromised=true, the last two are warnings.
`

// rotateAttempt names the keys, and what was asked for of them.
func (b *backend) rotateAttempt(e *engine.Engine, d *framework.FieldData) journal.Entry {
	entry := journal.Entry{What: "starting a rotation", Reason: text(d, "reason")}
	names, all, _ := namedKeys(e, d) // those that are wrong, too
	if all {
		entry.Changes = append(entry.Changes, rotation.EntryChange{Field: "keys", To: key.All})
	}
	for _, name := range names {
		entry.Keys = append(entry.Keys, journal.Key{Key: name})
	}
	if v, ok := d.GetOk("value"); ok && len(names) > 0 {
		k, _ := e.Key(names[0])
		entry.Changes = append(entry.Changes, rotation.EntryChange{Field: "value", To: e.PublicValue(k, key.NewValue(v.(string)))})
	}
	for _, field := range []string{"on_failure", "confirm", "confirm_by"} {
		if asked := text(d, field); asked != "" {
			entry.Changes = append(entry.Changes, rotation.EntryChange{Field: field, To: kind.PublicText(field, asked)})
		}
	}
	if v, ok := d.GetOk("retain"); ok {
		entry.Changes = append(entry.Changes, rotation.EntryChange{Field: "retain", To: duration.Text(time.Duration(v.(int)) * time.Second)})
	}
	if d.Get("compromised").(bool) {
		entry.Changes = append(entry.Changes, rotation.EntryChange{Field: "compromised", To: "true"})
	}
	return entry
}

func (b *backend) rotate(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	names, all, err := namedKeys(e, d)
	if err != nil {
		return nil, err
	}
	r := request[api.RotateRequest](d)
	if r.Value != nil && *r.Value == "" {
		return nil, rotation.Refusef("value is empty; give the new value, or leave it out to have one made")
	}
	wait, err := waitOf(r.Wait, 0)
	if err != nil {
		return nil, err
	}
	asked := engine.Request{
		Keys: names, All: all, Reason: r.Reason, By: caller(req), Trigger: rotation.ByOperator, OnFailure: r.OnFailure, Confirm: r.Confirm, ConfirmBy: r.ConfirmBy,
		Compromised: r.Compromised, Upgrade: r.Upgrade, Deadline: r.Deadline.Duration(),
	}
	if r.Retain != nil {
		asked.Retain = new(r.Retain.Duration())
	}
	if r.Value != nil {
		asked.Value = key.NewValue(*r.Value)
	}
	if r.DryRun {
		return planned(ctx, e, asked, r.Detailed)
	}
	if len(names) == 1 && r.Value != nil {
		if k, ok := e.Key(names[0]); ok && len(k.Versions) == 0 {
			return b.importFirst(ctx, e, names[0], asked)
		}
	}
	view, warnings, err := e.Rotate(ctx, asked)
	if err != nil {
		return nil, err
	}
	view, more, err := awaitEnd(ctx, e, view, wait)
	if err != nil {
		return nil, err
	}
	return inLines(r.Detailed, rotationSummary(view), append(warnings, more...)...), nil
}

// cutWarnings says what a rotation has cut, who is locked out, and what to do.
func cutWarnings(v engine.View) []string {
	if text := v.CutWarning(); text != "" {
		return []string{text}
	}
	return nil
}

// planned answers with what a rotation would do.
func planned(ctx context.Context, e *engine.Engine, request engine.Request, detailed bool) (*logical.Response, error) {
	plan, warnings, err := e.Plan(ctx, request)
	if err != nil {
		return nil, err
	}
	resp := answer(planData(plan, detailed), warnings...)
	if !detailed {
		resp.Data = api.Lines(planData(plan, detailed))
	}
	return resp, nil
}

func (b *backend) importFirst(ctx context.Context, e *engine.Engine, name string, request engine.Request) (*logical.Response, error) {
	k, warnings, err := e.First(ctx, name, request.Value, request.By)
	if err != nil {
		return nil, err
	}
	return answer(api.Imported{Key: k.Name, Version: 1, State: "imported", Next: api.Time{Time: e.NextRotation(k.Name)}}, warnings...), nil
}

// namedKeys returns the keys that a request names; all: it names all of them, and those are the rest.
func namedKeys(e *engine.Engine, d *framework.FieldData) (names []string, all bool, err error) {
	if one := d.Get("key").(string); one != "" {
		if strings.Contains(one, ",") {
			return nil, false, rotation.Refusef("key names one key; to rotate several together, write keys=NAME,NAME")
		}
		names = append(names, one)
	}
	if _, ok := d.Schema["keys"]; ok {
		several := d.Get("keys").([]string)
		all = slices.Contains(several, key.All)
		names = append(names, slices.DeleteFunc(several, func(name string) bool { return name == key.All })...)
	}
	if _, named := e.Key(key.All); all && named {
		return names, all, rotation.Refusef("keys=all: an earlier release has made a key of this name, so that it could mean that key or every key; name the keys with keys=NAME,NAME, and that one with key=all (vault list hyvve/keys)")
	}
	if len(names) == 0 && !all {
		return nil, false, rotation.Refusef("key is missing; name one with key=NAME, several with keys=NAME,NAME (vault list hyvve/keys), or every key with keys=all")
	}
	for _, name := range names {
		if err := key.ValidateName("key", name); err != nil {
			return names, all, rotation.Refusef("%w", err)
		}
	}
	return names, all, nil
}

// waitOf is how long a request asks to wait.
func waitOf(asked *api.Seconds, standard time.Duration) (time.Duration, error) {
	if asked == nil {
		return standard, nil
	}
	wait := asked.Duration()
	if wait < 0 || wait > maxWait {
		return 0, rotation.Refusef("wait %s is not between 0s and %s, which stays below Vault's own limit for a request", duration.Text(wait), duration.Text(maxWait))
	}
	return wait, nil
}

// planData is a plan as dry_run=true answers it: a line a step, which reads well in a terminal, and with detailed=true its
// fields, for programs.
func planData(p engine.Plan, detailed bool) api.Plan {
	r := p.Rotation
	data := api.Plan{
		DryRun: true, Keys: r.KeyNames(), Versions: versionsData(r), Rows: map[string]api.PlanRows{}, Gaps: make([]string, 0, len(p.Gaps)),
		Blockers: append([]string{}, p.Blockers...), Notes: append([]string{}, p.Notes...), Soak: api.SecondsOf(r.Soak), Observe: api.SecondsOf(r.Observe),
		Deadline: api.SecondsOf(r.Deadline), OnFailure: r.OnFailure, Confirm: r.Confirm, ConfirmBy: r.ConfirmBy, Compromised: r.Compromised,
		Retain: retainAsked(r), AllKeys: allKeysData(r.Whole, p.Next), ExpectedDuration: "not known: no rotation of these keys has been done yet", Steps: map[string]string{},
	}
	for _, g := range p.Gaps {
		data.Gaps = append(data.Gaps, g.String())
	}
	for _, known := range p.Rows {
		rows := api.PlanRows{Columns: []api.ColumnRows{}, AsOf: "not known: no sidecar that re-encrypts has counted them yet"}
		if known.Known {
			rows = api.PlanRows{Columns: columnsData(known.Columns), AsOf: api.Time{Time: known.At}.String()}
		}
		data.Rows[known.Key] = rows
	}
	if p.History > 0 {
		data.ExpectedDuration = fmt.Sprintf("%s, the median of the last %d", duration.Text(p.Expected.Round(time.Millisecond)), p.History)
	}
	if !detailed {
		for n, m := range p.Moves {
			data.Steps[fmt.Sprintf("step_%02d", n+1)] = moveLine(m)
		}
		return data
	}
	data.Moves = make([]api.Move, 0, len(p.Moves))
	for _, m := range p.Moves {
		data.Moves = append(data.Moves, api.Move{
			State: string(m.State), Step: string(m.Step), Text: m.Text, Waves: wavesData(m.Waves), Expected: m.Expected.Round(time.Millisecond).Seconds(),
		})
	}
	return data
}

// moveLine says what a step does, to whom, and how long it has taken so far.
func moveLine(m rotation.Move) string {
	line := strings.TrimSpace(string(m.State)+" "+string(m.Step)) + ": " + m.Text
	for n, w := range m.Waves {
		line += fmt.Sprintf("; wave %d: %s %s", n+1, w.Workload, strings.Join(w.Instances, ", "))
	}
	if m.Expected > 0 {
		line += fmt.Sprintf("; about %s", duration.Text(m.Expected.Round(time.Millisecond)))
	}
	return line
}

func wavesData(waves []rotation.Wave) []api.Wave {
	all := make([]api.Wave, 0, len(waves))
	for _, w := range waves {
		all = append(all, api.Wave(w))
	}
	return all
}

func columnsData(reports []workload.ColumnReport) []api.ColumnRows {
	columns := make([]api.ColumnRows, 0, len(reports))
	for _, c := range reports {
		columns = append(columns, api.ColumnRows{
			Column: c.Column, Total: c.Total, Staged: c.Staged, Rotated: c.Rotated, Left: c.Left, Other: c.Other, Unreadable: c.Bad,
		})
	}
	return columns
}

func (b *backend) pathsRotations() []*framework.Path {
	return []*framework.Path{
		b.listing("rotations", "List all rotations, oldest first.", "Ids begin with the UTC time of their start.", func(ctx context.Context, e *engine.Engine) ([]string, error) { return e.RotationIDs(ctx) }),
		{
			Pattern: "rotations/" + framework.GenericNameRegex("id"),
			Fields:  requestFields(api.RotationRead{}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation(b.readRotation, oneOf{api.Rotation{}, api.RotationLines{}}, "read", "rotation", "Look at a rotation: state, gates, instances, rows, timeline."),
			},
			HelpSynopsis:    "One rotation: state, gates with reasons, waves, instances, rows, timeline.",
			HelpDescription: strings.TrimSpace(rotationHelp),
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
		return inLines(r.Detailed, rotationSummary(view), cutWarnings(view)...), nil
	}
	command := "vault write -f hyvve/rotations/ID/" + verb
	if verb == "accept-witness" {
		command = `vault write hyvve/rotations/ID/accept-witness reason="…"`
	}
	return &framework.Path{
		Pattern: "rotations/" + framework.GenericNameRegex("id") + "/" + verb,
		Fields:  requestFields(api.RotationCommand{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.write(handle, aboutRotation(verb+" of a rotation"), oneOf{api.RotationSummary{}, api.RotationLines{}}, verb, "rotation", synopsis),
		},
		HelpSynopsis:    synopsis,
		HelpDescription: strings.TrimSpace(help) + "\n\n    " + command + "\n",
	}
}

// rotationSummary is what a write answers with.
func rotationSummary(v engine.View) api.RotationSummary {
	data := api.RotationSummary{
		ID: v.ID, State: string(v.State), Step: string(v.Step), Keys: v.KeyNames(), Versions: versionsData(v.Rotation),
		Outcome: string(v.Outcome()), Revision: v.Revision, NextGate: v.Waits(), Paused: v.Paused != nil, Retention: v.Retention(),
	}
	if v.Follow != nil {
		data.Follow = v.Follow.ID
	}
	data.AllKeys = allKeysData(v.Whole, v.Next)
	return data
}

// allKeysData is what a request for all keys has come to.
func allKeysData(w *rotation.Whole, next []string) api.AllKeys {
	data := api.AllKeys{NextSteps: next}
	if w == nil {
		return data
	}
	for _, with := range w.With {
		data.With = append(data.With, api.WithRotation(with))
	}
	for _, left := range w.LeftOut {
		data.LeftOut = append(data.LeftOut, api.LeftOutKey(left))
	}
	data.LeftOutMore = w.More
	return data
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
		RotationSummary: rotationSummary(v), Follows: v.Follows, PartOf: v.PartOf, Trigger: string(v.Trigger), Reason: v.Reason, By: v.By, EntityID: v.Entity,
		Created: api.Time{Time: v.Created}, Since: api.Time{Time: v.Since}, Soak: api.SecondsOf(v.Soak), Observe: api.SecondsOf(v.Observe),
		Deadline: api.SecondsOf(v.Deadline), OnFailure: v.OnFailure, Compromised: v.Compromised, Confirm: v.Confirm, ConfirmBy: v.ConfirmBy,
		ConfirmedBy: v.Confirmed, Retain: retainAsked(v.Rotation), Waves: wavesData(v.Waves), Gates: make([]api.Gate, 0, len(v.Gates)),
		Instances: make([]api.RotationInstance, 0, len(v.Instances)), Rows: map[string]api.Rows{}, Witnesses: map[string][]api.Witness{},
		OneWitness: v.OneWitness, Timeline: make([]api.Event, 0, len(v.Timeline)), TimelineOmitted: v.Omitted,
	}
	if !v.Finished() {
		v.Receipt = rotation.Receipt{} // it is unfinished
	}
	data.RotationEvidence = evidenceData(v)
	for _, g := range v.Gates {
		data.Gates = append(data.Gates, api.Gate{Gate: g.Name, Holds: g.Holds, Reason: g.Reason, Note: g.Note})
	}
	for _, i := range v.Instances {
		healthy, reason := healthOf(i.Instance, lockedOutText(v.LockedOut, i.Instance))
		data.Instances = append(data.Instances, api.RotationInstance{
			Workload: i.Instance.Workload, Instance: i.Instance.ID, MayGoTo: i.Stage.String(), Loaded: i.Loaded, Proof: i.Instance.Proof.String(),
			Healthy: healthy, Reason: reason, Seen: api.Time{Time: i.Instance.Seen},
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
