// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsReceipt() []*framework.Path {
	return []*framework.Path{{
		Pattern: "rotations/" + framework.GenericNameRegex("id") + "/receipt$",
		Fields:  requestFields(api.ReceiptRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation(b.readReceipt, oneOf{api.ReceiptLines{}, api.Receipt{}}, "read", "rotation-receipt", "Read the receipt of a rotation: one document for auditors."),
		},
		HelpSynopsis: "The receipt of a rotation: who asked, what was proven how and when, what was cut, and the journal's entries.",
		HelpDescription: strings.TrimSpace(`
One document that needs no other: the keys and versions with their fingerprints and never a value, who started and confirmed the
rotation, for how long each gate has held it back and why, what instances held at the end of each step and how that is known, who was
seen with the old version, what was cut and who is locked out now, the timeline, and the journal's entries with their hashes.

    vault read hyvve/rotations/ID/receipt
    vault read -format=json hyvve/rotations/ID/receipt detailed=true > receipt.json

Check it: hyvve/journal/verify says that the journal is whole; entries of journal have the hashes that hyvve/journal/export has for
the same ids; the last of them has evidence_sha256 as receipt_sha256, and that is the SHA-256 of evidence_json:

    jq -rj .data.evidence_json receipt.json | sha256sum

Of a large fleet it has counts, all instances that were cut, and of the others a sample with a digest over all. The receipt of a
rotation that runs is marked as unfinished. It is kept as long as the rotation is: journal_max_age of hyvve/config.
`),
	}}
}

func (b *backend) readReceipt(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.ReceiptRequest](d)
	document, err := e.Document(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	data := receiptData(document)
	var warnings []string
	if !data.Finished {
		warnings = append(warnings, fmt.Sprintf("rotation %s has not ended: this receipt is unfinished", data.ID))
	}
	if r.Detailed {
		return answer(data, warnings...), nil
	}
	resp := &logical.Response{Data: receiptLines(data).numbered()}
	for _, w := range warnings {
		resp.AddWarning(w)
	}
	return resp, nil
}

func receiptData(d engine.Document) api.Receipt {
	r := rotationDetails(d.View)
	data := api.Receipt{
		ID: r.ID, State: r.State, Finished: d.Finished(), Read: api.Time{Time: time.Now()}, Keys: []api.ReceiptKey{}, Trigger: r.Trigger, Reason: r.Reason,
		By: r.By, EntityID: r.EntityID, Created: r.Created, Asked: []api.EntryChange{}, Compromised: r.Compromised, Confirm: r.Confirm, ConfirmBy: r.ConfirmBy,
		ConfirmedBy: r.ConfirmedBy, OneWitness: r.OneWitness, RotationEvidence: evidenceData(d.View), Rows: r.Rows, Witnesses: r.Witnesses, Presented: []api.ReceiptPresented{},
		Timeline: r.Timeline, TimelineOmitted: r.TimelineOmitted, Journal: []api.Entry{}, JournalMissing: d.Missing,
		JournalHead: api.JournalHead{Count: d.Head.Count, Head: d.Head.Hash}, Evidence: string(d.Stored), Digest: d.Digest,
	}
	data.AllKeys = allKeysData(d.Whole, d.Next)
	if d.Finished() {
		data.Ended = r.Since
	}
	for _, c := range d.Changes {
		prints := d.Fingerprints[c.Key]
		data.Keys = append(data.Keys, api.ReceiptKey{
			Key: c.Key, Env: c.Env, From: c.From, FromFingerprint: prints.From, To: c.To, ToFingerprint: prints.To, Retention: r.Retention[c.Key],
		})
	}
	for _, c := range d.Changes {
		for _, p := range presented(d.Trips[c.Key]) {
			data.Presented = append(data.Presented, api.ReceiptPresented{Key: c.Key, Presented: p})
		}
	}
	for _, a := range d.Asked {
		data.Asked = append(data.Asked, api.EntryChange{Field: a.Field, From: a.From, To: a.To})
	}
	for _, n := range d.Entries {
		data.Journal = append(data.Journal, entryData(n.Stored, n.Entry))
	}
	return data
}

