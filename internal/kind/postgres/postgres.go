// SPDX-License-Identifier: Apache-2.0

// Package postgres is the kind of keys that are PostgreSQL connection URLs, such as DATABASE_URL. The login roles of a key
// take turns; sessions of each act as one owner role (ALTER ROLE … SET role), so that what they create, and the rows that
// they see, are the owner's whichever logs in. Passwords reach the server as SCRAM-SHA-256 verifiers only.
package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// Kind acts on PostgreSQL servers. It keeps administrators' sessions open between calls; Close ends them.
type Kind struct {
	login.URLs
	random io.Reader

	mu     sync.Mutex
	closed bool
	pools  map[string]*sessions      // by connection name, revision and which password it uses
	looks  map[string]*census        // by connection name, revision and host
	logins map[string]chan struct{}  // by host of the connection
	ours   map[string]map[string]int // how often we have logged in, by hosts and database
}

var (
	_ kind.Kind        = (*Kind)(nil)
	_ kind.Generator   = (*Kind)(nil)
	_ kind.Renderer    = (*Kind)(nil)
	_ kind.Server      = (*Kind)(nil)
	_ kind.Sampler     = (*Kind)(nil)
	_ kind.Connector   = (*Kind)(nil)
	_ kind.RootRotator = (*Kind)(nil)

	_ kind.ChangeChecker = (*Kind)(nil)
	_ io.Closer          = (*Kind)(nil)
)

// New takes the source of salts.
func New(random io.Reader) *Kind {
	return &Kind{URLs: urls, random: random, pools: map[string]*sessions{}, looks: map[string]*census{}, logins: map[string]chan struct{}{}, ours: map[string]map[string]int{}}
}

// Name implements kind.Kind.
func (*Kind) Name() string { return "postgres" }

// Summary implements kind.Kind.
func (*Kind) Summary() string {
	return "a PostgreSQL URL, whose login roles take turns and act as one owner"
}

// The options of a key.
const (
	optionOwner       = "owner"
	optionQuery       = "verify_query"
	optionSessionUser = "allow_session_user"
)

// urls are the values of keys.
var urls = login.URLs{
	Schemes: []string{"postgresql", "postgres"}, Example: "postgresql://db:5432/app", Further: "DIRECT_URL=postgresql://db:5432/app",
	Check: checkTemplate,
	Read: func(text string) (dsn.URL, error) {
		t, err := dsn.Postgres(text)
		return t.URL, err
	},
	Addresses: func(text string) ([]string, error) {
		t, err := dsn.Postgres(text)
		return dialed(t.Hosts), err
	},
}

// Fields implements kind.Kind.
func (*Kind) Fields() []kind.Field {
	return []kind.Field{
		{Name: kind.OptionConnection, Description: "The connection whose administrator makes and locks the login roles."},
		{Name: login.OptionURL, Description: "The URL without user and password, parameters and all, as postgresql://db:6543/app?pgbouncer=true. Default: that of the version before."},
		{Name: login.OptionURLs, Description: "Further names with URLs of the same credential, separated by white space, as DIRECT_URL=postgresql://db:5432/app."},
		{Name: kind.OptionUsername, Description: "The login roles are this name with _a, _b, _c and _d. Default: the key's name, with '_' for '-', and the mount's id."},
		{Name: optionOwner, Description: "The role that sessions act as. Default: the role of the imported URL; needed where the first version is generated."},
		{Name: login.OptionVerify, Default: "true", Description: "Log in through the URLs themselves before anybody is given them. false where Vault cannot reach their hosts: then the connection's server and its replicas alone are tried."},
		{Name: optionQuery, Default: "SELECT 1", Description: "A query that is run as the owner to see that a new login role works, as SELECT 1 FROM public.orders LIMIT 1. It runs in a read-only transaction with search_path=pg_catalog, so that tables need their schema. An error shows the SQLSTATE only."},
		{Name: optionSessionUser, Default: "false", Description: "Rotate although a policy on rows goes by session_user, which is another login role after each rotation."},
	}
}

// maxIdentifier is how many bytes an identifier of PostgreSQL has at most (NAMEDATALEN - 1), and maxUsername leaves room for a
// suffix.
const (
	maxIdentifier = 63
	maxUsername   = maxIdentifier - login.SuffixLength
)

