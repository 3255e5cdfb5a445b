// SPDX-License-Identifier: Apache-2.0

// Package redis is the kind of keys that are Redis URLs, such as REDIS_URL.
//
// With strategy=alternating a key has two ACL users, NAME_a and NAME_b, that take turns: CLIENT LIST then proves who still
// uses the old one. With strategy=dual_password there is one user with two passwords for as long as a rotation takes. The
// server cannot tell sessions of the one from those of the other: that nobody uses the old one any more is then known
// from leases and reports alone.
//
// Redis does not replicate ACLs. What is done is done at every master, replica and node of a cluster, and seen to be so.
// Passwords reach a server as SHA-256 only, but for logging in with them.
package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// Kind acts on Redis servers. It keeps administrators' sessions open between calls; Close ends them.
type Kind struct {
	login.URLs
	mu      sync.Mutex
	clients map[account]*pool
}

var (
	_ kind.Kind        = (*Kind)(nil)
	_ kind.Generator   = (*Kind)(nil)
	_ kind.Renderer    = (*Kind)(nil)
	_ kind.Server      = (*Kind)(nil)
	_ kind.Connector   = (*Kind)(nil)
	_ kind.RootRotator = (*Kind)(nil)

	_ kind.ChangeChecker   = (*Kind)(nil)
	_ kind.Sampler         = (*Kind)(nil)
	_ kind.RefusalReporter = (*Kind)(nil)
	_ kind.Preflighter     = (*Kind)(nil)
	_ kind.Restorer        = (*Kind)(nil)
	_ io.Closer            = (*Kind)(nil)
)

// New returns a kind without sessions. The driver's own log goes to nobody from then on: what it has to say is in errors.
func New() *Kind {
	logging.Disable()
	return &Kind{URLs: urls, clients: map[account]*pool{}}
}

// Name implements kind.Kind.
func (*Kind) Name() string { return "redis" }

// Summary implements kind.Kind.
func (*Kind) Summary() string {
	return "a Redis URL, whose ACL user alternates between two, or has two passwords during a rotation"
}

// The options of a key.
const (
	optionStrategy = "strategy"
	optionRules    = "rules"

	alternating  = "alternating"
	dualPassword = "dual_password"
)

// urls are the values of keys.
var urls = login.URLs{
	Schemes: []string{"redis", "rediss"}, Example: "redis://cache:6379/0", Further: "QUEUE_URL=redis://queue:6379/1", User: defaultUser,
	Read: dsn.Redis,
	Check: func(text string) error {
		_, err := read(text)
		return err
	},
	Addresses: func(text string) ([]string, error) {
		u, err := dsn.Stored(text, "redis", "rediss")
		if err != nil {
			return nil, err
		}
		return addresses(u)
	},
}

// userNames are those of a key's two users. Redis bounds no name.
var userNames = login.Names{Limit: 128, Suffixes: []string{"_a", "_b"}, Legacy: maxUser}

// defaultRules are the default of rules.
const defaultRules = "~* &* +@all -@admin -@dangerous"

// Fields implements kind.Kind.
func (*Kind) Fields() []kind.Field {
	return []kind.Field{
		{Name: kind.OptionConnection, Description: "The connection whose administrator makes and locks the users."},
		{Name: login.OptionURL, Description: "The URL without user and password, parameters and all, as redis://cache:6379/0. Default: that of the version before."},
		{Name: login.OptionURLs, Description: "Further names with URLs of the same user and password, separated by white space, as QUEUE_URL=redis://queue:6379/1."},
		{Name: optionStrategy, Default: alternating, Description: "alternating: two users take turns, and the server proves who still uses the old one. dual_password: one user has two passwords during a rotation, where workloads are bound to its name."},
		{Name: kind.OptionUsername, Description: "The users are this name with _a and _b; with dual_password, this name itself, where the first version is generated. Default: the key's name, with '_' for '-', and the id of the mount."},
		{Name: optionRules, Default: defaultRules, Public: publicRules, Description: "What the user may do where the first version is generated, as ACL rules. Rights of an imported version's user are copied."},
		{Name: login.OptionVerify, Default: "true", Description: "Log in through the URLs themselves before anybody is given them. false where Vault cannot reach their hosts: then the connection's nodes alone are tried."},
	}
}

