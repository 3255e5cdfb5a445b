// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// acted is whom sessions of a login acted as when it was looked at last and all was well. It is what Finding.Kept holds.
type acted struct {
	Login string `json:"login"` // empty: a release before wrote the owner alone
	Owner string `json:"owner"`
}

func readActed(kept string) acted {
	var a acted
	if json.Unmarshal([]byte(kept), &a) != nil || a.Login == "" || a.Owner == "" {
		return acted{Owner: kept}
	}
	return a
}

// acting is whom the sessions of a login act as, and whom they should.
type acting struct {
	role     string
	is       string
	want     string // empty: not known
	database string // where it acts as somebody else; empty: wherever it logs in
	wrong    bool
}

// judge compares whom the sessions of a login act as with whom they should act as. said is what a session has said; empty:
// none was asked, and the role's settings tell. A login role of the key never acts as itself. A role of an operator's acts
// as he has set it, as long as it may.
func judge(c kind.Change, found map[string]known, login, said string) acting {
	of := found[login]
	a := acting{role: login, is: actsAs(found, login)}
	if !roleNames.Ours(c.Key, login) {
		a.want = cmp.Or(of.roleIn(""), login)
		a.wrong = a.want != a.is
		return a
	}
	chosen, before := c.Key.Options[optionOwner], remembered(c, found, login)
	right := func(name string) bool {
		return !roleNames.Ours(c.Key, name) && (name == chosen || name == before || before == "")
	}
	a.want, a.wrong = cmp.Or(chosen, before), !right(a.is)
	for _, s := range of.settings() {
		if s.name == "role" && s.database != "" && s.value != a.is && !a.wrong {
			a.is, a.database, a.wrong = s.value, s.database, true
		}
	}
	switch {
	case a.wrong:
	case said != "" && !right(said):
		a.is, a.wrong = said, true
	default:
		a.want = a.is
	}
	return a
}

// roleIn returns the role that a role's own setting names, in a database or, with none, in all; "" if there is none.
func (k known) roleIn(database string) (name string) {
	for _, s := range k.settings() {
		if s.name == "role" && s.database == database && s.value != "none" {
			name = s.value
		}
	}
	return name
}

// actsAs returns whom the sessions of a role act as by its settings. The server lets it log in where it may not act as that
// role, with a warning: then it acts as itself.
func actsAs(found map[string]known, login string) string {
	if name := found[login].roleIn(""); name != "" && found[login].May {
		return name
	}
	return login
}

// remembered returns whom the sessions of a login role of the key should act as, by all that tells it but the role's own
// settings: what was kept when it was well, or else the login of the version before, from which it was lent.
func remembered(c kind.Change, found map[string]known, login string) string {
	kept := readActed(c.Kept)
	if kept.Login == login || kept.Login == "" && kept.Owner != "" {
		return kept.Owner
	}
	for _, name := range predecessors(c.Key, login) {
		if name == kept.Login {
			return kept.Owner
		}
		of, there := found[name]
		m, marked := readMark(of.Comment)
		if !there || roleNames.Ours(c.Key, name) && (!marked || !m.of(c.Key)) {
			continue
		}
		if owner := actsAs(found, name); !roleNames.Ours(c.Key, owner) {
			return owner
		}
	}
	return ""
}

// predecessors returns the other logins of a key, those of the latest versions first.
func predecessors(k key.Key, login string) []string {
	var names []string
	add := func(name string) {
		if name != "" && name != login && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range versionLogins(k) {
		add(name)
	}
	for _, name := range roleNames.Of(k) {
		add(name)
	}
	return names
}

// versionLogins returns the logins of a key's versions, the latest first.
func versionLogins(k key.Key) (names []string) {
	for _, v := range slices.Backward(k.Versions) {
		name := v.Login
		if u, err := urls.Credential(v); name == "" && err == nil {
			name = u.User
		}
		if name != "" && v.State != key.Staged && v.State != key.Aborted {
			names = append(names, name)
		}
	}
	return names
}

// problem says in words what is wrong, and what helps. The server tells nobody: sessions log in with a warning.
func (a acting) problem(c kind.Change, found map[string]known, version int, at string) kind.Problem {
	k := c.Key.Name
	is := a.is
	if a.is == a.role {
		is = "itself"
	}
	if a.database != "" {
		is += " in database " + a.database
	}
	p := kind.Problem{Text: fmt.Sprintf("role %s, with which version %d logs in, acts as %s at %s, and not as its owner %s: its sessions have other rights, and what they create is not the owner's", a.role, version, is, at, a.want)}
	reconcile := fmt.Sprintf("vault write -f hyvve/keys/%s/reconcile", k)
	_, there := found[a.want]
	var ways []string
	switch {
	case !roleNames.Ours(c.Key, a.role):
		why := "may not act as that role"
		ways = append(ways, fmt.Sprintf("take the setting away (ALTER ROLE %s RESET role), or let the login act so (GRANT %s TO %[1]s); or name the owner of the next login roles in owner= of hyvve/keys/%[3]s", quoteIfNeeded(a.role), quoteIfNeeded(a.want), k))
		if !there {
			why = "there is no such role"
			ways = []string{fmt.Sprintf("take the setting away (ALTER ROLE %s RESET role), or set the role that is there; or name the owner of the next login roles in owner= of hyvve/keys/%s", quoteIfNeeded(a.role), k)}
		}
		p.Text = fmt.Sprintf("role %s, with which version %d logs in, has the setting role = %q at %s, and %s: its sessions act as %s", a.role, version, a.want, at, why, is)
	case a.want == "":
		p.Text = fmt.Sprintf("role %s, with which version %d logs in, acts as %s at %s, and whom it should act as is not known", a.role, version, is, at)
		ways = append(ways, fmt.Sprintf("name that role: vault write hyvve/keys/%s owner=NAME; then %s", k, reconcile))
	case !there:
		ways = append(ways, missingOwner(c, found, a.role, a.want)+"; then "+reconcile)
	default:
		ways = append(ways, fmt.Sprintf("if it should act as %s, %s", a.want, reconcile))
		if a.is != a.role && a.database == "" {
			ways = append(ways, fmt.Sprintf("if it should act as %s, vault write hyvve/keys/%s owner=%s", a.is, k, kind.ShellQuote(a.is)))
		}
	}
	p.Remedy = strings.Join(ways, "; ")
	return p
}

// missingOwner says what to do where the owner of a login role is not at the server. The login role is still a member of an
// owner that was renamed.
func missingOwner(c kind.Change, found map[string]known, login, owner string) string {
	k := c.Key.Name
	acts := slices.DeleteFunc(slices.Clone(found[login].Acts), func(name string) bool { return roleNames.Ours(c.Key, name) })
	if len(acts) > 0 {
		slices.Sort(acts)
		return fmt.Sprintf("owner role %q does not exist at the server, and %s is a member of %s. If the owner was renamed so, vault write hyvve/keys/%s owner=%s", owner, login, strings.Join(slices.Compact(acts), " and "), k, kind.ShellQuote(acts[0]))
	}
	return fmt.Sprintf("owner role %q does not exist at the server. Make it again, with its tables, or name the role that takes its place: vault write hyvve/keys/%s owner=NAME", owner, k)
}