// roleNames are those of the login roles. Two would do for a rotation. With four, the role of a version is locked for three
// rotations before another version gets it: as long, Vault can be restored from a snapshot and have its version back.
var roleNames = login.Names{Limit: maxIdentifier, Suffixes: []string{"_a", "_b", "_c", "_d"}, Legacy: maxUsername}

// Normalize implements kind.Kind.
func (k *Kind) Normalize(options kind.Options) (kind.Options, error) {
	full, err := urls.NormalizeOptions(k.Fields(), options, optionSessionUser)
	if err != nil {
		return nil, err
	}
	if err := checkIdentifier(full[kind.OptionUsername], maxUsername); err != nil {
		return nil, fmt.Errorf("username: %w", err)
	}
	if err := checkIdentifier(full[optionOwner], maxIdentifier); err != nil {
		return nil, fmt.Errorf("owner: %w", err)
	}
	return full, nil
}

// checkIdentifier takes any name that PostgreSQL would; quoting is ours to do.
func checkIdentifier(name string, most int) error {
	switch {
	case len(name) > most:
		return fmt.Errorf("%s is %d bytes long; at most %d are allowed", kind.Quote(name), len(name), most)
	case strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return fmt.Errorf("%s holds a control character", kind.Quote(name))
	case strings.HasPrefix(name, "pg_"):
		return fmt.Errorf("%q begins with pg_, which PostgreSQL keeps for itself", name)
	case name == "public" || name == "none":
		return fmt.Errorf("%q is a word that PostgreSQL keeps for itself", name)
	}
	return nil
}

// checkTemplate wants a database, and that the key's owner is whom sessions act as.
func checkTemplate(text string) error {
	u, err := dsn.Postgres(text)
	switch {
	case err != nil:
		return err
	case u.Database == "":
		return errors.New("the URL names no database; write it after the host, as postgresql://db:5432/app")
	}
	return checkActor(u)
}

// Check implements kind.Kind.
func (*Kind) Check(_ kind.Options, value key.Value) ([]string, error) {
	u, err := dsn.Postgres(value.Reveal())
	switch {
	case err != nil:
		return nil, fmt.Errorf("value: %w", err)
	case u.User == "" || u.Password.Empty():
		return nil, errors.New("value: the URL names no user, or no password; both are needed, as postgresql://user:password@host:port/database")
	case u.Database == "":
		return nil, errors.New("value: the URL names no database; write it after the host, as postgresql://user:password@host:port/database")
	}
	if err := checkActor(u); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	notes := u.Notes()
	if clear := dsn.InClear(value.Reveal()); clear != "" {
		notes = append(notes, clear)
	}
	return notes, checkIdentifier(u.User, maxIdentifier)
}

// Generate implements kind.Generator: the next login role, with a new password, in the same URL.
func (k *Kind) Generate(random io.Reader, of key.Key, from key.Value) (key.Value, error) {
	return urls.Next(random, of, from, func(old dsn.URL) (string, error) {
		if from.Empty() && of.Options[optionOwner] == "" {
			return "", errors.New("owner is empty; name the role that the login roles act as, or import the URL in use with value=-")
		}
		return nextLogin(of, from, old.User), nil
	})
}

// place is somewhere to log in.
type place struct {
	what     string // for people
	host     string // the hosts in words: equal for equal hosts
	hosts    dsn.Hosts
	database string
	session  dsn.Session
	pooler   bool // there may be one in between, or it is one
	spare    bool // one of several hosts of a URL, which may be away
	asks     bool // a login counts only if the server has asked for the password
}

// placeOf is the place where the clients of a URL log in.
func placeOf(what string, t dsn.Target) place {
	p := place{what: what, hosts: t.Hosts, database: t.Database, session: t.Session}
	return p.named()
}

// named completes a place with its hosts in words.
func (p place) named() place {
	p.host = p.hosts.String()
	p.what += " " + p.host
	return p
}

// spares are the hosts of a place one by one, where it has several.
func (p place) spares(what string) []place {
	if len(p.hosts) < 2 {
		return nil
	}
	var all []place
	for _, h := range p.hosts {
		one := p
		one.what, one.hosts, one.spare = what, dsn.Hosts{h}, true
		one.session.TargetAttrs = ""
		all = append(all, one.named())
	}
	return all
}

