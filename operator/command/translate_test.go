// SPDX-License-Identifier: Apache-2.0

package command

import "testing"

// What the engine says is typed here with hyvve; commands about another mount, and those that hyvve lacks, stay.
func TestRemediesAreTranslated(t *testing.T) {
	t.Setenv(mountEnv, "")
	for _, test := range []struct{ mount, text, want string }{
		{"hyvve", "somebody has to confirm: vault write -f hyvve/rotations/2026.1-ab/confirm", "somebody has to confirm: hyvve confirm 2026.1-ab"},
		{"hyvve", "continue it with: vault write -f hyvve/rotations/x/resume; or with: vault write -f hyvve/rotations/x/revert.", "continue it with: hyvve resume x; or with: hyvve revert x."},
		{"team/keys", "vault write -f team/keys/rotations/x/pause", "hyvve pause x --mount=team/keys"},
		{"hyvve", "vault write -f other/rotations/x/pause", "vault write -f other/rotations/x/pause"},
		{"hyvve", "see why with: vault read hyvve/rotations/x; follow it with: vault read hyvve/rotations/y wait=5s", "see why with: hyvve get x; follow it with: hyvve follow y"},
		{"hyvve", "all of it: vault read hyvve/rotations/x/receipt", "all of it: hyvve receipt x"},
		{"hyvve", "vault write hyvve/keys/a/undelete version=1", "vault write hyvve/keys/a/undelete version=1"},
	} {
		s := &session{mount: test.mount}
		if got := s.translated(test.text); got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.text, got, test.want)
		}
	}
}