// Normalize implements kind.Kind.
func (k *Kind) Normalize(options kind.Options) (kind.Options, error) {
	full, err := urls.NormalizeOptions(k.Fields(), options)
	if err != nil {
		return nil, err
	}
	if s := full[optionStrategy]; s != alternating && s != dualPassword {
		return nil, fmt.Errorf("strategy %s is not known; use %s or %s", kind.Quote(s), alternating, dualPassword)
	}
	if err := checkUser(full[kind.OptionUsername]); err != nil {
		return nil, fmt.Errorf("username: %w", err)
	}
	if err := checkRules(full[optionRules]); err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	return full, nil
}

const maxUser = 256 // bytes; Redis has no limit, and nobody types more

// checkUser takes any name that Redis would, and that survives its files of users.
func checkUser(name string) error {
	switch {
	case len(name) > maxUser:
		return fmt.Errorf("the name is %d bytes long; at most %d are allowed", len(name), maxUser)
	case strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c == 0x7f }):
		return errors.New("the name holds white space or a control character, which no user of Redis has in it")
	case strings.ContainsAny(name, "\"'"):
		return errors.New("the name holds a quote, which does not survive Redis's files")
	}
	return nil
}

// checkRules refuses what is not a right: passwords and states of the user are ours to set.
func checkRules(rules string) error {
	for _, rule := range split(rules) {
		switch {
		case isPassword(rule):
			return errors.New("one is a password or its hash; leave passwords out: they are those of the version")
		case slices.Contains([]string{"on", "off", "nopass", "resetpass", "reset"}, strings.ToLower(rule)):
			return fmt.Errorf("%s is not a right; leave it out: the rotation says when the user is valid", rule)
		}
	}
	return nil
}

// isPassword reports whether a rule, which may be the first of a selector, is a password or its hash.
func isPassword(rule string) bool { return strings.IndexAny(strings.TrimLeft(rule, "("), "><#!") == 0 }

// category is a rule on a category of commands, as +@all.
var category = regexp.MustCompile(`^\(*[+-]@[A-Za-z0-9_.-]+\)*$`)

// publicRules returns ACL rules without passwords, which do not belong there.
func publicRules(text string) string {
	rules := strings.Fields(text) // also at white space that Redis takes for a part of a rule
	for n, rule := range rules {
		switch {
		case isPassword(rule):
			rules[n] = kind.Hidden
		case !category.MatchString(rule):
			rules[n] = kind.PublicText(optionRules, rule)
		}
	}
	return strings.Join(rules, " ")
}

// read reads a URL that leads to hosts and a database.
func read(text string) (dsn.URL, error) {
	u, err := dsn.Redis(text)
	if err == nil {
		_, err = addresses(u)
	}
	if err == nil {
		err = checkDatabase(u)
	}
	return u, err
}

// Check implements kind.Kind.
func (*Kind) Check(_ kind.Options, value key.Value) ([]string, error) {
	u, err := read(value.Reveal())
	if err == nil {
		err = checkUser(u.User)
	}
	if err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	if u.Password.Empty() {
		return []string{"the URL has no password: every client of the server may do what its user may"}, nil
	}
	if clear := dsn.InClear(value.Reveal()); clear != "" {
		return []string{clear}, nil
	}
	return nil, nil
}

// Generate implements kind.Generator: the other one of the two users, or the same with dual_password, with a new password,
// in the same URL.
func (k *Kind) Generate(random io.Reader, of key.Key, from key.Value) (key.Value, error) {
	return urls.Next(random, of, from, func(old dsn.URL) (string, error) { return nextUser(of, old, from.Empty()), nil })
}

func nextUser(of key.Key, old dsn.URL, first bool) string {
	switch {
	case of.Options[optionStrategy] != dualPassword:
		return userNames.Next(of, old.User, 1)
	case !first:
		return old.User // as it was written: without a name it is the user default
	case of.Options[kind.OptionUsername] != "":
		return of.Options[kind.OptionUsername]
	}
	return strings.TrimSuffix(userNames.Of(of)[0], userNames.Suffixes[0])
}

// nobody is a user that there is not, for commands that are to change nothing.
const nobody = "hyvve-nobody"

// needed are commands that rotations give, in forms that do no harm: servers look at the administrator's rights before they
// look at what a command says.
var needed = [][]any{
	{"INFO"},
	{"ACL", "GETUSER", nobody},
	{"ACL", "SETUSER", nobody, "+hyvve-no-such-command"}, // is refused as a whole, and makes no user
	{"ACL", "DELUSER", nobody},
	{"CLIENT", "LIST", "TYPE", "pubsub"},
}

// optional is a command, in a form that does no harm, and what is missing without it.
type optional struct {
	args    []any
	without string
}

