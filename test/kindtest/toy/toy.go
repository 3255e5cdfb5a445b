// SPDX-License-Identifier: Apache-2.0

// Package toy is a kind to learn from: logins at a directory that is no more than a map. It is complete, keeps the whole
// contract, and is no kind that a mount offers.
package toy

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Kind makes values user:password. Two users take turns, so that the old and the new version are valid side by side.
type Kind struct{ Directory *Directory }

var (
	_ kind.Kind      = Kind{}
	_ kind.Generator = Kind{}
	_ kind.Server    = Kind{}
	_ kind.Sampler   = Kind{}
	_ kind.Connector = Kind{} // in connector.go

	_ kind.Preflighter = Kind{}

	_ kind.LoginNamer = Kind{}
	_ kind.Addresser  = Kind{}
)

// Name implements kind.Kind.
func (Kind) Name() string { return "toy" }

// Summary implements kind.Kind.
func (Kind) Summary() string { return "a login at the toy directory, verified by the directory" }

// Fields implements kind.Kind.
func (Kind) Fields() []kind.Field {
	return []kind.Field{
		{Name: kind.OptionConnection, Description: "The connection that names the directory."},
		{Name: "user", Default: "app", Description: "What the names of the two users begin with."},
	}
}

// Normalize implements kind.Kind.
func (k Kind) Normalize(options kind.Options) (kind.Options, error) {
	full, err := kind.Defaults(k.Fields(), options)
	switch {
	case err != nil:
		return nil, err
	case full[kind.OptionConnection] == "":
		return nil, errors.New("connection is empty; name one that hyvve/connections lists")
	case strings.Contains(full["user"], ":"):
		return nil, fmt.Errorf("user %q holds a colon; use letters and digits", full["user"])
	}
	return full, nil
}

// parse gives user and password. The error holds neither.
func parse(v key.Value) (user, password string, err error) {
	user, password, ok := strings.Cut(v.Reveal(), ":")
	if !ok || user == "" || password == "" {
		return "", "", errors.New("value is not of the form user:password")
	}
	return user, password, nil
}

// Check implements kind.Kind.
func (Kind) Check(_ kind.Options, value key.Value) ([]string, error) {
	_, _, err := parse(value)
	return nil, err
}

// Generate implements kind.Generator: a password for the one of the two users that from is not.
func (Kind) Generate(random io.Reader, k key.Key, from key.Value) (key.Value, error) {
	secret := make([]byte, 16)
	if _, err := io.ReadFull(random, secret); err != nil {
		return key.Value{}, fmt.Errorf("drawing random bytes: %w", err)
	}
	user := k.Options["user"] + "-a"
	if strings.HasPrefix(from.Reveal(), user+":") {
		user = k.Options["user"] + "-b"
	}
	return key.NewValue(user + ":" + hex.EncodeToString(secret)), nil
}

// owner is as whose the directory knows users: those of two mounts, or of two keys, may have one name.
func owner(k key.Key) string { return k.Mount + "/" + k.Name }

// Preflight implements kind.Preflighter: it says beforehand what Stage would refuse.
func (k Kind) Preflight(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
	user, admin, err := k.userOf(ctx, c, c.To)
	if err != nil {
		return nil, nil, err
	}
	err = admin.MayClaim(ctx, owner(c.Key), user)
	if foreign := (Foreign{}); errors.As(err, &foreign) {
		return []string{foreign.Error()}, nil, nil
	}
	return nil, nil, err
}

// Stage implements kind.Server. Setting the same password again changes nothing. A user of somebody else is left alone.
func (k Kind) Stage(ctx context.Context, c kind.Change) error {
	user, password, err := parse(c.To.Value)
	if err != nil {
		return err
	}
	admin, err := k.Directory.Administrator(ctx, c.Connection.Passwords())
	if err != nil {
		return err
	}
	return admin.Claim(ctx, owner(c.Key), user, password)
}

// Verify implements kind.Verifier.
func (k Kind) Verify(ctx context.Context, c kind.Change) error {
	user, password, err := parse(c.To.Value)
	if err != nil {
		return err
	}
	login, err := k.Directory.Login(ctx, user, password)
	if err == nil {
		login.End()
	}
	return err
}

// InUse implements kind.Server.
func (k Kind) InUse(ctx context.Context, c kind.Change) (int, string, error) {
	user, _, err := parse(c.From.Value)
	if err != nil {
		return 0, "", err
	}
	admin, err := k.Directory.Administrator(ctx, c.Connection.Passwords())
	if err != nil {
		return 0, "", err
	}
	count, err := admin.Sessions(ctx, user)
	return count, fmt.Sprintf("%d sessions of user %s", count, user), err
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

// Retire implements kind.Server. A user that is not there is no error: it may be the second time.
func (k Kind) Retire(ctx context.Context, c kind.Change) error {
	user, admin, err := k.userOf(ctx, c, c.From)
	if err != nil {
		return err
	}
	if err := admin.Drop(ctx, user); err != nil || !c.Cut {
		return err
	}
	return admin.End(ctx, user)
}

// Unstage implements kind.Server. A user of somebody else, for whose sake Stage has failed, stays.
func (k Kind) Unstage(ctx context.Context, c kind.Change) error {
	user, admin, err := k.userOf(ctx, c, c.To)
	if err != nil {
		return err
	}
	return admin.Release(ctx, owner(c.Key), user)
}

func (k Kind) userOf(ctx context.Context, c kind.Change, v key.Version) (string, *Administrator, error) {
	user, _, err := parse(v.Value)
	if err != nil {
		return "", nil, err
	}
	admin, err := k.Directory.Administrator(ctx, c.Connection.Passwords())
	return user, admin, err
}
