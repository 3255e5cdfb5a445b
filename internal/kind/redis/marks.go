// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// mark says whose a user is. Redis has no comments on users. A mark is therefore written as the hash of a password, the
// only thing that every release keeps with a user and that gives no right. It is no hash of anything: to log in by it
// would take a text whose SHA-256 has these very 32 bytes. Each version's password has a mark beside it. A locked user
// has the mark of its last version alone.
//
//	magic (5) form (1) mount (6) hash of the key's name (8) version (8) kept (1) check (3)
type mark struct {
	mount   string
	key     [8]byte
	version int
	kept    bool // Restore has found the user with a password that Vault does not know; the next one is added beside it
}

// markMagic begins each mark; the last byte is the form of what follows.
const markMagic = "hyvve\x01"

// Where the parts of a mark end.
const (
	mountEnd   = len(markMagic) + 6
	keyEnd     = mountEnd + 8
	versionEnd = keyEnd + 8
	markEnd    = versionEnd + 1
)

func markOf(k key.Key, version int) mark {
	sum := sha256.Sum256([]byte(k.Name))
	return mark{mount: k.Mount, key: [8]byte(sum[:8]), version: version}
}

// digest is the mark as the hash of a password.
func (m mark) digest() string {
	data := make([]byte, sha256.Size)
	copy(data, markMagic)
	copy(data[len(markMagic):mountEnd], m.mount)
	copy(data[mountEnd:], m.key[:])
	binary.BigEndian.PutUint64(data[keyEnd:], uint64(m.version)) //nolint:gosec // numbers of versions are positive
	if m.kept {
		data[versionEnd] = 1
	}
	sum := sha256.Sum256(data[:markEnd])
	copy(data[markEnd:], sum[:])
	return hex.EncodeToString(data)
}

// readMark reads a password's hash. Any other is no mark.
func readMark(digest string) (mark, bool) {
	data, err := hex.DecodeString(digest)
	if err != nil || len(data) != sha256.Size || !bytes.HasPrefix(data, []byte(markMagic)) {
		return mark{}, false
	}
	version := binary.BigEndian.Uint64(data[keyEnd:])
	m := mark{
		mount: strings.TrimRight(string(data[len(markMagic):mountEnd]), "\x00"), key: [8]byte(data[mountEnd:keyEnd]),
		version: int(version & maxVersion), kept: data[versionEnd] == 1,
	}
	return m, version <= maxVersion && m.digest() == digest
}

const maxVersion = 1<<31 - 1

// of reports whether the mark is one of the key's.
func (m mark) of(k key.Key) bool { return m.mount == k.Mount && m.key == markOf(k, 0).key }

// whose names the key of a mark.
func (m mark) whose(k key.Key) string {
	if m.mount != k.Mount {
		return fmt.Sprintf("a key of another mount (%q; this one is %q)", m.mount, k.Mount)
	}
	return "another key of this mount"
}

// stranger returns a mark of another key, if the user has one.
func (u *user) stranger(k key.Key) (mark, bool) {
	for _, m := range u.marked() {
		if !m.of(k) {
			return m, true
		}
	}
	return mark{}, false
}

// foreigner returns a mark of another mount's key, if the user has one. Keys of one mount that share a user are rotated
// together, and the engine lets none of them end it while another needs it.
func (u *user) foreigner(k key.Key) (mark, bool) {
	for _, m := range u.marked() {
		if m.mount != k.Mount {
			return m, true
		}
	}
	return mark{}, false
}

// newest returns the key's highest mark of a password that Vault should know.
func (u *user) newest(k key.Key) (highest mark, ok bool) {
	for _, m := range u.marked() {
		if m.of(k) && !m.kept && (!ok || m.version > highest.version) {
			highest, ok = m, true
		}
	}
	return highest, ok
}

// keeps reports whether the user has a password that Vault does not know and that is to stay.
func (u *user) keeps(k key.Key) bool {
	return slices.ContainsFunc(u.marked(), func(m mark) bool { return m.of(k) && m.kept })
}

func (u *user) marked() []mark {
	if u == nil {
		return nil
	}
	return u.marks
}

// hasMark reports whether the user has this very mark.
func (u *user) hasMark(m mark) bool { return slices.Contains(u.marked(), m) }

// locked reports whether nobody can log in as the user.
func (u *user) locked() bool {
	return u == nil || !u.on || !u.nopass && len(u.passwords) == 0
}

// known is the highest number of a version that Vault knows of the key.
func (t turn) known() int {
	n := max(t.To.Number, t.From.Number)
	for _, v := range t.Key.Versions {
		n = max(n, v.Number)
	}
	return n
}

