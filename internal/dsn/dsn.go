// SPDX-License-Identifier: Apache-2.0

// Package dsn reads and rewrites connection URLs, such as DATABASE_URL and REDIS_URL, without touching a byte that it was
// not asked to: what rides on them (Prisma's parameters, say) is the application's. net/url would re-encode and re-order.
package dsn

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// URL is a connection URL in its parts. Scheme, Rest and the raw user information together are the text it was read from.
type URL struct {
	Scheme   string
	User     string    // decoded
	Password key.Value // decoded
	Rest     string    // after the user information: host, port, path and query, as they were

	info    string // raw user information
	hasInfo bool   // there was an '@'
}

// Parse reads scheme://[user[:password]@]rest, where the scheme is one of those given. It refuses credentials in the query,
// unless they repeat those before the host in a PostgreSQL URL.
// Errors never hold any of it but the scheme and names of parameters.
func Parse(text string, schemes ...string) (URL, error) {
	u, err := parse(text, schemes...)
	if err != nil {
		return URL{}, err
	}
	return u, u.checkCredentials()
}

func parse(text string, schemes ...string) (URL, error) {
	form := schemes[0] + "://user:password@host:port/…"
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || !contains(schemes, scheme) {
		return URL{}, fmt.Errorf("it is not a URL of the form %s", form)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return URL{}, errors.New("the URL holds white space, a control character or bytes that are not UTF-8; percent-encode them")
	}
	u := URL{Scheme: scheme, Rest: rest}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
		u.info, u.hasInfo, u.Rest = rest[:at], true, rest[at+1:]
		user, password, _ := strings.Cut(u.info, ":")
		var errs [2]error
		var secret string
		u.User, errs[0] = url.PathUnescape(user)
		secret, errs[1] = url.PathUnescape(password)
		if errs[0] != nil || errs[1] != nil { // the error would quote what it could not read
			return URL{}, errors.New("the user or the password in the URL is not percent-encoded; write '%' as %25")
		}
		u.Password = key.NewValue(secret)
	} else if strings.Contains(rest, "@") {
		return URL{}, errors.New("the user or the password in the URL holds '/', '?' or '#' that is not percent-encoded; write %2F, %3F, %23")
	}
	if u.Host() == "" && !u.namesHost() {
		return URL{}, fmt.Errorf("the URL names no host; it should be of the form %s", form)
	}
	return u, nil
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

// Text is the whole URL, password and all.
func (u URL) Text() key.Value {
	if !u.hasInfo {
		return key.NewValue(u.Scheme + "://" + u.Rest)
	}
	return key.NewValue(u.Scheme + "://" + u.info + "@" + u.Rest)
}

// HasCredentials reports whether the URL names a user or a password.
func (u URL) HasCredentials() bool { return u.hasInfo && u.info != "" && u.info != ":" }

// With returns the URL with another user and password, also where its query repeats them. Both are percent-encoded but for
// letters, digits and "-._~", which every reader of URLs takes as they are.
func (u URL) With(user string, password key.Value) URL {
	u.Rest = u.repeating(user, password)
	u.User, u.Password, u.hasInfo = user, password, true
	u.info = encode(user) + ":" + encode(password.Reveal())
	return u
}

// Without returns the URL without user and password.
func (u URL) Without() URL {
	u.User, u.Password, u.info, u.hasInfo = "", key.Value{}, "", false
	return u
}

// String is the URL for people: with the user, never with the password.
func (u URL) String() string {
	rest := redactQuery(u.Rest)
	if u.User == "" {
		return u.Scheme + "://" + rest
	}
	return u.Scheme + "://" + encode(u.User) + "@" + rest
}

func encode(text string) string {
	const hexadecimal = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(text) {
		c := text[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			out.WriteByte(c)
			continue
		}
		out.WriteByte('%')
		out.WriteByte(hexadecimal[c>>4])
		out.WriteByte(hexadecimal[c&15])
	}
	return out.String()
}

// Host is host[:port], or several with commas between, as written.
func (u URL) Host() string {
	if end := strings.IndexAny(u.Rest, "/?#"); end >= 0 {
		return u.Rest[:end]
	}
	return u.Rest
}

