// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// imported returns the roles, other than login roles of the key, with which versions logged in that are retired, and the
// number of the last such version of each.
func imported(k key.Key) (roles []string, numbers map[string]int) {
	numbers = map[string]int{}
	for _, v := range k.Versions {
		if v.Login == "" || roleNames.Ours(k, v.Login) {
			continue
		}
		if !slices.Contains(roles, v.Login) {
			roles = append(roles, v.Login)
		}
		numbers[v.Login] = v.Number
	}
	return roles, numbers
}

// revived says which roles log in although Vault has ended their versions, as after a restore of the server: a client that had such
// a version is let in again. It says nothing of the role of To.
func revived(c kind.Change, found map[string]known) (texts []string) {
	say := func(role string, number int) {
		if role != userOf(c) && found[role].Login {
			texts = append(texts, fmt.Sprintf("role %s can log in, and version %d, which had it, is retired: was the server restored from a dump? If nobody should use the role: ALTER ROLE %s NOLOGIN", role, number, found[role].Quoted))
		}
	}
	for _, role := range roleNames.Of(c.Key) {
		if m, marked := readMark(found[role].Comment); marked && m.of(c.Key) && !m.unknown(c) && !login.Live(c, m.version) {
			say(role, m.version)
		}
	}
	roles, numbers := imported(c.Key)
	for _, role := range roles {
		// An owner may have been let in again by somebody on purpose, who says so by a comment of their own.
		m, marked := readMark(found[role].Comment)
		if (found[role].Comment == "" || marked && m.of(c.Key)) && !login.Live(c, numbers[role]) {
			say(role, numbers[role])
		}
	}
	return texts
}
