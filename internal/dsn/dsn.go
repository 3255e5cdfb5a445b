// SPDX-License-Identifier: Apache-2.0

// Package dsn reads and rewrites connection URLs, such as DATABASE_URL and REDIS_URL, without touching a byte that it was
// not asked to: what rides on them (Prisma's parameters, say) is the application's. net/url would re-encode and re-order.
package dsn

import (
	"errors"
	"fmt"
	"net/url"
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
