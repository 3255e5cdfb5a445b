// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// sight is the users of a key at a node: that of the current version, of the one before, and the pair.
type sight struct {
	node
	users map[string]*user // nil: there is none of that name
}

// inspection is what is known when the current version is looked at.
type inspection struct {
	turn
	all       []sight
	strangers []stranger
}

// inspects looks at all nodes that answer; the error is of the others.
func (k *Kind) inspects(ctx context.Context, c kind.Change) (in inspection, err error) {
	if in.turn, err = readTurn(c); err != nil {
		return in, err
	}
	nodes, strangers, missing := k.explore(ctx, c.Connection)
	in.strangers = strangers
	names := []string{in.next}
	if !in.dual {
		p := userNames.Of(c.Key)
		names = append(names, in.other, in.old, p[0], p[1])
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
	all := make([]*sight, len(nodes))
	err = each(nodes, func(i int, n node) error {
		s := sight{n, map[string]*user{}}
		for _, name := range names {
			u, err := k.user(ctx, c.Connection, n.addr, name)
			if err != nil {
				return err
			}
			s.users[name] = u
		}
		all[i] = &s
		return nil
	})
	for _, s := range all {
		if s != nil {
			in.all = append(in.all, *s)
		}
	}
	return in, together(missing, err)
}

// Inspect implements kind.Inspector.
func (k *Kind) Inspect(ctx context.Context, c kind.Change) (kind.Finding, error) {
	in, err := k.inspects(ctx, c)
	f := kind.Finding{ServerVersion: in.newest()}
	for _, text := range texts(c.Connection, in.strangers) {
		f.Problems = append(f.Problems, kind.Problem{Text: text, Remedy: "hosts= of hyvve/connections/" + c.Connection.Name})
	}
	for _, s := range in.all {
		mends := in.mends(s)
		for _, m := range mends {
			f.Problems = append(f.Problems, m.Problem)
		}
		if len(mends) == 0 {
			f.Notes = append(f.Notes, in.notes(s)...)
		}
		if u := s.users[in.next]; f.Kept == "" && u.accepts(in.to) && !u.odd {
			if _, lost := in.lost(s); len(lost) == 0 {
				f.Kept = login.Keep(memory{User: in.next, Server: s.info["redis_version"], Rights: u.rights})
			}
		}
	}
	return f, err
}

// newest is the highest version of the key that a mark names at any node.
func (in inspection) newest() (highest int) {
	for _, s := range in.all {
		for _, u := range s.users {
			for _, m := range u.marked() {
				if m.of(in.Key) {
					highest = max(highest, m.version)
				}
			}
		}
	}
	return highest
}

// isAhead reports whether a node has a user with the mark of a version that Vault does not know.
func (in inspection) isAhead() bool {
	return slices.ContainsFunc(in.all, func(s sight) bool {
		for _, u := range s.users {
			if m, ok := u.newest(in.Key); ok && m.version > in.known() {
				return true
			}
		}
		return false
	})
}

// reconcile is the command that mends what can be mended.
func (in inspection) reconcile() string {
	return "vault write -f hyvve/keys/" + in.Key.Name + "/reconcile"
}

// notes name the passwords at a node that Vault does not know, and that its rotations leave until they end with the user.
func (in inspection) notes(s sight) (notes []string) {
	if in.dual { // whose other passwords are for an operator to give, but for those of versions
		for _, m := range s.users[in.next].marked() {
			if m.of(in.Key) && m.kept {
				notes = append(notes, fmt.Sprintf("node %s: user %s may still have the password of version %d, which Vault does not know and clients may hold; rotations leave it. When nobody uses it, take it away, with ACL GETUSER and ACL SETUSER, and then its mark: ACL SETUSER %s !%s", s.addr, in.next, m.version, in.next, m.digest()))
			}
		}
		return notes
	}
	for _, name := range append(in.otherUsers(s), in.next) {
		u := s.users[name]
		if u.locked() || name != in.next && !u.keeps(in.Key) {
			continue
		}
		others := len(u.passwords)
		if name == in.next && u.has(in.to) || name == in.old && u.has(in.from) {
			others--
		}
		if others > 0 {
			notes = append(notes, fmt.Sprintf("node %s: user %s has %s, which clients may hold: a rotation that ends with the user ends it", s.addr, name, unknownPasswords(others)))
		}
	}
	return notes
}

func unknownPasswords(n int) string {
	if n == 1 {
		return "a password that Vault does not know"
	}
	return fmt.Sprintf("%d passwords that Vault does not know", n)
}

// mend is a problem at a node, and what mends it.
type mend struct {
	kind.Problem
	user  string
	rules []string // of ACL SETUSER; none: nothing mends it
	done  string
}

// mends returns the problems of a node.
func (in inspection) mends(s sight) []mend {
	var all []mend
	for _, name := range in.otherUsers(s) {
		u := s.users[name]
		m, ok := u.newest(in.Key)
		if !ok || u.locked() || login.Live(in.Change, m.version) {
			continue
		}
		one := mend{user: name, rules: m.keptRules(), done: fmt.Sprintf("node %s: user %s keeps its passwords until a later rotation ends with it", s.addr, name)}
		if one.Ahead = m.version > in.known(); one.Ahead {
			one.Text = fmt.Sprintf("node %s is ahead of Vault: user %s logs in with version %d, which Vault does not know. Was Vault restored from an older snapshot?", s.addr, name, m.version)
			one.Remedy = in.reconcile() + " makes the version valid that Vault has, and leaves the other one valid, which clients may hold; then rotate the key"
		} else {
			one.Text = fmt.Sprintf("node %s: user %s logs in with version %d, which Vault has retired. Was the server restored from an older file?", s.addr, name, m.version)
			one.Remedy = in.reconcile() + " lets a later rotation end it"
		}
		one.Fixable = !one.Ahead
		all = append(all, one)
	}
	all = append(all, in.besides(s)...)
	if m, wrong := in.current(s); wrong {
		m.Ahead = in.isAhead()
		m.Fixable = m.Fixable && !m.Ahead && len(m.rules) > 0
		if m.Remedy == "" {
			m.Remedy = in.reconcile()
		}
		all = append(all, m)
	}
	return append(all, in.lessened(s)...)
}

// besides are the versions whose passwords the current version's user has, too, with strategy=dual_password, and that Vault
// does not know: newer ones, since Vault was restored, and retired ones, since the server was.
func (in inspection) besides(s sight) (all []mend) {
	u := s.users[in.next]
	if !in.dual || !u.accepts(in.to) {
		return nil
	}
	for _, m := range u.marked() {
		if !m.of(in.Key) || m.kept || login.Live(in.Change, m.version) {
			continue
		}
		one := mend{user: in.next, rules: m.keptRules(), done: fmt.Sprintf("node %s: user %s keeps the password of version %d until an operator takes it away", s.addr, in.next, m.version)}
		if one.Ahead = m.version > in.known(); one.Ahead {
			one.Text = fmt.Sprintf("node %s is ahead of Vault: user %s has the password of version %d, too, which Vault does not know. Was Vault restored from an older snapshot?", s.addr, in.next, m.version)
			one.Remedy = in.reconcile() + " leaves that password valid, which clients may hold, and lets rotations go on; then rotate the key"
		} else {
			one.Text = fmt.Sprintf("node %s: user %s has the password of version %d again, which Vault has retired. Was the server restored from an older file?", s.addr, in.next, m.version)
			one.Remedy = in.reconcile() + " leaves it, for clients that may hold it, and lets rotations go on"
		}
		one.Fixable = !one.Ahead
		all = append(all, one)
	}
	return all
}

// otherUsers are the users at a node but the current version's, in order.
func (in inspection) otherUsers(s sight) []string {
	var names []string
	for name, u := range s.users {
		if _, foreign := u.stranger(in.Key); name != in.next && u != nil && !foreign {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// keptRules replace a mark by one that says that the user's passwords stay.
func (m mark) keptRules() []string {
	kept := m
	kept.kept = true
	return []string{"!" + m.digest(), "#" + kept.digest()}
}

// current returns what is wrong with the current version's user at a node, if something is.
func (in inspection) current(s sight) (m mend, wrong bool) {
	u := s.users[in.next]
	if u.accepts(in.to) {
		return m, false
	}
	own := "#" + markOf(in.Key, in.To.Number).digest()
	m = mend{user: in.next, done: fmt.Sprintf("node %s: version %d of user %s is valid again", s.addr, in.To.Number, in.next)}
	say := func(text string, fixable bool, rules ...string) (mend, bool) {
		m.Text = fmt.Sprintf("node %s: version %d, the current one, does not log in: %s", s.addr, in.To.Number, text)
		m.Fixable, m.rules = fixable, rules
		return m, true
	}
	if u == nil {
		rights, from := in.rightsOf(s)
		if from == "" {
			m.Remedy = fmt.Sprintf("say what the user may do with rules= of hyvve/keys/%s, then: %s", in.Key.Name, in.reconcile())
			return say(fmt.Sprintf("there is no user %s, and nobody knows what it was allowed to do", in.next), false)
		}
		m.done += ", with the rights of " + from
		return say(fmt.Sprintf("there is no user %s", in.next), true, slices.Concat([]string{"reset"}, rights, []string{"on", "#" + in.to, own})...)
	}
	if f, foreign := u.stranger(in.Key); foreign && !in.dual {
		m.Remedy = "give key " + in.Key.Name + " users of its own, by username= and a rotation"
		return say(fmt.Sprintf("user %s belongs to %s, by its mark", in.next, f.whose(in.Key)), false)
	}
	last, marked := u.newest(in.Key)
	if !in.ours && !marked && !u.keeps(in.Key) {
		m.Rotates = true
		m.Remedy = fmt.Sprintf("vault write hyvve/rotate key=%s gives workloads a version with another user; clients that were given another password of %s can use it until none is seen to log in as that user", in.Key.Name, in.next)
		return say(fmt.Sprintf("user %s, which an operator brought, is off or has another password", in.next), false)
	}
	older := marked && last.version < in.To.Number // the node was restored from an older file
	switch {
	case u.has(in.to):
		m.Rotates = !in.dual
		return say(fmt.Sprintf("user %s is off", in.next), false, "on")
	case u.locked() && !in.dual:
		m.Rotates = !older
		return say(fmt.Sprintf("user %s is locked", in.next), older, "resetpass", "on", "#"+in.to, own)
	case marked && last.version != in.To.Number && !u.locked():
		m.keeps(u)
		text := fmt.Sprintf("user %s has the password of version %d", in.next, last.version)
		if last.version > in.known() {
			text += ", which Vault does not know. Was Vault restored from an older snapshot?"
		}
		return say(text, older, append(last.keptRules(), "#"+in.to, own)...)
	}
	m.keeps(u)
	m.Rotates = !in.dual
	if m.Rotates {
		m.Remedy = fmt.Sprintf("%s makes version %d valid beside what the user has now; or rotate the key", in.reconcile(), in.To.Number)
	}
	return say(fmt.Sprintf("user %s has another password, or is off", in.next), false, "on", "#"+in.to, own)
}

// keeps says of a user which of its passwords are left as they are.
func (m *mend) keeps(u *user) {
	if n := len(u.passwords); n > 0 {
		m.done += fmt.Sprintf(" beside %s, which still logs in until a rotation ends with the user", unknownPasswords(n))
	}
}

// rightsOf returns what the current version's user is to be allowed at a node that has lost it, and whose rights these are.
func (in inspection) rightsOf(s sight) (rights []string, from string) {
	for _, other := range in.all {
		if u := other.users[in.next]; u != nil && !u.odd {
			return u.rights, fmt.Sprintf("user %s at %s", in.next, other.addr)
		}
	}
	if rights := kept(in.Kept); rights != nil {
		return rights, "when it was looked at last"
	}
	for _, other := range append([]sight{s}, in.all...) {
		for _, name := range append([]string{in.old}, in.otherUsers(other)...) {
			u := other.users[name]
			if _, marked := u.newest(in.Key); u != nil && !u.odd && (marked || name == in.old) {
				return u.rights, fmt.Sprintf("user %s at %s", name, other.addr)
			}
		}
	}
	if rules := in.Key.Options[optionRules]; rules != defaultRules {
		return split(rules), "rules="
	}
	return nil, ""
}

// Restore implements kind.Restorer.
func (k *Kind) Restore(ctx context.Context, c kind.Change, dryRun bool) ([]string, error) {
	in, missing := k.inspects(ctx, c)
	if len(in.all) == 0 {
		return nil, missing
	}
	if c.Connection.Options[fieldUsername] == in.next && !in.dual {
		return nil, fmt.Errorf("connection %s logs in as %s, the user of this key; %s", c.Connection.Name, in.next, ownAdmin)
	}
	done := make([][]string, len(in.all))
	err := each(in.all, func(i int, s sight) error {
		var faults []error
		for _, m := range in.mends(s) {
			if len(m.rules) == 0 {
				faults = append(faults, fmt.Errorf("%s; %s", m.Text, m.Remedy))
				continue
			}
			if !dryRun {
				if err := k.set(ctx, c.Connection, s.addr, m.user, m.rules...); err != nil {
					faults = append(faults, err)
					continue
				}
			}
			done[i] = append(done[i], m.done)
		}
		if len(done[i]) > 0 && !dryRun {
			faults = append(faults, k.restored(ctx, in, s))
		}
		return together(faults...)
	})
	for _, text := range texts(c.Connection, in.strangers) {
		err = together(err, fault{text, nil})
	}
	return slices.Concat(done...), together(missing, err)
}

// restored sees that the current version is valid at a node, and has it written down.
func (k *Kind) restored(ctx context.Context, in inspection, s sight) error {
	if _, err := k.save(ctx, in.Connection, s.node); err != nil {
		return err
	}
	u, err := k.user(ctx, in.Connection, s.addr, in.next)
	if err == nil && !u.accepts(in.to) {
		err = fmt.Errorf("node %s: version %d does not log in as user %s still", s.addr, in.To.Number, in.next)
	}
	return err
}

var _ kind.Undeleter = (*Kind)(nil)

// CheckUndelete implements kind.Undeleter. With two users, the user of every version before last is that of the current one.
func (*Kind) CheckUndelete(c kind.Change) error {
	t, err := readTurn(c)
	if err != nil {
		return err
	}
	admin := t.Connection.Options[fieldUsername] == t.next
	switch {
	case t.toURL.Password.Empty():
		return fmt.Errorf("version %d has no password, so that its user %s would let everybody in", c.To.Number, t.next)
	case !t.dual && t.old == t.next:
		return kind.HasLoginOfCurrent(c, "user "+t.next)
	case t.dual && t.old != t.next:
		return fmt.Errorf("version %d logs in as user %s, and version %d, which is the current one, as %s; strategy=%s keeps the user: give its client the current value", c.To.Number, t.next, c.From.Number, t.old, dualPassword)
	case t.dual && t.from == t.to:
		return fmt.Errorf("version %d has the password of version %d, which is the current one: its client can log in", c.To.Number, c.From.Number)
	case admin && (!t.dual || slices.ContainsFunc(t.Connection.Passwords(), t.toURL.Password.Equal)):
		return fmt.Errorf("connection %s logs in as %s, the user of version %d, which the end of the undeletion would lock; %s", t.Connection.Name, t.next, c.To.Number, ownAdmin)
	}
	return nil
}

// Undelete implements kind.Undeleter. One of the key's own users gets its password again, and what the current version's user
// may do. An operator's user, which Retire has locked, may do what it could. Nodes that do not answer do not keep the others
// waiting: somebody is locked out.
func (k *Kind) Undelete(ctx context.Context, c kind.Change) error {
	if err := k.CheckUndelete(c); err != nil {
		return err
	}
	t, err := readTurn(c)
	if err != nil {
		return err
	}
	nodes, missing := k.discover(ctx, c.Connection)
	all, silent := k.standings(ctx, t, nodes)
	if t.ours {
		_, behind := k.accept(ctx, t, all, t.lacks)
		return together(missing, silent, behind)
	}
	return together(missing, silent, each(all, func(_ int, s standing) error { return k.unlock(ctx, t, s) }))
}

// unlock lets an operator's user log in again at a node with the password of the new version, which is a retired one.
func (k *Kind) unlock(ctx context.Context, t turn, s standing) error {
	if m, foreign := s.next.foreigner(t.Key); foreign {
		return t.notOurs(s.addr, t.next, m)
	}
	switch {
	case s.next == nil:
		return fmt.Errorf("node %s: there is no user %s any more, which an operator brought with version %d; make it again, with its rights", s.addr, t.next, t.To.Number)
	case s.next.accepts(t.to):
	case !s.next.locked():
		return fmt.Errorf("node %s: user %s has another password by now; nothing was changed", s.addr, t.next)
	default:
		if err := k.set(ctx, t.Connection, s.addr, t.next, "resetpass", "on", "#"+t.to, "#"+markOf(t.Key, t.To.Number).digest()); err != nil {
			return err
		}
	}
	if _, err := k.save(ctx, t.Connection, s.node); err != nil {
		return err
	}
	now, err := k.user(ctx, t.Connection, s.addr, t.next)
	if err == nil && !now.accepts(t.to) {
		err = fmt.Errorf("node %s: user %s was given the password of version %d and does not have it; does somebody else change it?", s.addr, t.next, t.To.Number)
	}
	return err
}
