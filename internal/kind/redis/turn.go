// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// turn is a change in the words of Redis.
type turn struct {
	kind.Change
	old, next string // users
	other     string // of the pair that has next; "": there is none
	from, to  string // digests of their passwords
	fromURL   dsn.URL
	toURL     dsn.URL
	first     bool // there is no old one
	dual      bool // both versions are passwords of one user
	ours      bool // the new user is one that we make; others came with an operator's value, and are left as they are
}

func readTurn(c kind.Change) (t turn, err error) {
	t = turn{Change: c, first: c.From.Value.Empty(), dual: c.Key.Options[optionStrategy] == dualPassword}
	if t.fromURL, t.toURL, err = urls.Both(c); err != nil {
		return t, err
	}
	t.next, t.to = urls.UserOf(t.toURL), digest(t.toURL.Password)
	if !t.first {
		t.old, t.from = urls.UserOf(t.fromURL), digest(t.fromURL.Password)
	}
	both, ok := userNames.Siblings(c.Key, t.next)
	if t.ours = t.dual || ok; ok && !t.dual {
		t.other = both[0]
		if t.other == t.next {
			t.other = both[1]
		}
	}
	return t, nil
}

// forward reports whether the change is what it says, and not a revert's question turned around.
func (t turn) forward() bool { return t.first || t.From.Number < t.To.Number }

// absurd is an error where the change contradicts itself, so that nothing of it is ever staged.
func (t turn) absurd() error {
	switch {
	case t.dual && !t.first && t.old != t.next:
		return fmt.Errorf("version %d has another user, %s, than version %d, %s; strategy=%s keeps the user: rotate with a value of that one, or without value=", t.To.Number, t.next, t.From.Number, t.old, dualPassword)
	case t.dual && t.from == t.to:
		return fmt.Errorf("versions %d and %d have the same password; rotate without value=", t.From.Number, t.To.Number)
	case !t.dual && t.old == t.next:
		return fmt.Errorf("version %d has the same user, %s, as version %d, which is in use; rotate without value=, or set strategy=%s", t.To.Number, t.next, t.From.Number, dualPassword)
	case !t.dual && t.ours && t.Connection.Options[fieldUsername] == t.next:
		return fmt.Errorf("connection %s logs in as %s, one of the two users of this key; %s", t.Connection.Name, t.next, ownAdmin)
	}
	return nil
}

const ownAdmin = "give the connection an administrator of its own, with username= and password=-"

// CheckChange implements kind.ChangeChecker.
func (*Kind) CheckChange(c kind.Change) error {
	t, err := readTurn(c)
	if err != nil {
		return err
	}
	return together(t.absurd(), t.lockout())
}

// lockout is an error where the connection would lose its login with the old version.
func (t turn) lockout() error {
	if t.Connection.Options[fieldUsername] != t.old {
		return nil
	}
	switch {
	case !t.dual:
		return fmt.Errorf("connection %s logs in as %s, the user that this rotation locks at its end; %s", t.Connection.Name, t.old, ownAdmin)
	case slices.ContainsFunc(t.Connection.Passwords(), t.fromURL.Password.Equal):
		return fmt.Errorf("connection %s logs in as %s with the very password that this rotation takes away; %s", t.Connection.Name, t.old, ownAdmin)
	}
	return nil
}

// standing is how a change stands at a node.
type standing struct {
	node
	old, next *user
	third     *user // the other one of the pair
}

// standings asks nodes. It returns those that answer, and an error of the others.
func (k *Kind) standings(ctx context.Context, t turn, nodes []node) ([]standing, error) {
	all := make([]*standing, len(nodes))
	err := each(nodes, func(i int, n node) error {
		s := standing{node: n}
		var err error
		if s.next, err = k.user(ctx, t.Connection, n.addr, t.next); err != nil {
			return err
		}
		switch {
		case t.old == t.next:
			s.old = s.next
		case !t.first:
			if s.old, err = k.user(ctx, t.Connection, n.addr, t.old); err != nil {
				return err
			}
		}
		switch t.other {
		case "":
		case t.old:
			s.third = s.old
		default:
			if s.third, err = k.user(ctx, t.Connection, n.addr, t.other); err != nil {
				return err
			}
		}
		all[i] = &s
		return nil
	})
	return present(all), err
}

func present(all []*standing) []standing {
	var there []standing
	for _, s := range all {
		if s != nil {
			there = append(there, *s)
		}
	}
	return there
}

