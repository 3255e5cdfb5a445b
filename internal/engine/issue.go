// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// servers is what an engine asks of servers.
type servers struct{ *Engine }

// stageAt makes the new version of a change valid at its server, tries it there, and returns it: if the server makes the values
// itself, the version has its value only now.
func (e servers) stageAt(ctx context.Context, server kind.Server, c kind.Change) (key.Version, error) {
	if issuer, ok := server.(kind.Issuer); ok {
		var err error
		if c, err = e.issue(ctx, issuer, c); err != nil {
			return c.To, err
		}
	}
	if err := untrusted.Stage(ctx, server, c); err != nil {
		return c.To, err
	}
	return c.To, untrusted.Verify(ctx, server, c)
}

// issue has a server make the value of a new version, and returns the change with it. The attempt is stored before the server
// hears of it, and the value before anything else is done with it. Killed in between, the next attempt knows the name under which
// the server has what was lost, and revokes it.
func (e servers) issue(ctx context.Context, issuer kind.Issuer, c kind.Change) (kind.Change, error) {
	order, wanted := issuer.Attempt(c.To.Value)
	if !wanted {
		return c, nil
	}
	attempt := c.To
	attempt.Value = order
	c, err := e.storeIssued(c, attempt, func(l *locked, k key.Key, _ key.Version) error {
		if err := l.putKey(ctx, k); err != nil {
			return err
		}
		l.lock(func(m *memory) { m.Keys[k.Name] = k })
		return nil
	})
	if err != nil {
		return c, err
	}
	issued, err := untrusted.Issue(ctx, issuer, c)
	if err != nil {
		return c, err
	}
	made := c.To
	made.Value, made.Handle = issued.Value, issued.Handle
	return e.storeIssued(c, made, func(l *locked, k key.Key, v key.Version) error {
		what := fmt.Sprintf("version %d of %s was made by its server", v.Number, k.Name)
		return l.storeVersion(context.WithoutCancel(ctx), k, v, what, rotation.Itself, "") // the time for the call may be over, and the value would be lost
	})
}

// storeIssued stores a new version with the next order, or with its value, and returns the change with it.
func (e servers) storeIssued(c kind.Change, to key.Version, store func(*locked, key.Key, key.Version) error) (kind.Change, error) {
	to.Fingerprint = e.base.Fingerprints.Of(c.Key.Name, to.Value)
	err := e.update(func(l *locked) error {
		k, ok := l.Keys[c.Key.Name]
		if !ok {
			return catalog.UnknownKey(c.Key.Name)
		}
		k, err := k.WithIssued(to.Number, c.To.Value, to)
		if err != nil {
			return err
		}
		c.Key = k
		to, _ = k.Version(to.Number)
		return store(l, k, to)
	})
	if err == nil {
		c.To = to
	}
	return c, err
}
