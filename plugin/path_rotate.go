// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// maxWait is below Vault's default_max_request_duration of 90 s.
const maxWait = 60 * time.Second

func (b *backend) pathsRotate() []*framework.Path {
	path := func(pattern string, fields any, suffix string) *framework.Path {
		return &framework.Path{
			Pattern: pattern,
			Fields:  requestFields(fields),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.write(b.rotate, b.rotateAttempt, oneOf{api.RotationSummary{}, api.Plan{}, api.Imported{}}, "rotate", suffix, "Start a rotation."),
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
    vault write hyvve/rotate key=metrics-api-key wait=60s
    echo -n "$NEW" | vault write hyvve/rotate key=jwt-secret value=-

The answer has the rotation's id, its state and, in words, what it waits for. It continues by itself from there; look at
it with "vault read hyvve/rotations/ID", take it back with "vault write -f hyvve/rotations/ID/revert".

    vault write hyvve/rotate key=jwt-secret dry_run=true        what would happen, to whom, how long, what blocks
    vault write hyvve/rotate key=jwt-secret on_failure=revert deadline=10m
    vault write hyvve/rotate key=jwt-secret confirm=manual confirm_by=other
    vault write hyvve/rotate key=jwt-secret compromised=true reason="in a public log"

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
another user has confirmed it.

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
	names, _ := namedKeys(d) // those that are wrong, too
	for _, name := range names {
		entry.Keys = append(entry.Keys, journal.Key{Key: name})
	}
	if v, ok := d.GetOk("value"); ok && len(names) > 0 {
		k, _ := e.Key(names[0])
		entry.Changes = []rotation.EntryChange{{Field: "value", To: e.PublicValue(k, key.NewValue(v.(string)))}}
	}
	for _, field := range []string{"on_failure", "confirm", "confirm_by"} {
		if asked := text(d, field); asked != "" {
			entry.Changes = append(entry.Changes, rotation.EntryChange{Field: field, To: kind.PublicText(field, asked)})
		}
	}
	if v, ok := d.GetOk("retain"); ok {
		entry.Changes = append(entry.Changes, rotation.EntryChange{Field: "retain", To: (time.Duration(v.(int)) * time.Second).String()})
	}
	if d.Get("compromised").(bool) {
		entry.Changes = append(entry.Changes, rotation.EntryChange{Field: "compromised", To: "true"})
	}
	return entry
}

func (b *backend) rotate(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	names, err := namedKeys(d)
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
		Keys: names, Reason: r.Reason, By: caller(req), Trigger: rotation.ByOperator, OnFailure: r.OnFailure, Confirm: r.Confirm, ConfirmBy: r.ConfirmBy,
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
	if k, ok := e.Key(names[0]); r.Value != nil && ok && len(names) == 1 && len(k.Versions) == 0 {
		return b.importFirst(ctx, e, names[0], asked)
	}
	view, warnings, err := e.Rotate(ctx, asked)
	if err != nil {
		return nil, err
	}
	view, warning, err := awaitEnd(ctx, e, view, wait)
	if err != nil {
		return nil, err
	}
	if warning != "" {
		warnings = append(warnings, warning)
	}
	return answer(rotationSummary(view), warnings...), nil
}

// planned answers with what a rotation would do.
func planned(ctx context.Context, e *engine.Engine, request engine.Request, detailed bool) (*logical.Response, error) {
	plan, warnings, err := e.Plan(ctx, request)
	if err != nil {
		return nil, err
	}
	return answer(planData(plan, detailed), warnings...), nil
}

func (b *backend) importFirst(ctx context.Context, e *engine.Engine, name string, request engine.Request) (*logical.Response, error) {
	k, warnings, err := e.First(ctx, name, request.Value, request.By)
	if err != nil {
		return nil, err
	}
	return answer(api.Imported{Key: k.Name, Version: 1, State: "imported"}, warnings...), nil
}

func namedKeys(d *framework.FieldData) ([]string, error) {
	var names []string
	if one := d.Get("key").(string); one != "" {
		names = append(names, one)
	}
	if _, ok := d.Schema["keys"]; ok {
		names = append(names, d.Get("keys").([]string)...)
	}
	if len(names) == 0 {
		return nil, rotation.Refusef("key is missing; name one with key=NAME, or several with keys=NAME,NAME (vault list hyvve/keys)")
	}
	for _, name := range names {
		if err := key.ValidateName("key", name); err != nil {
			return names, rotation.Refusef("%w", err)
		}
	}
	return names, nil
}

// waitOf is how long a request asks to wait.
func waitOf(asked *api.Seconds, standard time.Duration) (time.Duration, error) {
	if asked == nil {
		return standard, nil
	}
	wait := asked.Duration()
	if wait < 0 || wait > maxWait {
		return 0, rotation.Refusef("wait %s is not between 0s and %s, which stays below Vault's own limit for a request", wait, maxWait)
	}
	return wait, nil
}

// awaitEnd looks at a rotation again when it has ended or the time is over. It returns earlier, with a warning where there
// is something to say, when too many wait or nobody must be waited for.
func awaitEnd(ctx context.Context, e *engine.Engine, view engine.View, wait time.Duration) (now engine.View, warning string, err error) {
	if wait == 0 || view.Finished() {
		return view, "", nil
	}
	interrupted, leave, err := e.AwaitsEnd()
	if err != nil {
		return view, fmt.Sprintf("not waited for the end: %v", err), nil
	}
	defer leave()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-view.Ended:
	case <-interrupted:
		warning = "not waited for the end: Vault takes no requests meanwhile; look again with hyvve/rotations/" + view.ID
	case <-timer.C:
	case <-ctx.Done():
		return view, "", nil
	}
	now, err = e.View(ctx, view.ID)
	return now, warning, err
}
