// SPDX-License-Identifier: Apache-2.0

package rotation

import "fmt"

// Four eyes: with confirm_by=other, the user who started a rotation cannot confirm it. Vault's entity identifies a user. A token
// without an entity could be anybody's, so it can neither start nor confirm such a rotation.

// LoginHint says how to get an entity.
const LoginHint = "log in with an auth method that knows you, such as userpass, oidc or approle; root tokens, and tokens made by them, have no entity"

// mayConfirm refuses a user who may be the one who started the rotation.
func (r Rotation) mayConfirm(by Actor) error {
	switch {
	case by.Entity == "":
		return Refusef("rotation %s needs another user's confirmation (confirm_by=other), and your token has no entity, so that you could be anybody; %s", r.ID, LoginHint)
	case by.Entity != r.NotBy:
		return nil
	case !r.Trigger.Automatic():
		return Refusef("rotation %s was started by you (entity %s), and another user has to confirm it (confirm_by=other)", r.ID, by.Entity)
	}
	return Refusef("rotation %s started by itself, by a policy that you wrote last (entity %s), and another user has to confirm it (confirm_by=other)", r.ID, by.Entity)
}

// FourEyesNote says what confirm_by=other means for a rotation, empty where it does not apply.
func (r Rotation) FourEyesNote() string {
	switch {
	case r.ConfirmBy != ConfirmByOther:
		return ""
	case r.Compromised:
		return "another user has to confirm before the old version ends, although it is compromised (confirm_by=other); until then it is valid beside the new one, which is presented at once"
	}
	return "another user than the one who starts it has to confirm before the old version ends (confirm_by=other)"
}

// starter says who started the rotation, or whose policy did.
func (r Rotation) starter() string {
	if !r.Trigger.Automatic() || r.NotBy == "" {
		return Actor{r.By, r.Entity}.String()
	}
	return fmt.Sprintf("%s, by the policy of entity %s", r.By, r.NotBy)
}