// evidenceData is what a rotation has recorded of how it went.
func evidenceData(v engine.View) api.RotationEvidence {
	data := api.RotationEvidence{
		HeldBack: []api.HeldBack{}, Proofs: []api.Proof{}, Uses: []api.VersionUse{}, Cuts: []api.Cut{}, LockedOut: []api.LockedOut{},
	}
	for _, g := range v.Receipt.Gates {
		data.HeldBack = append(data.HeldBack, api.HeldBack{
			State: string(g.State), Step: string(g.Step), Gate: g.Gate, Held: g.Held.Round(time.Millisecond).Seconds(), Last: api.Time{Time: g.Last}, Reason: g.Reason,
		})
	}
	for _, s := range v.Receipt.Snapshots {
		for _, h := range s.Holders {
			proof := api.Proof{
				Time: api.Time{Time: s.At}, State: string(s.State), Step: string(s.Step), Workload: h.Workload, Holds: heldData(h.Keys), Proof: string(h.Proof),
				Grade: gradeOf(h), Count: h.Names.Count, Instances: make([]api.Proven, 0, len(h.Names.List)), Digest: h.Names.Digest,
			}
			for _, n := range h.Names.List {
				proof.Instances = append(proof.Instances, api.Proven{Instance: n.ID, Time: api.Time{Time: n.At}})
			}
			data.Proofs = append(data.Proofs, proof)
		}
		for _, name := range s.Empty {
			data.Proofs = append(data.Proofs, api.Proof{
				Time: api.Time{Time: s.At}, State: string(s.State), Step: string(s.Step), Workload: name, Holds: map[string]api.Held{}, Proof: api.ProofEmpty, Instances: []api.Proven{},
			})
		}
	}
	for _, u := range v.Receipt.Uses {
		data.Uses = append(data.Uses, api.VersionUse{Text: u.Text, First: api.Time{Time: u.First}, Last: api.Time{Time: u.Last}, Times: u.Times})
	}
	for _, c := range v.Receipt.Cuts {
		cut := api.Cut{
			Time: api.Time{Time: c.At}, State: string(c.State), Step: string(c.Step), Gate: c.Gate, Reason: c.Reason, Count: c.Names.Count,
			Instances: make([]string, 0, len(c.Names.List)), Digest: c.Names.Digest,
		}
		for _, n := range c.Names.List {
			cut.Instances = append(cut.Instances, n.ID)
		}
		data.Cuts = append(data.Cuts, cut)
	}
	for _, o := range v.LockedOut {
		data.LockedOut = append(data.LockedOut, api.LockedOut{Workload: o.Workload, Instance: o.Instance, Text: o.Text, Remedy: o.Remedy()})
	}
	return data
}

// gradeOf is how the sidecars of instances knew that their workloads use what they hold; empty: none has reported.
func gradeOf(h rotation.Holders) string {
	if h.Proof != rotation.ProofReport {
		return ""
	}
	return h.Grade.String()
}

// receiptWidth is how long a line of a receipt may be.
const receiptWidth = 140

// receiptText is a receipt in lines.
type receiptText []string

