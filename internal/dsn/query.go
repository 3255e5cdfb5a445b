// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// parameter is one parameter of a query.
type parameter struct {
	name    string // decoded; as written where it cannot be decoded
	written string // the name as written
	value   string // as written
}

// newParameter reads name=value; given reports whether there was a '='.
func newParameter(part string) (p parameter, given bool) {
	p.written, p.value, given = strings.Cut(part, "=")
	p.name = p.written
	if decoded, err := url.QueryUnescape(p.written); err == nil { // '+' is a blank to some clients; no name has either
		p.name = decoded
	}
	return p, given
}

// parameters are those of the query in their order. Clients split a query at '&' only.
func (u URL) parameters() []parameter {
	_, query, _ := strings.Cut(u.Rest, "?")
	query, _, _ = strings.Cut(query, "#")
	var all []parameter
	for _, part := range strings.Split(query, "&") {
		if p, _ := newParameter(part); p.written != "" || p.value != "" {
			all = append(all, p)
		}
	}
	return all
}

// withValues is what stands after the user information, with the values of parameters as value returns them.
func withValues(rest string, value func(parameter) string) string {
	before, query, ok := strings.Cut(rest, "?")
	if !ok {
		return rest
	}
	query, fragment, hasFragment := strings.Cut(query, "#")
	parts := strings.Split(query, "&")
	for n, part := range parts {
		p, given := newParameter(part)
		if now := value(p); given || now != p.value {
			parts[n] = p.written + "=" + now
		}
	}
	rest = before + "?" + strings.Join(parts, "&")
	if hasFragment {
		rest += "#" + fragment
	}
	return rest
}

// namesHost reports whether the query says where the server is.
func (u URL) namesHost() bool {
	return slices.ContainsFunc(u.parameters(), func(p parameter) bool { return p.plainName() == "host" || p.plainName() == "hostaddr" })
}

// Parameters that log in as somebody, whatever stands before the host, and those that say in which file a client finds that.
var (
	credentialNames = []string{
		"user", "username", "usr", "pass", "pwd", "passwd", "auth", "token", "scram_client_key", "scram_server_key",
	}
	credentialParts = []string{"password", "passphrase", "secret", "token"}
	fileNames       = []string{"passfile", "service", "servicefile"}
)

// plainName is a parameter's name as a lenient reader could take it.
func (p parameter) plainName() string {
	return strings.ToLower(strings.TrimFunc(p.name, func(c rune) bool { return c <= ' ' || c == 0x7f }))
}

func (p parameter) holdsCredential() bool {
	name := p.plainName()
	return slices.Contains(credentialNames, name) ||
		slices.ContainsFunc(credentialParts, func(part string) bool { return strings.Contains(name, part) })
}

func (p parameter) namesFile() bool { return slices.Contains(fileNames, p.plainName()) }

// checkCredentials refuses credentials in the query. Some clients prefer them to those before the host, and nothing hides
// them where a URL is shown without its password. The error names the parameter and never holds its value.
func (u URL) checkCredentials() error {
	for _, p := range u.parameters() {
		switch {
		case u.repeats(p):
		case p.holdsCredential():
			return fmt.Errorf("the URL's query holds the parameter %q; leave it out: user and password belong before the host, as %s://user:password@host", p.plainName(), u.Scheme)
		case p.namesFile():
			return fmt.Errorf("the URL's query holds the parameter %q, which makes a client read credentials or hosts from a file; leave it out, and write into the URL what the file says", p.plainName())
		}
	}
	return nil
}

// Parameters in which a PostgreSQL URL may repeat its user and its password: JDBC reads no others, and libpq prefers them.
const (
	repeatedUser     = "user"
	repeatedPassword = "password"
)

// repeats reports whether a parameter says once more what a PostgreSQL URL says before the host. Then all clients log in as
// the same user, and With changes both places.
func (u URL) repeats(p parameter) bool {
	if !slices.Contains(postgresSchemes, u.Scheme) || strings.Contains(p.value, "+") { // a blank to JDBC, a plus to libpq
		return false
	}
	value, err := url.PathUnescape(p.value)
	switch {
	case err != nil || value == "":
		return false
	case p.written == repeatedUser:
		return value == u.User
	case p.written == repeatedPassword:
		return u.Password.Equal(key.NewValue(value))
	}
	return false
}

