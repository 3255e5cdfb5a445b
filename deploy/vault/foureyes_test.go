// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// user is somebody with an entity: a user of userpass, with some of the shipped policies.
func (w *world) user(name string, policies ...string) (login func() *api.Client) {
	w.t.Helper()
	for n := range policies {
		policies[n] = "hyvve-" + policies[n]
	}
	w.write("auth/userpass/users/"+name, map[string]any{"password": name, "token_policies": policies})
	return func() *api.Client {
		w.t.Helper()
		return w.as(w.write("auth/userpass/login/"+name, map[string]any{"password": name}).Auth.ClientToken)
	}
}

// rotation reads one as the root user.
func (w *world) rotation(id string) map[string]any {
	w.t.Helper()
	secret, err := w.vault.Client.Logical().ReadWithDataWithContext(w.t.Context(), "hyvve/rotations/"+id, url.Values{"detailed": {"true"}})
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Data
}

// waitsForAnother waits until a rotation waits for another user's confirmation.
func (w *world) waitsForAnother(id string) {
	w.t.Helper()
	kit.Until(w.t, "another user is waited for", func() bool {
		return strings.HasPrefix(fmt.Sprint(w.rotation(id)["next_gate"]), "another user than ")
	})
}

// confirms tries to confirm a rotation. It is refused for a reason, which is empty where it is not.
func (w *world) confirms(id string, by *api.Client, refused string) {
	w.t.Helper()
	_, err := by.Logical().WriteWithContext(w.t.Context(), "hyvve/rotations/"+id+"/confirm", map[string]any{"reason": "seen"})
	switch {
	case refused == "" && err != nil:
		w.t.Errorf("not confirmed: %v", err)
	case refused != "" && (err == nil || !strings.Contains(err.Error(), refused)):
		w.t.Errorf("not refused with %q: %v", refused, err)
	}
}

func (w *world) ends(id, state string) {
	w.t.Helper()
	kit.Until(w.t, id+" is "+state, func() bool { return w.rotation(id)["state"] == state })
}

// A user who starts a rotation of a key with confirm_by=other does not end its old version alone, by whatever login, option or
// change of the key.
func TestAdversaryConfirmsTheirOwnRotation(t *testing.T) {
	w, _ := peopled(t)
	w.write("sys/auth/userpass", map[string]any{"type": "userpass"})
	w.write("sys/policies/acl/hyvve-parent", map[string]any{"policy": `path "auth/token/create" { capabilities = ["update"] }`})
	annLogin, bobLogin := w.user("ann", "operator", "parent"), w.user("bob", "rotator", "viewer")
	ann, bob, root := annLogin(), bobLogin(), w.vault.Client
	w.write("hyvve/keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "generate": true, "soak": 0, "observe": 0, "confirm_by": "other"})
	w.write("hyvve/workloads/api", map[string]any{"presents": "jwt-secret", "verifies": "jwt-secret", "min_instances": 0})
	rotate := func(by *api.Client, data map[string]any) (string, error) {
		data["key"] = "jwt-secret"
		secret, err := by.Logical().WriteWithContext(t.Context(), "hyvve/rotate", data)
		if err != nil {
			return "", err
		}
		return secret.Data["id"].(string), nil
	}
	for want, data := range map[string]map[string]any{
		"confirm=auto: the policy":   {"confirm": "auto"},
		"confirm_by=any: the policy": {"confirm_by": "any"},
	} {
		if _, err := rotate(ann, data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", data, err)
		}
	}
	if _, err := rotate(root, map[string]any{}); err == nil || !strings.Contains(err.Error(), "your token has no entity") {
		t.Errorf("somebody without an entity: %v", err)
	}
	child, err := ann.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{DisplayName: "another"})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []map[string]any{{}, {"compromised": true, "deadline": "1s"}} {
		id, err := rotate(ann, data)
		if err != nil {
			t.Fatal(err)
		}
		w.waitsForAnother(id)
		w.confirms(id, ann, "was started by you")
		w.confirms(id, annLogin(), "was started by you")
		w.confirms(id, w.as(child.Auth.ClientToken), "was started by you")
		w.confirms(id, root, "your token has no entity")
		for _, change := range []map[string]any{{"confirm_by": "any", "confirm": "auto"}, {"confirm_by": "other", "confirm": "manual"}} {
			if _, err := ann.Logical().WriteWithContext(t.Context(), "hyvve/keys/jwt-secret", change); err != nil {
				t.Fatal(err)
			}
			w.confirms(id, ann, "was started by you")
		}
		<-time.After(2 * time.Second) // the deadline of the compromised one is over
		w.waitsForAnother(id)
		w.confirms(id, bob, "")
		w.ends(id, "done")
		both := false
		for _, n := range w.export(bob) {
			both = both || n["rotation"] == id && n["by"] == "userpass-bob" && strings.Contains(fmt.Sprint(n["what"]), "userpass-ann (entity ")
		}
		if !both {
			t.Error("no entry of the journal names both")
		}
	}
}

// A user who makes a key rotate by itself does not confirm that, either.
func TestAdversaryConfirmsTheirOwnSchedule(t *testing.T) {
	w, _ := peopled(t)
	w.write("sys/auth/userpass", map[string]any{"type": "userpass"})
	ann, bob := w.user("ann", "operator")(), w.user("bob", "rotator")()
	w.write("hyvve/keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "generate": true, "soak": 0, "observe": 0, "confirm_by": "other"})
	w.write("hyvve/workloads/api", map[string]any{"presents": "jwt-secret", "verifies": "jwt-secret", "min_instances": 0})
	if _, err := ann.Logical().WriteWithContext(t.Context(), "hyvve/keys/jwt-secret", map[string]any{"rotation_period": "10s"}); err != nil {
		t.Fatal(err)
	}
	var id string
	kit.Until(t, "it rotates by itself", func() bool {
		secret, err := w.vault.Client.Logical().ListWithContext(t.Context(), "hyvve/rotations")
		if err != nil || secret == nil {
			return false
		}
		id = secret.Data["keys"].([]any)[0].(string)
		return true
	})
	w.waitsForAnother(id)
	w.confirms(id, ann, "by a policy that you wrote last")
	w.confirms(id, bob, "")
	w.ends(id, "done")
}
