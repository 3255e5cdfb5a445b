// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

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