// mayStage returns an error where the new version is not to be made valid at a node: a user there is not the key's to
// change. The connection's own node decides whose users are: others may have been away when one was locked.
func (t turn) mayStage(own, s standing) error {
	if err := t.overtaken(s); err != nil {
		return err
	}
	if t.dual {
		if t.first && s.next != nil && !s.next.has(t.to) {
			return fmt.Errorf("node %s: there is a user %s already; import its URL with value=-, or set another username=", s.addr, t.next)
		}
		return nil
	}
	if m, ok := s.old.foreigner(t.Key); ok {
		return t.notOurs(s.addr, t.old, m)
	}
	if !t.ours || s.next == nil {
		return nil
	}
	if m, ok := s.next.stranger(t.Key); ok {
		return t.notOurs(s.addr, t.next, m)
	}
	m, marked := s.next.newest(t.Key)
	decided := own.addr != s.addr && (own.next.locked() || own.next.has(t.to))
	switch {
	case s.next.has(t.to) || s.next.keeps(t.Key):
		return nil
	case (marked || t.adopts(own)) && (s.next.locked() || decided && m.version < t.To.Number):
		return nil
	case marked && m.version >= t.To.Number:
		return t.ahead(s.addr, t.next, m)
	case marked:
		if occupied := kind.OccupiedBy(t.Key, m.version, fmt.Sprintf("node %s: user %s", s.addr, t.next)); occupied != nil {
			return occupied
		}
		return fmt.Errorf("node %s: user %s can log in with a password of version %d, which is not in use as far as Vault knows. Nothing was changed. If nobody uses it, lock it: ACL SETUSER %s off", s.addr, t.next, m.version, t.next)
	}
	return fmt.Errorf("node %s: there is a user %s already that this key has not made: it has no mark of hyvve's, and a password that is not this version's or none. Nothing was changed. Set another username= for the key, or remove the user where nobody needs it: ACL DELUSER %s", s.addr, t.next, t.next)
}

// overtaken returns an error where a user at a node has the mark of a version that Vault does not know.
func (t turn) overtaken(s standing) error {
	for _, u := range []named{{t.old, s.old}, {t.next, s.next}, {t.other, s.third}} {
		if m, ok := u.newest(t.Key); ok && m.version > t.known() {
			return t.ahead(s.addr, u.name, m)
		}
	}
	return nil
}

// named is a user, or its absence, with its name.
type named struct {
	name string
	*user
}

// adopts reports whether an unmarked user is the other one of a pair that a release before marks has made: the present
// version's is the first one, and unmarked, too.
func (t turn) adopts(own standing) bool {
	return userNames.ArePair(t.Key, t.old, t.next) && own.old != nil && len(own.old.marks) == 0
}

func (t turn) ahead(addr, user string, m mark) error {
	return fmt.Errorf("node %s: the server is ahead of Vault: user %s has the mark of version %d of this key, and the newest that Vault knows is %d. Was Vault restored from an older snapshot? Nothing was changed. See what is at the server, and put it right, with hyvve/keys/%s/reconcile", addr, user, m.version, t.known(), t.Key.Name)
}

func (t turn) notOurs(addr, user string, m mark) error {
	return fmt.Errorf("node %s: user %s belongs to %s, by its mark. Nothing was changed. Let key %s have users of its own: by username= of hyvve/keys/%s, and a URL of another user; or, if the other key is gone, take the mark away: ACL SETUSER %s !%s", addr, user, m.whose(t.Key), t.Key.Name, t.Key.Name, user, m.digest())
}

// mayLock returns an error where the old user is another key's, or a newer version uses it.
func (t turn) mayLock(s standing) error {
	if m, ok := s.old.foreigner(t.Key); ok {
		return t.notOurs(s.addr, t.old, m)
	}
	if m, ok := s.old.newest(t.Key); ok && m.version > t.From.Number && !s.old.has(t.from) {
		return t.ahead(s.addr, t.old, m)
	}
	return nil
}

// mayWithdraw reports whether the new user at a node is as Stage has made it, or an earlier call has left it.
func (t turn) mayWithdraw(s standing) bool {
	if _, ok := s.next.stranger(t.Key); ok && !t.dual {
		return false
	}
	if s.next.has(t.to) {
		return true
	}
	own := markOf(t.Key, t.To.Number)
	return t.overtaken(s) == nil && s.next.hasMark(own) && (t.dual || s.next.locked())
}

// digest returns the form of a password that is sent to a server, and that the server keeps.
func digest(password key.Value) string {
	sum := sha256.Sum256([]byte(password.Reveal()))
	return hex.EncodeToString(sum[:])
}

// user is one of a node's users.
type user struct {
	on, nopass bool
	passwords  []string // digests, but marks
	marks      []mark
	rights     []string // rules that give what it may do, to a user that may do nothing
	odd        bool     // the server has said more of what it may do, in words that are no such rules
}

// accepts reports whether somebody can log in with a password of that digest. A nil user is one that is not there.
func (u *user) accepts(digest string) bool { return u != nil && u.on && (u.nopass || u.has(digest)) }

func (u *user) has(digest string) bool { return u != nil && slices.Contains(u.passwords, digest) }

// without returns the rules that take a password and its mark away, as far as they are there.
func (u *user) without(digest string, m mark) (rules []string) {
	if u.has(digest) {
		rules = append(rules, "!"+digest)
	}
	if u.hasMark(m) {
		rules = append(rules, "!"+m.digest())
	}
	return rules
}