// Repeats reports whether the query repeats the user or the password.
func (u URL) Repeats() bool { return slices.ContainsFunc(u.parameters(), u.repeats) }

// repeating is Rest for another user and password.
func (u URL) repeating(user string, password key.Value) string {
	if !u.Repeats() {
		return u.Rest
	}
	return withValues(u.Rest, func(p parameter) string {
		switch {
		case !u.repeats(p):
			return p.value
		case p.written == repeatedUser:
			return encode(user)
		}
		return encode(password.Reveal())
	})
}

// Stored reads a URL that an earlier release has stored, which may hold credentials in its query. User and password are those
// that clients use: libpq prefers the query's; clients of other servers use it for what is missing before the host.
func Stored(text string, schemes ...string) (URL, error) {
	u, err := parse(text, schemes...)
	if err != nil {
		return u, err
	}
	preferred := slices.Contains(postgresSchemes, u.Scheme)
	for _, p := range u.parameters() {
		value, err := url.PathUnescape(p.value)
		if err != nil {
			continue
		}
		switch name := p.plainName(); {
		case (name == "user" || name == "username") && (preferred || u.User == ""):
			u.User = value
		case name == "password" && (preferred || u.Password.Empty()):
			u.Password = key.NewValue(value)
		}
	}
	return u, nil
}

// Redact returns a URL for people: without the password, and without the values of parameters that hold credentials. Text
// that is no URL is returned as it is.
func Redact(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return text
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
		if user, _, secret := strings.Cut(rest[:at], ":"); secret {
			rest = user + rest[at:]
		}
	}
	return scheme + "://" + redactQuery(rest)
}

// redactQuery is what stands after the user information, without the values of parameters that hold credentials.
func redactQuery(rest string) string {
	return withValues(rest, func(p parameter) string {
		if p.holdsCredential() || p.namesFile() {
			return "REDACTED"
		}
		return p.value
	})
}

var redisSchemes = []string{"redis", "rediss"}

// redisPlaces are parameters that ioredis and redis-py let stand in for what the URL lacks before its query, and that other
// clients ignore or refuse.
var redisPlaces = []string{"host", "port", "path"}

// Redis reads a Redis URL. It refuses parameters that make some clients log in elsewhere, or as somebody else. Errors hold no
// part of the URL but names of parameters.
func Redis(text string) (URL, error) {
	u, err := Parse(text, redisSchemes...)
	if err != nil {
		return u, err
	}
	for _, p := range u.parameters() {
		if name := p.plainName(); slices.Contains(redisPlaces, name) {
			return u, fmt.Errorf("the URL's query holds the parameter %q, which some clients use and others ignore; leave it out: write host and port before the path, as redis://cache:6379/0", name)
		}
	}
	databases := u.Query()["db"]
	if path := u.Path(); path != "" {
		databases = append(databases, path)
	}
	slices.Sort(databases)
	if len(slices.Compact(databases)) > 1 {
		return u, errors.New("the URL names several databases, in its path and in the parameter \"db\", and clients differ in which one they use; leave all but one out")
	}
	return u, nil
}

// Passwords returns the passwords in a URL of any scheme: before the host, and in the query. There are none where text is no URL.
func Passwords(text string) []key.Value {
	scheme, _, ok := strings.Cut(text, "://")
	if !ok || scheme == "" {
		return nil
	}
	u, err := parse(text, scheme)
	if err != nil {
		return nil
	}
	var all []key.Value
	if !u.Password.Empty() {
		all = append(all, u.Password)
	}
	for _, p := range u.parameters() {
		if name := p.plainName(); p.value == "" || !strings.Contains(name, "password") && !strings.Contains(name, "passwd") {
			continue
		}
		if value, err := url.PathUnescape(p.value); err == nil && !u.Password.Equal(key.NewValue(value)) {
			all = append(all, key.NewValue(value))
		}
	}
	return all
}
