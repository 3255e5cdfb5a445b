// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

// verifies is the toy kind with values of an operator, which it can try and no more.
type verifies struct {
	kind.Kind
	verify func(ctx context.Context, c kind.Change) error
}

func (v verifies) Verify(ctx context.Context, c kind.Change) error { return v.verify(ctx, c) }

func verifierWorld(of func(k toy.Kind) func(context.Context, kind.Change) error) World {
	var d *toy.Directory
	w := toyWorld(func(k toy.Kind) kind.Kind {
		d = k.Directory
		return verifies{k, of(k)}
	})
	d.Add("app-a", "first-password")
	d.Add("app-b", "second-password")
	w.First, w.Refused = key.NewValue("app-a:first-password"), key.NewValue("app-a:other-password")
	w.Values = []key.Value{key.NewValue("app-b:second-password"), key.NewValue("app-b:third-password")}
	return w
}

func TestVerifiers(t *testing.T) {
	t.Run("right", func(t *testing.T) {
		Run(t, func(testing.TB) World {
			return verifierWorld(func(k toy.Kind) func(context.Context, kind.Change) error { return k.Verify })
		})
	})
	for want, x := range map[string]struct {
		in     string
		verify func(k toy.Kind, ctx context.Context, c kind.Change) error
	}{
		"takes World.Refused": {"verify", func(toy.Kind, context.Context, kind.Change) error { return nil }},
		"Verify of First":     {"verify", func(toy.Kind, context.Context, kind.Change) error { return errors.New("no") }},
		"of a value of which": {"verify", func(k toy.Kind, ctx context.Context, c kind.Change) error {
			if strings.HasPrefix(c.To.Value.Reveal(), "app-b:") {
				return nil
			}
			return k.Verify(ctx, c)
		}},
		"while the server is down": {"verify while the server is down", func(k toy.Kind, ctx context.Context, c kind.Change) error {
			if err := k.Verify(ctx, c); err != nil && strings.Contains(err.Error(), "refuse") {
				return err
			}
			return nil
		}},
	} {
		failures := complaints(t, x.in, func(testing.TB) World {
			return verifierWorld(func(k toy.Kind) func(context.Context, kind.Change) error {
				return func(ctx context.Context, c kind.Change) error { return x.verify(k, ctx, c) }
			})
		})
		if !strings.Contains(strings.Join(failures, "\n"), want) {
			t.Errorf("case %q complains of %q, not %q", x.in, failures, want)
		}
	}
}
