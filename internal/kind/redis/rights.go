// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// memory is what Finding.Kept holds: the rights of the current version's user when it was looked at last and all was well.
type memory struct {
	User   string   `json:"user"`   // empty: a release before kept the rights alone
	Server string   `json:"server"` // its release: each has words of its own for the same rights
	Rights []string `json:"rights"`
}

// readMemory reads a memory from its JSON, or the list of rights that an earlier release has kept. It returns one without rights
// if the text is empty or is neither.
func readMemory(text string) (m memory) {
	if json.Unmarshal([]byte(text), &m) != nil {
		m = memory{}
		if json.Unmarshal([]byte(text), &m.Rights) != nil {
			return memory{}
		}
	}
	if checkRules(strings.Join(m.Rights, " ")) != nil {
		return memory{}
	}
	return m
}

// kept returns the rights in Finding.Kept; nil: there are none.
func kept(text string) []string { return readMemory(text).Rights }

// lessened returns the problems of a user that the current version logs in as: rights that it has no more, and that it lets
// everybody in. Somebody may have meant it, so that nothing of it is mended without being asked for.
func (in inspection) lessened(s sight) (all []mend) {
	u := s.users[in.next]
	if !in.ours || !u.accepts(in.to) {
		return nil
	}
	if u.nopass && !in.toURL.Password.Empty() {
		m := mend{user: in.next}
		m.Rotates = !in.dual
		m.Text = fmt.Sprintf("node %s: user %s is nopass: any client that reaches the server can log in as that user with any password", s.addr, in.next)
		m.Remedy = in.reconcile() + " takes that away: clients without the right password are refused from then on"
		m.rules = []string{"resetpass", "#" + in.to, "#" + markOf(in.Key, in.To.Number).digest()}
		m.done = fmt.Sprintf("node %s: user %s is nopass no more, and has the password of version %d alone: clients that log in without it are refused from then on", s.addr, in.next, in.To.Number)
		if in.dual { // it may be everybody's
			m.rules, m.Remedy = nil, fmt.Sprintf("ACL SETUSER %s resetpass, when no client needs it, and then %s", in.next, in.reconcile())
		}
		all = append(all, m)
	}
	if had, lost := in.lost(s); len(lost) > 0 {
		m := mend{user: in.next, rules: had}
		m.Rotates = true
		m.Text = fmt.Sprintf("node %s: user %s may do less than when it was looked at last: %s", s.addr, in.next, strings.Join(login.Few(lost, 8), ", "))
		m.Remedy = fmt.Sprintf("%s gives the rights back, and a rotation hands them on as they are now; if they should be so, vault write hyvve/keys/%s rules=%s", in.reconcile(), in.Key.Name, kind.ShellQuote(strings.Join(u.rights, " ")))
		m.done = fmt.Sprintf("node %s: user %s has the rights again that it had: %s", s.addr, in.next, strings.Join(had, " "))
		all = append(all, m)
	}
	return all
}

// lost returns what a user may do no more, in words, and the rules that give its rights back. Rights that were added are none
// that are lost. What an operator has written as rules= of the key is meant.
func (in inspection) lost(s sight) (rules, lost []string) {
	u, m := s.users[in.next], readMemory(in.Kept)
	if m.User != in.next || m.Server != s.info["redis_version"] || u.odd || u.may(m.Rights) || u.may(split(in.Key.Options[optionRules])) {
		return nil, nil
	}
	has := func(right string) bool { return slices.Contains(u.rights, right) }
	free := !slices.ContainsFunc(u.rights, func(right string) bool { return right[0] == '-' }) && has("+@all")
	for _, right := range m.Rights {
		switch {
		case has(right) || right == "resetchannels" || right[0] == '-':
		case (right[0] == '~' || right[0] == '%') && has("~*"), right[0] == '&' && has("&*"), right[0] == '+' && free:
		default:
			lost = append(lost, "without "+right)
		}
	}
	for _, right := range u.rights {
		if right[0] == '-' && !slices.Contains(m.Rights, right) {
			lost = append(lost, "with "+right)
		}
	}
	rules = []string{"resetkeys", "-@all"}
	if slices.Contains(u.rights, "resetchannels") {
		rules = append(rules, "resetchannels")
	}
	if slices.ContainsFunc(slices.Concat(u.rights, m.Rights), func(right string) bool { return right[0] == '(' }) {
		rules = append(rules, "clearselectors")
	}
	return append(rules, m.Rights...), lost
}
