// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// has tells whether the directory knows the user of a version.
func (b *broken) has(v key.Version) bool {
	user, _ := login(v)
	for _, name := range b.Directory.Users() {
		if name == user {
			return true
		}
	}
	return false
}

// act does something as administrator after a call has succeeded.
func act(b *broken, then func(ctx context.Context, do admin, c kind.Change) error, call func(context.Context, kind.Change) error) func(context.Context, kind.Change) error {
	return func(ctx context.Context, c kind.Change) error {
		if err := call(ctx, c); err != nil {
			return err
		}
		a, err := b.Directory.Administrator(ctx, c.Connection.Passwords())
		if err != nil {
			return err
		}
		return then(ctx, a, c)
	}
}

// admin is what the directory's administrator can do.
type admin interface {
	Set(ctx context.Context, user, password string) error
	Drop(ctx context.Context, user string) error
	End(ctx context.Context, user string) error
	Note(ctx context.Context, user string) (string, error)
}

// carryOut does what a user says of itself.
func carryOut(ctx context.Context, do admin, c kind.Change) error {
	user, _ := login(c.From)
	note, err := do.Note(ctx, user)
	if word := strings.Fields(note); err == nil && len(word) == 3 {
		err = do.Set(ctx, word[1], word[2])
	}
	return err
}

func dropFrom(ctx context.Context, do admin, c kind.Change) error {
	user, _ := login(c.From)
	return do.Drop(ctx, user)
}

func endFrom(ctx context.Context, do admin, c kind.Change) error {
	user, _ := login(c.From)
	return do.End(ctx, user)
}

func endTo(ctx context.Context, do admin, c kind.Change) error {
	user, _ := login(c.To)
	return do.End(ctx, user)
}