func (t *receiptText) add(format string, args ...any) {
	line := ""
	for _, word := range strings.Fields(fmt.Sprintf(format, args...)) {
		if line != "" && len(line)+1+len(word) > receiptWidth {
			*t, line = append(*t, line), "   "
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	*t = append(*t, line)
}

// part begins a part of the receipt, and says where it is empty.
func (t *receiptText) part(title string, count int) {
	if count == 0 {
		t.add("%s: none", title)
		return
	}
	t.add("%s:", title)
}

// numbered returns the lines by names whose order is theirs, as a terminal sorts them.
func (t receiptText) numbered() map[string]any {
	lines, width := map[string]any{}, max(3, len(fmt.Sprint(len(t))))
	for n, line := range t {
		lines[fmt.Sprintf("line_%0*d", width, n+1)] = line
	}
	return lines
}

func step(state, name string) string { return strings.TrimSpace(state + " " + name) }

func receiptLines(r api.Receipt) receiptText {
	var t receiptText
	outcome := r.State
	if r.State == string(rotation.Done) && len(r.Cuts) > 0 {
		outcome = string(rotation.OutcomeDoneWithCuts)
	}
	t.add("rotation %s: %s", r.ID, outcome)
	if !r.Finished {
		t.add("UNFINISHED: the rotation has not ended")
	}
	for _, k := range r.Keys {
		t.add("key %s (%s): version %d (fingerprint %s) to %d (fingerprint %s); %s", k.Key, k.Env, k.From, known(k.FromFingerprint), k.To, known(k.ToFingerprint), k.Retention)
	}
	t.add("started at %s by %s (%s), reason: %s", r.Created, user(r.By, r.EntityID), r.Trigger, known(r.Reason))
	if r.Finished {
		t.add("ended at %s, after %s", r.Ended, duration.Text(r.Ended.Sub(r.Created.Time).Round(time.Millisecond)))
	}
	switch {
	case r.ConfirmedBy != "":
		t.add("confirmed by %s", r.ConfirmedBy)
	case r.Confirm:
		t.add("not confirmed; confirm_by=%s", r.ConfirmBy)
	}
	if r.OneWitness != "" {
		t.add("one witness was accepted by %s", r.OneWitness)
	}
	for _, a := range r.Asked {
		t.add("the request set %s to %s, in place of %s", a.Field, a.To, known(a.From))
	}
	t.all(r)
	t.cuts(r)
	t.evidence(r)
	t.journal(r)
	return t
}

// all says what a request for all keys was about besides.
func (t *receiptText) all(r api.Receipt) {
	for _, left := range r.LeftOut {
		t.add("left out: key %s: %s", left.Key, left.Reason)
	}
	if r.LeftOutMore > 0 {
		t.add("left out: %d more keys", r.LeftOutMore)
	}
	for _, with := range r.With {
		t.add("the same request is about rotation %s, %s; it has a receipt of its own", with.ID, with.Text)
	}
	for _, command := range r.NextSteps {
		t.add("left to do: %s", command)
	}
}

func (t *receiptText) cuts(r api.Receipt) {
	t.part("gates that were cut, since the key is compromised", len(r.Cuts))
	for _, c := range r.Cuts {
		t.add("- %s", api.Line(c))
	}
	t.part("locked out now", len(r.LockedOut))
	for _, o := range r.LockedOut {
		t.add("- %s", api.Line(o))
	}
}

func (t *receiptText) evidence(r api.Receipt) {
	t.part("what held it back", len(r.HeldBack))
	for _, g := range r.HeldBack {
		held := time.Duration(g.Held * float64(time.Second)).Round(time.Millisecond)
		t.add("- %s of %s: %s, until %s: %s", g.Gate, step(g.State, g.Step), duration.Text(held), g.Last, g.Reason)
	}
	t.part("what instances held", len(r.Proofs))
	for _, p := range r.Proofs {
		t.add("- %s", api.Line(p))
	}
	t.part("old version seen in use", len(r.Uses))
	for _, u := range r.Uses {
		t.add("- %s; %d times, from %s to %s", u.Text, u.Times, rotation.Stamp(u.First.Time), rotation.Stamp(u.Last.Time))
	}
	if len(r.Presented) > 0 {
		t.add("presented after it was retired, which is no part of the evidence:")
	}
	for _, p := range r.Presented {
		clients := make([]string, 0, len(p.Clients))
		for _, c := range p.Clients {
			clients = append(clients, fmt.Sprintf("%s (seen by %s)", c.From, c.SeenBy))
		}
		t.add("- version %d of %s, %d times, from %s to %s, by %s", p.Version, p.Key, p.Count, rotation.Stamp(p.First.Time), rotation.Stamp(p.Last.Time), strings.Join(clients, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Rows)) {
		for _, c := range r.Rows[name].Columns {
			t.add("rows of %s in %s: %d in all, %d rotated, %d left, %d unreadable", name, c.Column, c.Total, c.Rotated, c.Left, c.Unreadable)
		}
		for _, w := range r.Witnesses[name] {
			t.add("witness of the rows of %s: %s at %s: %d left", name, w.Witness, w.Time, w.Left)
		}
	}
}

func (t *receiptText) journal(r api.Receipt) {
	t.part("journal", len(r.Journal))
	for _, n := range r.Journal {
		text := fmt.Sprintf("%s, %s, %s: %s, by %s", n.ID, n.Time, step(n.State, n.Step), n.What, user(n.By, n.EntityID))
		if n.Reason != "" {
			text += "; reason: " + n.Reason
		}
		if n.Refused != "" || n.Failed != "" {
			text += "; " + n.Refused + n.Failed
		}
		t.add("- %s; hash %s", text, n.Hash)
	}
	if r.JournalMissing > 0 {
		t.add("the journal does not have %d more events of the rotation: retention has taken them", r.JournalMissing)
	}
	t.add("head of the journal: entry %d, hash %s, read at %s; compare with: vault read hyvve/journal/verify", r.Count, r.Head, r.Read)
	t.add("SHA-256 of evidence_json (detailed=true), which the journal's last entry has as receipt_sha256: %s", r.Digest)
}

func known(text string) string {
	if text == "" {
		return "not given"
	}
	return text
}

func user(name, entity string) string { return rotation.Actor{Name: name, Entity: entity}.String() }
