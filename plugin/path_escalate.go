// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// pathsEscalate are the commands that change how a running rotation ends.
func (b *backend) pathsEscalate() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "rotations/" + framework.GenericNameRegex("id") + "/compromised",
			Fields:  requestFields(api.EscalateRequest{}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.write(b.escalate, aboutRotation("escalation of a rotation"), oneOf{api.RotationSummary{}, api.RotationLines{}}, "escalate", "rotation", "Escalate a running rotation: its old or its new version has leaked."),
			},
			HelpSynopsis:    "Escalate a running rotation: its old or its new version has leaked.",
			HelpDescription: strings.TrimSpace(escalateHelp),
		},
		{
			Pattern: "rotations/" + framework.GenericNameRegex("id") + "/tune",
			Fields:  requestFields(api.TuneRequest{}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.write(b.tune, aboutRotation("tune of a rotation"), oneOf{api.RotationSummary{}, api.RotationLines{}}, "tune", "rotation", "Change settings of a running rotation."),
			},
			HelpSynopsis:    "Change settings of a running rotation: soak, observe, deadline, on_failure.",
			HelpDescription: strings.TrimSpace(tuneHelp),
		},
	}
}

const escalateHelp = `
The old version has leaked: nothing soaks, nobody is asked, and whatever does not hold within the deadline is cut, as with
compromised=true of hyvve/rotate. A paused rotation is resumed. One that is being reverted ends quickly, and a rotation that
replaces the old version as compromised follows by itself.

    vault write -f hyvve/rotations/ID/compromised
    vault write hyvve/rotations/ID/compromised deadline=5s reason="in a public log"

The new version has leaked: it is not presented any further. The rotation reverts at once, and another one with a third
version follows by itself. Where there is no way back, it ends quickly, and a rotation that replaces the version as
compromised follows. The answer has the id of that one in followed_by.

    vault write hyvve/rotations/ID/compromised which=new

Either of them may have leaked, after an intrusion: the rotation ends quickly, and another one replaces the version that is current
then, as compromised.

    vault write hyvve/rotations/ID/compromised which=both

With confirm_by=other, another user than the one who escalates has to confirm before the old version ends; an earlier
confirmation does not count. A value of a key whose values come from elsewhere cannot be made: the answer names the command
that brings in another.
`

const tuneHelp = `
Change settings of a running rotation, until it is retiring. Times count from when they began to: soak=10m of a rotation that
has soaked for 12 minutes ends its soak time. The timeline and the journal say what changed.

    vault write hyvve/rotations/ID/tune soak=10m reason="enough has been seen"
    vault write hyvve/rotations/ID/tune deadline=5m on_failure=revert

With confirm_by=other, another user than the one who shortens soak or observe has to confirm before the old version ends; an
earlier confirmation does not count. A rotation of a compromised key takes deadline only, and shortening it needs the same.
`

func (b *backend) escalate(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.EscalateRequest](d)
	if err := engine.CheckReason(r.Reason); err != nil {
		return nil, err
	}
	if _, given := d.GetOk("which"); given && r.Which == "" { // a variable that is not set: the other version may have leaked
		return nil, rotation.Refusef("which is empty; use old, for the version that the rotation replaces, new, for the one that it brings in, or both")
	}
	view, warnings, err := e.Escalate(ctx, r.ID, rotation.Escalation{
		Which: cmp.Or(r.Which, rotation.LeakedOld), Deadline: r.Deadline.Duration(), By: caller(req), Reason: r.Reason,
	})
	if err != nil {
		return nil, err
	}
	return inLines(r.Detailed, rotationSummary(view), append(warnings, cutWarnings(view)...)...), nil
}

func (b *backend) tune(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.TuneRequest](d)
	if err := engine.CheckReason(r.Reason); err != nil {
		return nil, err
	}
	view, err := e.Tune(ctx, r.ID, rotation.Tuning{
		Soak: asked(r.Soak), Observe: asked(r.Observe), Deadline: asked(r.Deadline), OnFailure: r.OnFailure, By: caller(req), Reason: r.Reason,
	})
	if err != nil {
		return nil, err
	}
	return inLines(r.Detailed, rotationSummary(view), cutWarnings(view)...), nil
}

// asked is what a request has set; nil: it has not.
func asked(set *api.Seconds) *time.Duration {
	if set == nil {
		return nil
	}
	return new(set.Duration())
}