func (p place) equal(o place) bool {
	return p.host == o.host && p.database == o.database && p.session == o.session
}

// splitReplica reads host:port.
func splitReplica(text string) (dsn.HostPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return dsn.HostPort{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" {
		return dsn.HostPort{}, errors.New("it is not host:port with a port from 1 to 65535")
	}
	return dsn.HostPort{Host: host, Port: uint16(n)}, nil
}

// settings are all that the driver knows, in its own form, with sslmode as given. What is not named here it would take from
// the environment of this process, and from files below its home directory.
func (p place) settings(sslmode string) string {
	hosts, ports := p.hosts.Lists()
	root := ""
	if p.session.SystemRoots {
		root = "system"
	}
	var text strings.Builder
	for _, s := range [][2]string{
		{"host", hosts},
		{"port", ports},
		{"dbname", p.database},
		{"user", "nobody"}, // and a password, so that none is looked for
		{"password", "none"},
		{"passfile", ""},
		{"servicefile", ""},
		{"sslmode", cmp.Or(sslmode, "prefer")},
		{"sslrootcert", root},
		{"sslcert", ""},
		{"sslkey", ""},
		{"sslpassword", ""},
		{"sslcertmode", "allow"},
		{"sslsni", "1"},
		{"sslnegotiation", cmp.Or(p.session.SSLNegotiation, "postgres")},
		{"target_session_attrs", cmp.Or(p.session.TargetAttrs, "any")},
		{"channel_binding", cmp.Or(p.session.ChannelBinding, "prefer")},
		{"require_auth", p.session.RequireAuth},
		{"connect_timeout", strconv.Itoa(int(patience.Seconds()))},
		{"min_protocol_version", "3.0"},
		{"max_protocol_version", "3.0"},
	} {
		fmt.Fprintf(&text, "%s='%s' ", s[0], strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s[1]))
	}
	return text.String()
}

// parsed has the driver read a place. It knows nobody yet, and sends no parameters.
func (p place) parsed(sslmode string) (*pgx.ConnConfig, error) {
	if len(p.hosts) == 0 {
		return nil, fmt.Errorf("%s: its URL names no host", p.what)
	}
	forgetService()
	config, err := pgx.ParseConfig(p.settings(sslmode))
	if err != nil { // there is no password in it, but there may be no sense either
		return nil, fmt.Errorf("%s: its host, port, database or TLS parameters cannot be used", p.what)
	}
	config.RuntimeParams = map[string]string{}
	if p.session.Options != "" {
		config.RuntimeParams["options"] = p.session.Options
	}
	config.LookupFunc = pgconn.LookupFunc(p.hosts.Resolver(dsn.Resolver(config.LookupFunc)))
	return config, nil
}

// forgetService takes the one setting away that the driver would use whatever we say: of the name of a service, whose file
// it reads.
func forgetService() { _ = os.Unsetenv("PGSERVICE") }

var (
	_ kind.AdministratorNamer = (*Kind)(nil)
	_ kind.Addresser          = (*Kind)(nil)
)

// Administrator implements kind.AdministratorNamer: the role.
func (*Kind) Administrator(c kind.Connection) string {
	u, err := parseAdmin(c)
	if err != nil {
		return ""
	}
	return u.User
}

// Servers implements kind.LoginNamer. Roles are of the whole server, whatever the database.
func (*Kind) Servers(c kind.Connection) []string {
	t, err := dsn.Postgres(c.Options[login.FieldURL])
	if err != nil {
		return nil
	}
	return dialed(t.Hosts)
}

// dialed is where a client goes, as host:port.
func dialed(hosts dsn.Hosts) []string {
	var all []string
	for _, h := range hosts {
		all = append(all, net.JoinHostPort(cmp.Or(h.Addr, h.Host), strconv.Itoa(int(h.Port))))
	}
	return all
}

// Allowed implements kind.Addresser.
func (k *Kind) Allowed(c kind.Connection) (kind.Hosts, error) {
	own := append(k.Servers(c), kind.SplitList(c.Options[fieldReplicas])...)
	for _, text := range strings.Fields(c.Options[fieldBouncers]) {
		if t, err := dsn.Postgres(text); err == nil {
			own = append(own, dialed(t.Hosts)...)
		}
	}
	return kind.AllowedHosts(c, own...)
}
