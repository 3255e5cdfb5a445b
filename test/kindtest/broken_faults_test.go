// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync/atomic"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// brokenFaults work as long as nothing happens.
var brokenFaults = map[string]variant{
	"a stage that was cut leaves a helper": {"cut stage then unstage", "can log in; before it was", func(b *broken) {
		b.stage = func(ctx context.Context, c kind.Change) error {
			a, err := b.Directory.Administrator(ctx, c.Connection.Passwords())
			if err != nil {
				return err
			}
			return errors.Join(a.Set(ctx, aside(c), "password"), b.Kind.Stage(ctx, c), a.Drop(ctx, aside(c)))
		}
	}},
	"a stage that was cut is never done": {"cut calls are repeated", "Stage: begun already", func(b *broken) {
		var begun atomic.Int64
		b.stage = func(ctx context.Context, c kind.Change) error {
			if c.To.Number > 1 && begun.Swap(int64(c.To.Number)) == int64(c.To.Number) {
				return errors.New("begun already")
			}
			return b.Kind.Stage(ctx, c)
		}
	}},
	"a retire drops and makes anew": {"cut calls are repeated", "after Retire was cut: a version that it does not concern is not valid", func(b *broken) {
		b.retire = func(ctx context.Context, c kind.Change) error {
			a, err := b.Directory.Administrator(ctx, c.Connection.Passwords())
			if err != nil {
				return err
			}
			user, password := login(c.To)
			if err := a.Drop(ctx, user); err != nil {
				return err
			}
			if err := a.Set(ctx, user, password); err != nil {
				return err
			}
			return b.Kind.Retire(ctx, c)
		}
	}},
	"the password of the first call is kept": {"wrong administrator password", "succeeds with a wrong administrator password", func(b *broken) {
		var kept atomic.Pointer[kind.Connection]
		b.stage = func(ctx context.Context, c kind.Change) error {
			kept.CompareAndSwap(nil, &c.Connection)
			c.Connection = *kept.Load()
			return b.Kind.Stage(ctx, c)
		}
	}},
	"a wrong password is kept": {"wrong administrator password", "Stage: the directory refuses", func(b *broken) {
		var refused atomic.Pointer[kind.Connection]
		b.stage = func(ctx context.Context, c kind.Change) error {
			if bad := refused.Load(); bad != nil {
				c.Connection = *bad
			}
			err := b.Kind.Stage(ctx, c)
			if err != nil {
				refused.Store(&c.Connection)
			}
			return err
		}
	}},
	"half is done before the password is asked": {"wrong administrator password", "before it was", func(b *broken) {
		b.unstage = func(ctx context.Context, c kind.Change) error {
			b.Directory.Add(aside(c), "password")
			return b.Kind.Unstage(ctx, c)
		}
	}},
	"a server that is down is no error": {"server down", "Verify succeeds while", func(b *broken) {
		b.verify = func(ctx context.Context, c kind.Change) error {
			if err := b.Kind.Verify(ctx, c); err != nil && c.To.State != key.Staged {
				return err
			}
			return nil
		}
	}},
	"a connection that broke is kept": {"server down", "Stage: broken pipe", func(b *broken) {
		var broke atomic.Bool
		b.stage = func(ctx context.Context, c kind.Change) error {
			if broke.Load() {
				return errors.New("broken pipe")
			}
			err := b.Kind.Stage(ctx, c)
			broke.Store(err != nil)
			return err
		}
	}},
	"two calls at once lock each other out": {"calls at once", "Unstage: locked", func(b *broken) {
		var under, locked atomic.Int64
		b.unstage = func(ctx context.Context, c kind.Change) error {
			if under.Add(1) > 1 {
				locked.Store(1)
			}
			defer under.Add(-1)
			if locked.Load() > 0 {
				return errors.New("locked")
			}
			return b.Kind.Unstage(ctx, c)
		}
	}},
	"the context is ignored": {"server hangs", "has not returned", func(b *broken) {
		b.retire = func(ctx context.Context, c kind.Change) error { return b.Kind.Retire(context.WithoutCancel(ctx), c) }
	}},
}

