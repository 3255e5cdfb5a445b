// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

const rotationHelp = `
    vault read hyvve/rotations/latest                       the newest rotation
    vault read hyvve/rotations/jwt-secret                   the running rotation of a key, or its newest one
    vault read hyvve/rotations/20261130                     the one whose id begins so
    vault read hyvve/rotations/latest wait=5s since=1000012 what has changed since a revision, as soon as it has
    vault read -format=json hyvve/rotations/latest detailed=true

gates lists the conditions of the present step, each with holds and, where it does not hold, the reason in plain words; waves
lists the next instances that will be let go.

To follow a rotation, read it, and read it again with since= the revision of the answer, until its outcome is neither running
nor reverting. Such a read returns when the revision is another one, or without news: after wait, after 5s, or earlier when
others must not wait for it. It has no instances and no waves, which would cost much with thousands of instances. At most 32
requests of a mount wait for rotations; more are refused with status 429.
`

// behind counts what an instance lacks.
func behind(i api.RotationInstance) (n int) {
	if !i.Loaded {
		n++
	}
	if !i.Healthy {
		n++
	}
	return n
}

func (b *backend) readRotation(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.RotationRead](d)
	if r.Since == nil && r.Wait == nil {
		view, err := e.View(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		data := rotationDetails(view)
		if !r.Detailed { // where there are too many for people, they get those that hold the rotation back
			slices.SortStableFunc(data.Instances, func(a, b api.RotationInstance) int { return behind(b) - behind(a) })
		}
		return inLines(r.Detailed, data, cutWarnings(view)...), nil
	}
	wait, err := waitOf(r.Wait, fleet.LongestWatch)
	if err != nil {
		return nil, err
	}
	var since *int64
	if r.Since != nil {
		since = new(int64(*r.Since))
	}
	view, err := e.Follow(ctx, r.ID, since, wait)
	if errors.Is(err, fleet.ErrCrowded) {
		return nil, logical.CodedError(http.StatusTooManyRequests, err.Error())
	}
	if err != nil {
		return nil, err
	}
	return inLines(r.Detailed, rotationDetails(view), cutWarnings(view)...), nil
}

// awaitEnd looks at a rotation again when it has ended or is paused, or the time is over. The warnings say why it has returned
// earlier, and what the outcome means if it is not done.
func awaitEnd(ctx context.Context, e *engine.Engine, view engine.View, wait time.Duration) (now engine.View, warnings []string, err error) {
	if wait == 0 {
		return view, nil, nil
	}
	now, interrupted, err := e.AwaitEnd(ctx, view.ID, wait)
	switch {
	case errors.Is(err, fleet.ErrCrowded):
		now, warnings = view, []string{fmt.Sprintf("not waited for the end: %v", err)}
	case err != nil:
		return view, nil, err
	case interrupted:
		warnings = []string{"not waited for the end: Vault takes no requests meanwhile"}
	}
	if now.Whole == nil { // it was running before the request for all keys
		now.Whole, now.Next = view.Whole, view.Next
	}
	if text := now.OutcomeText(now.Gates); text != "" && now.Outcome() != rotation.OutcomeDoneWithCuts {
		warnings = append(warnings, text)
	}
	return now, append(warnings, cutWarnings(now)...), nil
}
