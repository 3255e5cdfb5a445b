// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Four eyes: with confirm_by=other, the user who started a rotation cannot confirm it. Users are told apart by the entities
// that Vault knows them by. A token without an entity could be anybody's, so that it neither starts such a rotation nor
// confirms one.

// loginHint says how to get an entity.
const loginHint = "log in with an auth method that knows you, such as userpass, oidc or approle; root tokens, and tokens made by them, have no entity"

// checkFourEyes refuses a request that would do without the confirmation that the keys' policies want, or whose caller could
// not be told apart from the user who confirms.
func checkFourEyes(r Rotation, request Request) error {
	if r.ConfirmBy == ConfirmByOther {
		switch {
		case request.ConfirmBy == ConfirmByAny:
			return Refusef("confirm_by=any: the policy of %s says confirm_by=other, which a rotation cannot loosen; leave it out", r.names())
		case request.Confirm == ConfirmAuto:
			return Refusef("confirm=auto: the policy of %s says confirm_by=other, so that another user has to confirm each rotation; leave it out", r.names())
		}
	}
	if request.ConfirmBy == ConfirmByOther && request.Confirm == ConfirmAuto {
		return Refusef("confirm_by=other asks for another user's confirmation, and confirm=auto for none; leave one of them out")
	}
	wanted := r.ConfirmBy == ConfirmByOther || request.ConfirmBy == ConfirmByOther
	if wanted && !request.Trigger.automatic() && request.By.Entity == "" {
		return Refusef("rotations of %s need another user's confirmation (confirm_by=other), and your token has no entity, so that nobody could be told apart from you; %s", r.names(), loginHint)
	}
	return nil
}

// checkPolicyBy refuses a key that rotates by itself and whose rotations another user has to confirm, where nobody knows who has said
// when it does: everybody could be another user than that one.
func (c Config) checkPolicyBy(k key.Key) error {
	p := c.Effective(k.Policy)
	if p.ConfirmBy != ConfirmByOther || p.Disabled || p.Period <= 0 && p.Schedule == "" || k.PolicyBy != "" {
		return nil
	}
	return fmt.Errorf("key %s rotates by itself (rotation_period, rotation_schedule), and another user than the one who wrote that has to confirm (confirm_by=other), but the token that wrote it has no entity; write it with a login that has one: vault write hyvve/keys/%s confirm_by=other; %s", k.Name, k.Name, loginHint)
}

// notBy returns the entity that must not confirm a rotation: that of the user who started it, or, where it starts by itself,
// of the user who last said when it does. The writer lock is held.
func (e *Engine) notBy(r Rotation) string {
	switch {
	case r.ConfirmBy != ConfirmByOther:
		return ""
	case !r.Trigger.automatic():
		return r.Entity
	}
	return e.keys[r.Changes[0].Key].PolicyBy // one that starts by itself has one key
}

// mayConfirm refuses a user who may be the one who started the rotation.
func (r Rotation) mayConfirm(by Actor) error {
	switch {
	case by.Entity == "":
		return Refusef("rotation %s needs another user's confirmation (confirm_by=other), and your token has no entity, so that you could be anybody; %s", r.ID, loginHint)
	case by.Entity != r.NotBy:
		return nil
	case !r.Trigger.automatic():
		return Refusef("rotation %s was started by you (entity %s), and another user has to confirm it (confirm_by=other)", r.ID, by.Entity)
	}
	return Refusef("rotation %s started by itself, by a policy that you wrote last (entity %s), and another user has to confirm it (confirm_by=other)", r.ID, by.Entity)
}

// fourEyesNote says what confirm_by=other means for a rotation, empty where it does not apply.
func (r Rotation) fourEyesNote() string {
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
	if !r.Trigger.automatic() || r.NotBy == "" {
		return Actor{r.By, r.Entity}.String()
	}
	return fmt.Sprintf("%s, by the policy of entity %s", r.By, r.NotBy)
}