// may reports whether two users may do the same. Servers do not keep the order of rules where it has no meaning.
func (u *user) may(rights []string) bool {
	return slices.Equal(words(u.rights), words(rights))
}

func words(rights []string) []string {
	return slices.Sorted(slices.Values(split(strings.Join(rights, " "))))
}

// user asks a node for one of its users; nil: there is none of that name.
func (k *Kind) user(ctx context.Context, c kind.Connection, addr, name string) (*user, error) {
	reply, err := k.do(ctx, c, addr, "ACL", "GETUSER", name)
	if err != nil || reply == nil {
		return nil, err
	}
	return readUser(reply), nil
}

// readUser reads an answer to ACL GETUSER: names and values in turn. Patterns are a list without their signs in Redis 6, and
// a text with them from 7 on, which also has selectors.
func readUser(reply any) *user {
	fields := table(reply)
	u := &user{}
	for _, digest := range list(fields["passwords"]) {
		if m, ok := readMark(digest); ok {
			u.marks = append(u.marks, m)
		} else {
			u.passwords = append(u.passwords, digest)
		}
	}
	for _, flag := range list(fields["flags"]) {
		switch flag {
		case "on":
			u.on = true
		case "nopass":
			u.nopass = true
		case "skip-sanitize-payload":
			u.rights = append(u.rights, flag)
		}
	}
	rules, odd := selector(fields)
	u.rights, u.odd = append(u.rights, rules...), odd
	selectors, _ := fields["selectors"].([]any)
	for _, s := range selectors {
		rules, odd := selector(table(s))
		u.rights, u.odd = append(u.rights, "("+strings.Join(rules, " ")+")"), u.odd || odd
	}
	return u
}

// selector is the rules of a user or of one of its selectors.
func selector(fields map[string]any) (rules []string, odd bool) {
	rules = patterns(fields["keys"], "~")
	if channels, ok := fields["channels"]; ok { // since Redis 6.2; what they are at first is for the server's settings to say
		rules = append(append(rules, "resetchannels"), patterns(channels, "&")...)
	}
	commands, _ := fields["commands"].(string)
	rules = append(rules, split(commands)...)
	rights := slices.DeleteFunc(slices.Clone(rules), func(rule string) bool { return !isRight(rule) })
	return rights, len(rights) < len(rules)
}

// isRight reports whether a rule says what a user may do. A node's words are rules for other nodes: none of them may set a
// password or let anybody in.
func isRight(rule string) bool {
	return rule == "resetchannels" || rule != "" && strings.ContainsRune("~%&+-", rune(rule[0]))
}

func patterns(value any, sign string) []string {
	if text, ok := value.(string); ok {
		return split(text)
	}
	var all []string
	for _, pattern := range list(value) {
		all = append(all, sign+pattern)
	}
	return all
}

// split divides where Redis does. It takes a no-break space, say, for a letter.
func split(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c >= '\t' && c <= '\r' })
}

func table(reply any) map[string]any {
	items, _ := reply.([]any)
	fields := map[string]any{}
	for pair := range slices.Chunk(items, 2) {
		if name, ok := pair[0].(string); ok && len(pair) == 2 {
			fields[name] = pair[1]
		}
	}
	return fields
}

func list(reply any) []string {
	items, _ := reply.([]any)
	var all []string
	for _, item := range items {
		if text, ok := item.(string); ok {
			all = append(all, text)
		}
	}
	return all
}

// set changes a user, in all that it says or in nothing.
func (k *Kind) set(ctx context.Context, c kind.Connection, addr, name string, rules ...string) error {
	args := []any{"ACL", "SETUSER", name}
	for _, rule := range rules {
		args = append(args, rule)
	}
	_, err := k.do(ctx, c, addr, args...)
	return err
}

// save makes a node's users outlive its restart: in its file of users, or else in its configuration file. Where neither
// can be, lost says why.
func (k *Kind) save(ctx context.Context, c kind.Connection, n node) (lost string, err error) {
	reply, err := k.do(ctx, c, n.addr, "CONFIG", "GET", "aclfile")
	file := list(reply)
	forbidden := err != nil
	switch {
	case forbidden && !answered(err):
		return "", err
	case !forbidden && len(file) == 2 && file[1] != "":
		_, err = k.do(ctx, c, n.addr, "ACL", "SAVE")
		return "", err
	case !forbidden && n.info["config_file"] == "":
		return "it has neither an aclfile nor a configuration file", nil
	}
	attempt := []any{"CONFIG", "REWRITE"}
	if forbidden { // or renamed, as it is in many places
		attempt = []any{"ACL", "SAVE"}
	}
	_, saved := k.do(ctx, c, n.addr, attempt...)
	switch {
	case saved == nil:
		return "", nil
	case !answered(saved):
		return "", saved
	case forbidden:
		return fmt.Sprintf("it cannot write them down: %v; %v", err, saved), nil
	}
	return fmt.Sprintf("it has no aclfile, and its configuration file cannot be written: %v", saved), nil
}