// wanted are commands without which a rotation continues, and what is missing then.
var wanted = []optional{
	{[]any{"CLIENT", "KILL", "ID", "9223372036854775807"}, "a rotation with compromised=true cannot end sessions of the old user"}, // no client has that number
	{[]any{"ACL", "LOG", "0"}, "nothing shows who still tries a user that is retired"},
}

// CheckConnection implements kind.Connector. It has the nodes write their users down, as each rotation will: whether they
// can is seen no other way.
func (k *Kind) CheckConnection(ctx context.Context, c kind.Connection) ([]string, error) {
	a, err := readAdmin(c)
	if err != nil {
		return nil, err
	}
	if err := k.checkRights(ctx, c, a.addr); err != nil { // at once, and not one after the other
		return nil, err
	}
	nodes, strangers, err := k.explore(ctx, c)
	if err != nil {
		return nil, err
	}
	var refused []string
	for _, text := range texts(c, strangers) { // any client that may replicate can announce addresses: that must not stop an operator
		refused = append(refused, "rotations are stopped: "+text)
	}
	notes := make([][]string, len(nodes))
	err = each(nodes, func(i int, n node) error {
		if err := k.checkRights(ctx, c, n.addr); err != nil {
			return err
		}
		var err error
		notes[i], err = k.notes(ctx, c, n)
		return err
	})
	return append(slices.Concat(notes...), refused...), err
}

// checkRights tries what rotations need, and names what the administrator may not do.
func (k *Kind) checkRights(ctx context.Context, c kind.Connection, addr string) error {
	var missing, rules []string
	for _, args := range needed {
		_, err := k.do(ctx, c, addr, args...)
		switch {
		case goredis.IsPermissionError(err):
			missing, rules = append(missing, command(args)), append(rules, rule(args))
		case err != nil && !answered(err):
			return err
		}
	}
	if len(missing) == 0 {
		return nil
	}
	user := c.Options[fieldUsername]
	return fmt.Errorf("node %s: user %s may not run %s; %s", addr, user, strings.Join(missing, ", "), grant(user, rules...))
}

// notes are what an operator should know of a node.
func (k *Kind) notes(ctx context.Context, c kind.Connection, n node) ([]string, error) {
	var notes []string
	user := c.Options[fieldUsername]
	if !strings.HasPrefix(c.Options[login.FieldURL], "rediss:") && !loopback(n.addr) {
		notes = append(notes, fmt.Sprintf("node %s: passwords cross the network in the clear; use rediss:// with tls_ca", n.addr))
	}
	lost, err := k.save(ctx, c, n)
	if err != nil {
		return nil, err
	}
	if lost != "" {
		notes = append(notes, fmt.Sprintf("ACL users on %s are lost when it restarts: %s", n.addr, lost))
	}
	for _, one := range wanted {
		text, err := k.lacksWanted(ctx, c, n, one)
		if err != nil {
			return nil, err
		}
		if text != "" {
			notes = append(notes, text)
		}
	}
	uncounted, err := k.cannotCount(ctx, c, n.addr)
	if err != nil {
		return nil, err
	}
	if uncounted != "" {
		notes = append(notes, uncounted)
	}
	replicas, err := k.replicasAs(ctx, c, n)
	if err != nil {
		return nil, err
	}
	if len(replicas) > 0 {
		notes = append(notes, fmt.Sprintf("node %s: %s as the administrator, user %s: rotate-root is refused until they do it as a user of their own, with masteruser and masterauth", n.addr, replicating(replicas), user))
	}
	return notes, nil
}

// lacksWanted says what is missing where the administrator may not run a command.
func (k *Kind) lacksWanted(ctx context.Context, c kind.Connection, n node, one optional) (string, error) {
	_, err := k.do(ctx, c, n.addr, one.args...)
	switch {
	case goredis.IsPermissionError(err):
		user := c.Options[fieldUsername]
		return fmt.Sprintf("node %s: user %s may not run %s: %s; %s", n.addr, user, command(one.args), one.without, grant(user, rule(one.args))), nil
	case err != nil && !answered(err):
		return "", err
	}
	return "", nil
}

// replicasAs are the replicas that follow a node as the administrator.
func (k *Kind) replicasAs(ctx context.Context, c kind.Connection, n node) ([]session, error) {
	all, err := k.sessions(ctx, c, n, c.Options[fieldUsername])
	return slices.DeleteFunc(all, func(s session) bool { return !s.replica }), err
}

func replicating(replicas []session) string {
	var addrs []string
	for _, s := range replicas {
		addrs = append(addrs, s.addr)
	}
	return strings.Join(addrs, ", ") + " replicate"
}