// lacks reports whether nobody could log in with the new version.
func (t turn) lacks(s standing) bool { return !s.next.accepts(t.to) }

// rights are what the new user is to be allowed at a node: what the old one is, there or else where there is one. If all
// nodes have forgotten the old one, an operator has said it with rules=, or it was kept.
func (t turn) rights(all []standing, s standing) (rights []string, copied bool, err error) {
	if t.first {
		return split(t.Key.Options[optionRules]), false, nil
	}
	for _, other := range append([]standing{s}, all...) {
		if other.old == nil {
			continue
		}
		if other.old.odd {
			return nil, false, fmt.Errorf("node %s: what it says that user %s may do is not understood; is it another server?", other.addr, t.old)
		}
		return other.old.rights, true, nil
	}
	if rights := kept(t.Kept); rights != nil {
		return rights, false, nil
	}
	if rules := t.Key.Options[optionRules]; rules != defaultRules {
		return split(rules), false, nil
	}
	return nil, false, fmt.Errorf("user %s of version %d is at no node of connection %s; is it the connection of another server? If the server has forgotten the user, say what it may do with rules= of hyvve/keys/%s", t.old, t.From.Number, t.Connection.Name, t.Key.Name)
}

// notValid is the error where an operator's version does not log in.
func (t turn) notValid(s standing) error {
	return fmt.Errorf("node %s: user %s of version %d, which an operator brought, is not valid there; make it so", s.addr, t.next, t.To.Number)
}

func nopass(addr, user string) error {
	return fmt.Errorf("node %s: user %s is nopass: the server lets every client in, whatever the password; give it one with ACL SETUSER %s and a password, and import the URL with it", addr, user, user)
}

// beside reports whether the new password is added to others that the user has: with two passwords of one user, and where
// Restore has found one that Vault does not know.
func (t turn) beside(s standing) bool {
	return s.next != nil && (t.dual || !s.next.locked() && s.next.keeps(t.Key))
}

// accept makes the new version valid where it should be, and sees that it is. It returns the nodes where all is well, and an
// error of the others.
func (k *Kind) accept(ctx context.Context, t turn, all []standing, should func(standing) bool) ([]standing, error) {
	good := make([]*standing, len(all))
	err := each(all, func(i int, s standing) error {
		if !should(s) {
			good[i] = &s
			return nil
		}
		if !t.ours {
			return t.notValid(s)
		}
		if err := t.mayStage(all[0], s); err != nil {
			return err
		}
		rights, copied, err := t.rights(all, s)
		if err != nil {
			return err
		}
		valid := []string{"#" + t.to, "#" + markOf(t.Key, t.To.Number).digest()}
		rules := slices.Concat([]string{"reset"}, rights, []string{"on"}, valid)
		if t.beside(s) {
			if s.next.nopass {
				return nopass(s.addr, t.next)
			}
			rules, copied = valid, false
		}
		if err := k.set(ctx, t.Connection, s.addr, t.next, rules...); err != nil {
			return err
		}
		if _, err := k.save(ctx, t.Connection, s.node); err != nil {
			return err
		}
		if s.next, err = k.user(ctx, t.Connection, s.addr, t.next); err != nil {
			return err
		}
		switch {
		case s.next.has(t.to) && !s.next.on:
			return fmt.Errorf("node %s: user %s is off; turn it on with ACL SETUSER %s on", s.addr, t.next, t.next)
		case t.lacks(s):
			return fmt.Errorf("node %s: user %s was given a new password and does not have it; does somebody else change it?", s.addr, t.next)
		case copied && !s.next.may(rights):
			return fmt.Errorf("node %s: user %s was given the rights of %s and has others; does somebody else change it?", s.addr, t.next, t.old)
		}
		good[i] = &s
		return nil
	})
	return present(good), err
}

// bring brings nodes up to date that have joined since the new version was staged, or were started again without it. Where
// no node has it, it was not staged, or is withdrawn already.
func (k *Kind) bring(ctx context.Context, t turn, nodes []node) error {
	if !t.ours || !t.forward() {
		return nil
	}
	all, err := k.standings(ctx, t, nodes)
	if err != nil || !slices.ContainsFunc(all, func(s standing) bool { return !t.lacks(s) }) {
		return err
	}
	_, err = k.accept(ctx, t, all, t.lacks)
	return err
}

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
