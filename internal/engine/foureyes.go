// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// checkFourEyes refuses a request that would do without the confirmation that the keys' policies want, or whose caller could
// not be told apart from the user who confirms.
func checkFourEyes(r rotation.Rotation, request Request) error {
	if r.ConfirmBy == rotation.ConfirmByOther {
		switch {
		case request.ConfirmBy == rotation.ConfirmByAny:
			return rotation.Refusef("confirm_by=any: the policy of %s says confirm_by=other, which a rotation cannot loosen; leave it out", r.EnvNames())
		case request.Confirm == rotation.ConfirmAuto:
			return rotation.Refusef("confirm=auto: the policy of %s says confirm_by=other, so that another user has to confirm each rotation; leave it out", r.EnvNames())
		}
	}
	if request.ConfirmBy == rotation.ConfirmByOther && request.Confirm == rotation.ConfirmAuto {
		return rotation.Refusef("confirm_by=other asks for another user's confirmation, and confirm=auto for none; leave one of them out")
	}
	wanted := r.ConfirmBy == rotation.ConfirmByOther || request.ConfirmBy == rotation.ConfirmByOther
	if wanted && !request.Trigger.Automatic() && request.By.Entity == "" {
		return rotation.Refusef("rotations of %s need another user's confirmation (confirm_by=other), and your token has no entity, so that nobody could be told apart from you; %s", r.EnvNames(), rotation.LoginHint)
	}
	return nil
}

// checkPolicyBy refuses a key that rotates by itself and whose rotations another user has to confirm, where nobody knows who has said
// when it does: everybody could be another user than that one.
func (c Config) checkPolicyBy(k key.Key) error {
	p := c.Effective(k.Policy)
	if p.ConfirmBy != rotation.ConfirmByOther || p.Disabled || p.Period <= 0 && p.Schedule == "" || k.PolicyBy != "" {
		return nil
	}
	return fmt.Errorf("key %s rotates by itself (rotation_period, rotation_schedule), and another user than the one who wrote that has to confirm (confirm_by=other), but the token that wrote it has no entity; write it with a login that has one: vault write hyvve/keys/%s confirm_by=other; %s", k.Name, k.Name, rotation.LoginHint)
}

// notBy returns the entity that must not confirm a rotation: that of the user who started it, or, where it starts by itself,
// of the user who last said when it does.
func (cat *catalog) notBy(r rotation.Rotation) string {
	switch {
	case r.ConfirmBy != rotation.ConfirmByOther:
		return ""
	case !r.Trigger.Automatic():
		return r.Entity
	}
	return cat.keys[r.Changes[0].Key].PolicyBy // one that starts by itself has one key
}