// brokenServers do at the server what they should not, or not what they should.
var brokenServers = map[string]variant{
	"stage is not idempotent": {"rotation", "Stage again", func(b *broken) {
		b.stage = func(ctx context.Context, c kind.Change) error {
			if b.has(c.To) {
				return errors.New("the user is there already")
			}
			return b.Kind.Stage(ctx, c)
		}
	}},
	"stage carries out what a user says": {"hostile users", "a note has made user", func(b *broken) {
		b.stage = act(b, carryOut, b.stage)
	}},
	"stage does nothing": {"first version", "login", func(b *broken) {
		b.stage = func(context.Context, kind.Change) error { return nil }
	}},
	"stage makes the old version invalid": {"rotation", "after Stage: the old version is not valid", func(b *broken) {
		b.stage = act(b, dropFrom, b.stage)
	}},
	"stage takes the user of the old version": {"rotation", "after Stage: the old version is not valid", func(b *broken) {
		b.generate = func(random io.Reader, k key.Key, _ key.Value) (key.Value, error) {
			return b.Kind.Generate(random, k, key.Value{})
		}
	}},
	"stage ends sessions of the old version": {"rotation", "Stage ends a session", func(b *broken) {
		b.stage = act(b, endFrom, b.stage)
	}},
	"stage leaves a stray": {"revert", "can log in; before it was", func(b *broken) {
		b.stage = act(b, func(ctx context.Context, do admin, c kind.Change) error {
			return do.Set(ctx, fmt.Sprintf("stray-%d", c.To.Number), "password")
		}, b.stage)
	}},
	"stage takes the login of somebody else": {"login of somebody else", "Stage succeeds although somebody else", func(b *broken) {
		b.stage = func(ctx context.Context, c kind.Change) error {
			user, password := login(c.To)
			a, err := b.Directory.Administrator(ctx, c.Connection.Passwords())
			if err != nil {
				return err
			}
			return a.Set(ctx, user, password)
		}
	}},
	"unstage removes the login of somebody else": {"login of somebody else", "Unstage changes a login of somebody else", func(b *broken) {
		b.unstage = act(b, func(ctx context.Context, do admin, c kind.Change) error {
			user, _ := login(c.To)
			return do.Drop(ctx, user)
		}, b.unstage)
	}},
	"verify takes everything": {"rotation", "Verify succeeds before", func(b *broken) {
		b.verify = func(context.Context, kind.Change) error { return nil }
	}},
	"in use sees nobody": {"rotation", "InUse counts 0 while two sessions", func(b *broken) {
		b.inUse = func(context.Context, kind.Change) (int, string, error) { return 0, "", nil }
	}},
	"in use sees everybody": {"rotation", "does not come about", func(b *broken) {
		b.inUse = func(ctx context.Context, c kind.Change) (int, string, error) {
			n, what, err := b.Kind.InUse(ctx, c)
			m, _, err2 := b.Kind.InUse(ctx, back(c))
			return n + m, what, errors.Join(err, err2)
		}
	}},
	"sample looks once": {"short sessions", "Sample misses 5 of 5", func(b *broken) {
		b.sample = func(ctx context.Context, c kind.Change, _ time.Duration) (int, string, error) {
			return b.Kind.InUse(ctx, c)
		}
	}},
	"in use tells a number only": {"rotation", "does not say what", func(b *broken) {
		b.inUse = func(ctx context.Context, c kind.Change) (int, string, error) {
			n, _, err := b.Kind.InUse(ctx, c)
			return n, "", err
		}
	}},
	"in use knows the current version only": {"revert", "asked for a revert", func(b *broken) {
		b.inUse = func(ctx context.Context, c kind.Change) (int, string, error) {
			if c.From.Number > c.To.Number {
				return 0, "", nil
			}
			return b.Kind.InUse(ctx, c)
		}
	}},
	"retire forgets": {"rotation", "after Retire: the old version is valid", func(b *broken) {
		b.retire = func(context.Context, kind.Change) error { return nil }
	}},
	"retire is not idempotent": {"rotation", "Retire again", func(b *broken) {
		b.retire = func(ctx context.Context, c kind.Change) error {
			if !b.has(c.From) {
				return errors.New("there is no such user")
			}
			return b.Kind.Retire(ctx, c)
		}
	}},
	"retire ends sessions of the new version": {"rotation", "Retire ends a session of the new", func(b *broken) {
		b.retire = act(b, endTo, b.retire)
	}},
	"retire does not cut": {"compromised", "does not come about", func(b *broken) {
		b.retire = func(ctx context.Context, c kind.Change) error {
			c.Cut = false
			return b.Kind.Retire(ctx, c)
		}
	}},
	"unstage forgets": {"revert", "after Unstage: the new version is valid", func(b *broken) {
		b.unstage = func(context.Context, kind.Change) error { return nil }
	}},
	"unstage makes the old version invalid": {"revert", "after Unstage: the old version is not valid", func(b *broken) {
		b.unstage = act(b, dropFrom, b.unstage)
	}},
	"unstage ends sessions of the old version": {"revert", "Unstage ends a session of the old", func(b *broken) {
		b.unstage = act(b, endFrom, b.unstage)
	}},
	"unstage is not idempotent": {"revert", "Unstage again", func(b *broken) { b.unstage = onlyIfThere(b) }},
	"unstage needs a stage":     {"unstage without stage", "Unstage: there is no such user", func(b *broken) { b.unstage = onlyIfThere(b) }},
	"the second rotation fails": {"rotation", "Stage: no more", func(b *broken) {
		b.stage = func(ctx context.Context, c kind.Change) error {
			if c.To.Number > 2 {
				return errors.New("no more")
			}
			return b.Kind.Stage(ctx, c)
		}
	}},
	"logins pile up": {"rotation", "after a rotation", func(b *broken) {
		b.retire = act(b, func(ctx context.Context, do admin, c kind.Change) error {
			return do.Set(ctx, fmt.Sprintf("retired-%d", c.From.Number), "password")
		}, b.retire)
	}},
}

func onlyIfThere(b *broken) func(context.Context, kind.Change) error {
	return func(ctx context.Context, c kind.Change) error {
		if !b.has(c.To) {
			return errors.New("there is no such user")
		}
		return b.Kind.Unstage(ctx, c)
	}
}

// aside is the name of a login that a broken kind has for a while.
func aside(c kind.Change) string {
	user, _ := login(c.To)
	return strings.ToUpper(user)
}
