// SPDX-License-Identifier: Apache-2.0

// Package login is what kinds share whose keys are URLs of logins at a server, which take turns: the options of such a key
// and the URLs that are made of them, the names of its logins, and the administrator's URL and certificates.
package login

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// The options that keys of each such kind have, beside kind.OptionConnection and kind.OptionUsername.
const (
	OptionURL    = "url"         // without user and password
	OptionURLs   = "urls"        // further names with URLs of the same credential
	OptionVerify = "verify_urls" // whether new versions are tried through the URLs themselves
)

// URLs describe the values of a kind: URLs with the user and password of a login. A kind embeds them, which makes it a
// [kind.Renderer], with Login of [kind.LoginNamer] and Leads of [kind.Addresser].
type URLs struct {
	Schemes []string
	Example string // a URL without user and password, as postgresql://db:5432/app
	Further string // one with a further name, as DIRECT_URL=postgresql://db:5432/app
	User    string // as whom a URL logs in that names no user

	// Read reads a URL as the server's clients do, and refuses what they read differently.
	Read func(text string) (dsn.URL, error)
	// Check refuses a URL without user and password that is of no use, such as one without a database.
	Check func(text string) error
	// Addresses returns where the clients of a URL connect, as host:port.
	Addresses func(text string) ([]string, error)
}

// NormalizeOptions is [kind.Kind] Normalize for the options of this package, and for others that are true or false.
func (u URLs) NormalizeOptions(fields []kind.Field, options kind.Options, flags ...string) (kind.Options, error) {
	full, err := kind.Defaults(fields, options)
	if err != nil {
		return nil, err
	}
	if text := full[OptionURL]; text != "" {
		if err := u.checkTemplate(text); err != nil {
			return nil, fmt.Errorf("url: %w", err)
		}
	}
	if _, err := u.templates(full); err != nil {
		return nil, err
	}
	for _, name := range append(flags, OptionVerify) {
		if value := full[name]; value != "true" && value != "false" {
			return nil, fmt.Errorf("%s %s is neither true nor false", name, kind.Quote(value))
		}
	}
	return full, nil
}

func (u URLs) checkTemplate(text string) error {
	of, err := u.Read(text)
	switch {
	case err != nil:
		return err
	case of.HasCredentials():
		return errors.New("the URL holds a user or a password; leave both out: they are those of the version")
	}
	return u.Check(text)
}

// templates returns the further names and their URLs without credentials.
func (u URLs) templates(options kind.Options) (dsn.Templates, error) {
	all, err := dsn.ParseTemplates(options[OptionURLs], u.Further, u.checkTemplate)
	if err != nil {
		return nil, fmt.Errorf("urls: %w", err)
	}
	return all, nil
}

// Next is [kind.Generator] Generate: the URL of the option url, or else that of the version before, with a new password.
// user returns the next login, given the URL of the version before.
func (u URLs) Next(random io.Reader, of key.Key, from key.Value, user func(old dsn.URL) (string, error)) (key.Value, error) {
	var old dsn.URL
	var err error
	if !from.Empty() {
		if old, err = u.Read(from.Reveal()); err != nil {
			return key.Value{}, fmt.Errorf("the current version: %w; rotate with the corrected URL, as value=-", err)
		}
	}
	url := old
	switch template := of.Options[OptionURL]; {
	case template != "":
		if url, err = u.Read(template); err != nil {
			return key.Value{}, fmt.Errorf("url: %w", err)
		}
	case from.Empty():
		return key.Value{}, fmt.Errorf("url is empty; say where the first version leads to, as url=%s, or import the URL in use with value=-", u.Example)
	}
	name, err := user(old)
	if err != nil {
		return key.Value{}, err
	}
	password, err := dsn.NewPassword(random)
	if err != nil {
		return key.Value{}, err
	}
	return url.With(name, password).Text(), nil
}

// Names implements kind.Renderer.
func (u URLs) Names(options kind.Options) []string {
	all, _ := u.templates(options) // checked by NormalizeOptions
	return all.Names()
}

// Render implements kind.Renderer.
func (u URLs) Render(options kind.Options, v key.Version) (map[string]key.Value, error) {
	all, err := u.templates(options)
	if err != nil {
		return nil, err
	}
	of, err := dsn.Parse(v.Value.Reveal(), u.Schemes...)
	if err != nil {
		return nil, err
	}
	return all.Render(of, u.Schemes...)
}

// Named is a URL with the environment name under which workloads get it.
type Named struct{ Name, Text string }

// Rendered returns all URLs of a version, that of the key's own name first.
func (u URLs) Rendered(of key.Key, v key.Version) ([]Named, error) {
	rendered, err := u.Render(of.Options, v)
	if err != nil {
		return nil, err
	}
	all := []Named{{of.Env, v.Value.Reveal()}}
	for _, name := range u.Names(of.Options) {
		all = append(all, Named{name, rendered[name].Reveal()})
	}
	return all, nil
}

