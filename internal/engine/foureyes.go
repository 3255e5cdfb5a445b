// SPDX-License-Identifier: Apache-2.0

package engine

import (
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
