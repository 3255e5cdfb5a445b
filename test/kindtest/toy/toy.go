// SPDX-License-Identifier: Apache-2.0

// Package toy is a kind to learn from: logins at a directory that is no more than a map. It is complete, keeps the whole
// contract, and is no kind that a mount offers.
package toy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// Kind makes values toy://user:password@host. Two users alternate, so that the old and the new version are valid side by side.
type Kind struct {
	login.URLs // implements kind.Renderer, and parts of kind.LoginNamer and kind.Addresser
	Directory  *Directory
}

var (
	_ kind.Kind        = Kind{}
	_ kind.Generator   = Kind{}
	_ kind.Renderer    = Kind{}
	_ kind.Server      = Kind{}
	_ kind.Sampler     = Kind{}
	_ kind.Preflighter = Kind{}
	_ kind.Undeleter   = Kind{}
	_ kind.RootRotator = Kind{} // in connector.go
	_ kind.LoginNamer  = Kind{}
	_ kind.Addresser   = Kind{}
)

// urls are the values of keys.
var urls = login.URLs{
	Schemes: []string{"toy"}, Example: "toy://directory", Further: "DIRECT_LOGIN=toy://directory",
	Read:  read,
	Check: func(string) error { return nil },
	Addresses: func(text string) ([]string, error) {
		u, err := read(text)
		return []string{u.Host()}, err
	},
}

// users are the names of a key's two users.
var users = login.Names{Limit: 40, Suffixes: []string{"_a", "_b"}}

func read(text string) (dsn.URL, error) { return dsn.Parse(text, "toy") }

// New returns a kind that acts on a directory.
func New(d *Directory) Kind { return Kind{urls, d} }

// Name implements kind.Kind.
func (Kind) Name() string { return "toy" }

// Summary implements kind.Kind.
func (Kind) Summary() string { return "a login at the toy directory, verified by the directory" }

// Fields implements kind.Kind.
func (Kind) Fields() []kind.Field {
	return []kind.Field{
		{Name: kind.OptionConnection, Description: "The connection that names the directory."},
		{Name: login.OptionURL, Description: "The URL without user and password, as toy://directory. Default: that of the version before."},
		{Name: login.OptionURLs, Description: "Further names with URLs of the same user, as DIRECT_LOGIN=toy://directory."},
		{Name: login.OptionVerify, Default: "true", Description: "Check that the URLs name hosts that the connection allows."},
		{Name: kind.OptionUsername, Description: "The users are this name with _a and _b. Default: the key's name and the mount's id."},
	}
}

// Normalize implements kind.Kind.
func (k Kind) Normalize(options kind.Options) (kind.Options, error) {
	full, err := urls.NormalizeOptions(k.Fields(), options)
	if err == nil && full[kind.OptionConnection] == "" {
		return nil, errors.New("connection is empty; name one that hyvve/connections lists")
	}
	return full, err
}

// Check implements kind.Kind.
func (Kind) Check(_ kind.Options, value key.Value) ([]string, error) {
	u, err := read(value.Reveal())
	switch {
	case err != nil:
		return nil, fmt.Errorf("value: %w", err)
	case u.User == "" || u.Password.Empty():
		return nil, errors.New("value: the URL names no user, or no password; both are needed, as toy://user:password@directory")
	}
	return nil, nil
}

// Generate implements kind.Generator: a password for the one of the two users that from does not name.
func (Kind) Generate(random io.Reader, k key.Key, from key.Value) (key.Value, error) {
	return urls.Next(random, k, from, func(old dsn.URL) (string, error) { return users.Next(k, old.User, 1), nil })
}

// owner is as whose the directory knows users: those of two mounts, or of two keys, may have one name.
func owner(k key.Key) string { return k.Mount + "/" + k.Name }

// session is a change with the administrator who makes it.
type session struct {
	*Administrator
	from, to dsn.URL
}

func (k Kind) begin(ctx context.Context, c kind.Change) (s session, err error) {
	if s.from, s.to, err = urls.Both(c); err == nil {
		s.Administrator, err = k.Directory.Administrator(ctx, c.Connection.Passwords())
	}
	return s, err
}

// Preflight implements kind.Preflighter: it returns beforehand what Stage would refuse.
func (k Kind) Preflight(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
	s, err := k.begin(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	err = s.MayClaim(ctx, owner(c.Key), s.to.User)
	if errors.As(err, new(Foreign)) {
		return []string{err.Error()}, nil, nil
	}
	return nil, nil, err
}

// Stage implements kind.Server. To set the same password again changes nothing. A user of somebody else is left alone, and so
// is that of an undeleted version.
func (k Kind) Stage(ctx context.Context, c kind.Change) error {
	s, err := k.begin(ctx, c)
	if err != nil {
		return err
	}
	for _, v := range c.Key.Versions {
		if u, err := urls.Credential(v); err == nil && u.User == s.to.User {
			if err := kind.OccupiedBy(c.Key, v.Number, "user "+u.User); err != nil {
				return err
			}
		}
	}
	return s.Claim(ctx, owner(c.Key), s.to.User, s.to.Password.Reveal())
}

// Verify implements kind.Verifier.
func (k Kind) Verify(ctx context.Context, c kind.Change) error {
	to, err := urls.Credential(c.To)
	if err != nil {
		return err
	}
	session, err := k.Directory.Login(ctx, to.User, to.Password.Reveal())
	if err == nil {
		session.End()
	}
	return err
}

// InUse implements kind.Server.
func (k Kind) InUse(ctx context.Context, c kind.Change) (int, string, error) {
	s, err := k.begin(ctx, c)
	if err != nil {
		return 0, "", err
	}
	count, err := s.Sessions(ctx, s.from.User)
	return count, fmt.Sprintf("%d sessions of user %s", count, s.from.User), err
}

// Sample implements kind.Sampler: it looks every millisecond until it has seen a session, or the time is over.
func (k Kind) Sample(ctx context.Context, c kind.Change, d time.Duration) (int, string, error) {
	over := time.After(d)
	for {
		count, what, err := k.InUse(ctx, c)
		if err != nil || count > 0 {
			return count, what, err
		}
		select {
		case <-over:
			return 0, what, nil
		case <-time.After(time.Millisecond):
		}
	}
}

// Retire implements kind.Server. A user that is not there is no error: it may be the second time. A user that another key has
// claimed is left alone, and so are its sessions.
func (k Kind) Retire(ctx context.Context, c kind.Change) error {
	s, err := k.begin(ctx, c)
	if err == nil {
		err = s.Retire(ctx, owner(c.Key), s.from.User)
	}
	if err != nil || !c.Cut {
		return err
	}
	return s.End(ctx, s.from.User)
}

// Unstage implements kind.Server. A user of somebody else, for whose sake Stage has failed, stays.
func (k Kind) Unstage(ctx context.Context, c kind.Change) error {
	s, err := k.begin(ctx, c)
	if err != nil {
		return err
	}
	return s.Release(ctx, owner(c.Key), s.to.User)
}

// CheckUndelete implements kind.Undeleter.
func (Kind) CheckUndelete(c kind.Change) error {
	from, to, err := urls.Both(c)
	if err == nil && from.User == to.User {
		return kind.HasLoginOfCurrent(c, "user "+to.User)
	}
	return err
}

// Undelete implements kind.Undeleter.
func (k Kind) Undelete(ctx context.Context, c kind.Change) error {
	s, err := k.begin(ctx, c)
	if err == nil {
		err = k.CheckUndelete(c)
	}
	if err != nil {
		return err
	}
	return s.Claim(ctx, owner(c.Key), s.to.User, s.to.Password.Reveal())
}
