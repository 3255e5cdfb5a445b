// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// preflights adds to what the toy kind's Preflight says.
func preflights(b *broken, also func(ctx context.Context, c kind.Change) (blockers, notes []string)) {
	b.preflight = func(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
		blockers, notes, err = b.Kind.Preflight(ctx, c)
		more, other := also(ctx, c)
		return append(blockers, more...), append(notes, other...), err
	}
}

// brokenPreflights say beforehand what is not so, or do more than look.
var brokenPreflights = map[string]variant{
	"preflight sees nobody": {"login of somebody else", "Preflight names no blocker although somebody else", func(b *broken) {
		b.preflight = func(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
			_, _, err = b.Kind.Preflight(ctx, c)
			return nil, nil, err
		}
	}},
	"preflight blocks what goes well": {"preflight", "Preflight before Stage: no", func(b *broken) {
		preflights(b, func(context.Context, kind.Change) (blockers, notes []string) { return []string{"no"}, nil })
	}},
	"preflight takes a staged version for a stranger": {"preflight", "Preflight after Stage: it is there", func(b *broken) {
		preflights(b, func(_ context.Context, c kind.Change) (blockers, notes []string) {
			if b.has(c.To) {
				blockers = append(blockers, "it is there")
			}
			return blockers, nil
		})
	}},
	"preflight stages": {"preflight", "after Preflight: ", func(b *broken) {
		preflights(b, func(ctx context.Context, c kind.Change) (blockers, notes []string) {
			_ = b.Kind.Stage(ctx, c)
			return nil, nil
		})
	}},
	"preflight takes the old version away": {"preflight", "after Preflight: ", func(b *broken) {
		preflights(b, func(ctx context.Context, c kind.Change) (blockers, notes []string) {
			_ = act(b, dropFrom, b.Kind.Verify)(ctx, kind.Change{Key: c.Key, From: c.From, To: c.From, Connection: c.Connection})
			return nil, nil
		})
	}},
	"preflight asks nobody": {"preflight", "Preflight succeeds while the server is down", func(b *broken) {
		b.preflight = func(context.Context, kind.Change) (blockers, notes []string, err error) { return nil, nil, nil }
	}},
	"preflight fails": {"preflight", "Preflight: not today", func(b *broken) {
		b.preflight = func(context.Context, kind.Change) (blockers, notes []string, err error) {
			return nil, nil, errors.New("not today")
		}
	}},
	"a note of preflight tells the value": {"preflight", "what Preflight says holds a secret", func(b *broken) {
		preflights(b, func(_ context.Context, c kind.Change) (blockers, notes []string) {
			return nil, []string{"the next one is " + c.To.Value.Reveal()}
		})
	}},
}

// brokenDescriptions are wrong in what they say of themselves.
var brokenDescriptions = map[string]variant{
	"the summary is two sentences": {"description", "is not one sentence", func(b *broken) {
		b.summary = func() string { return "A login. It is verified." }
	}},
	"an option is secret": {"description", "option user is secret", func(b *broken) {
		b.fields = func() []kind.Field {
			fields := b.Kind.Fields()
			fields[1].Secret = true
			return fields
		}
	}},
	"an option is there twice": {"description", "is there twice", func(b *broken) {
		b.fields = func() []kind.Field { return append(b.Kind.Fields(), b.Kind.Fields()[1]) }
	}},
	"an option is not described": {"description", "field user is not described", func(b *broken) {
		b.fields = func() []kind.Field {
			fields := b.Kind.Fields()
			fields[1].Description = "the user"
			return fields
		}
	}},
	"a connection has no password": {"connection fields", "has no secret field", func(b *broken) {
		b.connectionFields = func() []kind.Field { return b.Kind.ConnectionFields()[:1] }
	}},
	"a key names no connection": {"connection fields", "have no option", func(b *broken) {
		b.fields = func() []kind.Field { return b.Kind.Fields()[1:] }
	}},
}