// brokenConnectors are wrong about their administrator.
var brokenConnectors = map[string]variant{
	"a connection takes any field": {"normalize connection", "not refused by its name", func(b *broken) {
		b.normalizeConnection = func(c kind.Connection) (kind.Connection, error) {
			rest := c
			rest.Options = maps.Clone(c.Options)
			delete(rest.Options, unknown)
			return b.Kind.NormalizeConnection(rest)
		}
	}},
	"a URL's query may hold a password": {"credentials in the query of a connection", "is not refused by the name password", func(b *broken) {
		b.normalizeConnection = func(c kind.Connection) (kind.Connection, error) {
			url := c.Options["url"]
			before, _, _ := strings.Cut(url, "?")
			c.Options = with(c.Options, "url", before)
			c, err := b.Kind.NormalizeConnection(c)
			c.Options = with(c.Options, "url", url)
			return c, err
		}
	}},
	"the password stays in the URL": {"normalize connection", "does not move a password", func(b *broken) {
		b.normalizeConnection = func(c kind.Connection) (kind.Connection, error) { return c, nil }
	}},
	"the password is copied from the URL": {"normalize connection", "holds a secret", func(b *broken) {
		b.normalizeConnection = func(c kind.Connection) (kind.Connection, error) {
			text := c.Options["url"]
			c, err := b.Kind.NormalizeConnection(c)
			c.Options = with(c.Options, "url", text)
			return c, err
		}
	}},
	"any password will do": {"check connection", "takes a wrong password", func(b *broken) {
		b.checkConnection = func(context.Context, kind.Connection) ([]string, error) { return nil, nil }
	}},
	"the next password is not tried": {"rotate root", "in force and not stored", func(b *broken) {
		b.checkConnection = func(ctx context.Context, c kind.Connection) ([]string, error) {
			c.Next = key.Value{}
			return b.Kind.CheckConnection(ctx, c)
		}
	}},
	"only the present password may rotate": {"rotate root", "RotateRoot: the directory refuses", func(b *broken) {
		b.rotateRoot = func(ctx context.Context, c kind.Connection) error {
			a, err := b.Directory.Administrator(ctx, c.Passwords()[:1])
			if err != nil {
				return err
			}
			return a.SetOwnPassword(ctx, c.Next.Reveal())
		}
	}},
	"the next password is tried first and for ever": {"rotate root", "Stage: the directory refuses", func(b *broken) {
		b.stage = func(ctx context.Context, c kind.Change) error {
			if next := c.Connection.Next; !next.Empty() {
				c.Connection.Secrets = map[string]key.Value{kind.FieldPassword: next}
			}
			c.Connection.Next = key.Value{}
			return b.Kind.Stage(ctx, c)
		}
	}},
	"rotate root is satisfied with anything": {"rotate root", "RotateRoot succeeds with a wrong password", func(b *broken) {
		b.rotateRoot = func(ctx context.Context, c kind.Connection) error {
			_ = b.Kind.RotateRoot(ctx, c)
			return nil
		}
	}},
	"rotate root does nothing": {"rotate root", "with the password that RotateRoot has set", func(b *broken) {
		b.rotateRoot = func(context.Context, kind.Connection) error { return nil }
	}},
	"a rotate root that was cut locks out": {"cut rotate root is repeated", "neither password is in force", func(b *broken) {
		b.rotateRoot = func(ctx context.Context, c kind.Connection) error {
			a, err := b.Directory.Administrator(ctx, c.Passwords())
			if err != nil {
				return err
			}
			return errors.Join(a.SetOwnPassword(ctx, "locked"), a.SetOwnPassword(ctx, c.Next.Reveal()))
		}
	}},
}
