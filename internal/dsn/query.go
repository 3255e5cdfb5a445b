// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// parameter is one parameter of a query.
type parameter struct {
	name  string // decoded; as written where it cannot be decoded
	value string // as written
}

// parameters are those of the query in their order. Clients split a query at '&' only.
func (u URL) parameters() []parameter {
	_, query, _ := strings.Cut(u.Rest, "?")
	query, _, _ = strings.Cut(query, "#")
	var all []parameter
	for _, part := range strings.Split(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name == "" && value == "" {
			continue
		}
		if decoded, err := url.QueryUnescape(name); err == nil { // '+' is a blank to some clients; no name has either
			name = decoded
		}
		all = append(all, parameter{name, value})
	}
	return all
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
		case p.holdsCredential():
			return fmt.Errorf("the URL's query holds the parameter %q; leave it out: user and password belong before the host, as %s://user:password@host", p.plainName(), u.Scheme)
		case p.namesFile():
			return fmt.Errorf("the URL's query holds the parameter %q, which makes a client read credentials or hosts from a file; leave it out, and write into the URL what the file says", p.plainName())
		}
	}
	return nil
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

// Redact gives a URL for people: without the password, and without the values of parameters that hold credentials. Text
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
	before, query, ok := strings.Cut(rest, "?")
	if !ok {
		return scheme + "://" + rest
	}
	parts := strings.Split(query, "&")
	for n, part := range parts {
		name, _, _ := strings.Cut(part, "=")
		decoded, err := url.QueryUnescape(name)
		if err != nil {
			decoded = name
		}
		if p := (parameter{name: decoded}); p.holdsCredential() || p.namesFile() {
			parts[n] = name + "=REDACTED"
		}
	}
	return scheme + "://" + before + "?" + strings.Join(parts, "&")
}