// Login implements kind.LoginNamer: the user.
func (u URLs) Login(value key.Value) (string, error) {
	of, err := dsn.Stored(value.Reveal(), u.Schemes...)
	return u.UserOf(of), err
}

// UserOf returns as whom a URL logs in.
func (u URLs) UserOf(of dsn.URL) string { return cmp.Or(of.User, u.User) }

// Leads implements kind.Addresser.
func (u URLs) Leads(options kind.Options, value key.Value) ([]string, error) {
	if options[OptionVerify] == "false" {
		return nil, nil
	}
	all, err := u.templates(options)
	if err != nil {
		return nil, err
	}
	all["value"], all[OptionURL] = value.Reveal(), options[OptionURL]
	var leads []string
	for name, text := range all {
		if text == "" {
			continue
		}
		addresses, err := u.Addresses(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		leads = append(leads, addresses...)
	}
	return leads, nil
}

// Credential returns the URL of a version.
func (u URLs) Credential(v key.Version) (dsn.URL, error) {
	of, err := dsn.Stored(v.Value.Reveal(), u.Schemes...)
	if err != nil {
		return of, fmt.Errorf("version %d: %w", v.Number, err)
	}
	return of, nil
}

// Both returns the URLs of a change's versions; that of From is empty for a first version.
func (u URLs) Both(c kind.Change) (from, to dsn.URL, err error) {
	if !c.From.Value.Empty() {
		if from, err = u.Credential(c.From); err != nil {
			return from, to, err
		}
	}
	to, err = u.Credential(c.To)
	return from, to, err
}

// SuffixLength is how many bytes a suffix has.
const SuffixLength = len("_a")

// Names says how a kind names the logins of a key.
type Names struct {
	Limit    int      // bytes of a name with its suffix
	Suffixes []string // one of each login, in the order in which they take turns: _a, _b, …
	Legacy   int      // bytes of a name of a release before marks, without its suffix
}

// Of returns the logins of a key, in the order in which they take turns. With the option username they are that name with the
// suffixes. Otherwise they begin with the key's name, with '_' for '-' and '.', and contain the mount's id. A hash of the
// key's name follows where the readable part alone could be another key's: it has been cut, or the key's name holds a '.' or
// '_'.
func (n Names) Of(k key.Key) []string {
	base := k.Options[kind.OptionUsername]
	if base == "" {
		base = baseOf(k, n.Limit-SuffixLength)
	}
	return suffixed(base, n.Suffixes)
}

func suffixed(base string, suffixes []string) []string {
	all := make([]string, 0, len(suffixes))
	for _, suffix := range suffixes {
		all = append(all, base+suffix)
	}
	return all
}

func baseOf(k key.Key, limit int) string {
	readable, tail := plain(k.Name), ""
	if k.Mount != "" {
		tail = "_" + k.Mount
	}
	if strings.ContainsAny(k.Name, "._") || len(readable)+len(tail) > limit {
		tail += "_" + key.ShortHash(k.Name)
	}
	return readable[:max(0, min(len(readable), limit-len(tail)))] + tail
}

func plain(name string) string { return strings.NewReplacer("-", "_", ".", "_").Replace(name) }

// Pair returns the two logins of a key as releases before marks named them: by the key alone, cut where they were too long.
func (n Names) Pair(k key.Key) []string {
	base := k.Options[kind.OptionUsername]
	if base == "" {
		base = plain(k.Name)
		base = base[:min(len(base), n.Legacy)]
	}
	return suffixed(base, n.Suffixes[:2])
}

// Siblings returns the logins of the key that take turns with one, itself among them; false where it is none of them.
func (n Names) Siblings(k key.Key, login string) ([]string, bool) {
	for _, names := range [][]string{n.Of(k), n.Pair(k)} {
		if slices.Contains(names, login) {
			return names, true
		}
	}
	return nil, false
}

// Ours reports whether a login has the name of one of the key's. Whether it is the key's, its mark says.
func (n Names) Ours(k key.Key, login string) bool {
	_, ok := n.Siblings(k, login)
	return ok
}

// ArePair reports whether two logins are those that releases before marks made.
func (n Names) ArePair(k key.Key, one, other string) bool {
	pair := n.Pair(k)
	return one != other && slices.Contains(pair, one) && slices.Contains(pair, other)
}

// Next returns the login that is so many turns after another, and never that itself.
func (n Names) Next(k key.Key, login string, turns int) string {
	names := n.Of(k)
	at := slices.Index(names, login)
	if next := names[(at+turns)%len(names)]; next != login {
		return next
	}
	return names[(at+1)%len(names)]
}