// Path is what stands between the host and the query, without the slash, decoded: the database.
func (u URL) Path() string {
	rest := u.Rest[len(u.Host()):]
	if end := strings.IndexAny(rest, "?#"); end >= 0 {
		rest = rest[:end]
	}
	path, err := url.PathUnescape(strings.TrimPrefix(rest, "/"))
	if err != nil {
		return ""
	}
	return path
}

// Query is the parameters, decoded. Those that are malformed are left out.
func (u URL) Query() url.Values {
	_, query, _ := strings.Cut(u.Rest, "?")
	query, _, _ = strings.Cut(query, "#")
	values, _ := url.ParseQuery(query)
	return values
}

// Templates are URLs without credentials by environment name: what workloads get under further names, with the credentials of
// a key's version.
type Templates map[string]string

// ParseTemplates reads NAME=URL, separated by white space. check says what is wrong with a URL; example is one that is not.
func ParseTemplates(text, example string, check func(url string) error) (Templates, error) {
	all := Templates{}
	for _, part := range strings.Fields(text) {
		name, url, ok := strings.Cut(part, "=")
		if !ok || key.ValidateEnv(name) != nil {
			return nil, fmt.Errorf("one is not NAME=URL, separated by white space, as %s", example)
		}
		if err := check(url); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("%s is named twice", name)
		}
		all[name] = url
	}
	return all, nil
}

// Names are the environment names, sorted.
func (t Templates) Names() []string { return slices.Sorted(maps.Keys(t)) }

// Render returns the URLs with the credentials of one, if it has some.
func (t Templates) Render(of URL, schemes ...string) (map[string]key.Value, error) {
	rendered := map[string]key.Value{}
	for name, text := range t {
		u, err := Parse(text, schemes...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if of.HasCredentials() {
			u = u.With(of.User, of.Password)
		}
		rendered[name] = u.Text()
	}
	return rendered, nil
}

// passwordBytes give a password of 256 bits.
const passwordBytes = 32

// NewPassword draws one that needs no encoding in a URL.
func NewPassword(random io.Reader) (key.Value, error) {
	secret := make([]byte, passwordBytes)
	if _, err := io.ReadFull(random, secret); err != nil {
		return key.Value{}, fmt.Errorf("drawing random bytes: %w", err)
	}
	return key.NewValue(base64.RawURLEncoding.EncodeToString(secret)), nil
}

// InClear says why what is sent to the host of a URL crosses a network without verified TLS; empty where it does not, or where
// it is no URL that is known here. It quotes nothing: a password
// with an '@' puts its end in the place of the host.
func InClear(text string) string {
	scheme, _, _ := strings.Cut(text, "://")
	switch scheme {
	case "postgres", "postgresql":
		t, err := Postgres(text)
		if err != nil {
			return ""
		}
		for _, h := range t.Hosts {
			if !h.Socket() && !Local(h.Host) {
				return t.unverified()
			}
		}
	case "redis":
		if u, err := Redis(text); err == nil && !Local(hostname(u.Host())) {
			return "the server is reached without TLS (redis://), so that the password and all data can be read and changed on the way; use rediss://"
		}
	}
	return ""
}

// unverified is empty where a client takes no certificate but the server's. sslaccept is Prisma's.
func (t Target) unverified() string {
	mode := t.Session.SSLMode
	if mode == "verify-full" || mode == "require" && strings.EqualFold(t.Query().Get("sslaccept"), "strict") {
		return ""
	}
	if mode == "" {
		mode = "prefer, the default"
	}
	return fmt.Sprintf("the server is reached with sslmode %s, so that anyone on the network path can pose as the server; use sslmode=verify-full (Prisma knows no such mode: sslmode=require&sslaccept=strict)", mode)
}

func hostname(hostPort string) string {
	if host, _, err := net.SplitHostPort(hostPort); err == nil {
		return host
	}
	return strings.Trim(hostPort, "[]")
}

// Local reports whether a host is this machine. No name is resolved.
func Local(host string) bool {
	if host == "localhost" || host == "" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
