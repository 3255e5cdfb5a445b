// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// brokenTexts are wrong in what they read, draw and say.
var brokenTexts = map[string]variant{
	"normalize takes any option": {"options", "not refused by its name", func(b *broken) {
		b.normalize = func(o kind.Options) (kind.Options, error) { return with(o, "user", "app"), nil }
	}},
	"normalize adds each time": {"options", "Normalize again", func(b *broken) {
		b.normalize = func(o kind.Options) (kind.Options, error) {
			full, err := b.Kind.Normalize(o)
			if err == nil {
				full["user"] += "x"
			}
			return full, err
		}
	}},
	"check quotes the value": {"check tells nothing", "a warning holds a secret", func(b *broken) {
		b.check = func(v key.Value) ([]string, error) { return []string{"is " + v.Reveal() + " right?"}, nil }
	}},
	"check quotes a value that no URL may hold": {"check tells nothing", "the error of Check holds a secret", func(b *broken) {
		b.check = func(v key.Value) ([]string, error) {
			_, err := url.Parse("toy://host/" + v.Reveal())
			return nil, err
		}
	}},
	"check takes nothing for something": {"check tells nothing", "takes an empty value", func(b *broken) {
		b.check = func(key.Value) ([]string, error) { return nil, nil }
	}},
	"generate has randomness of its own": {"generate", "from the same randomness", func(b *broken) {
		b.generate = func(_ io.Reader, k key.Key, from key.Value) (key.Value, error) {
			return b.Kind.Generate(rand.Reader, k, from)
		}
	}},
	"generate repeats": {"generate", "a value again", func(b *broken) {
		b.generate = func(io.Reader, key.Key, key.Value) (key.Value, error) { return key.NewValue("app-a:password"), nil }
	}},
	"generate takes what a reader gives": {"generate", "from the same randomness", func(b *broken) {
		b.generate = func(random io.Reader, _ key.Key, _ key.Value) (key.Value, error) {
			buffer := make([]byte, 16)
			_, err := random.Read(buffer)
			return key.NewValue(fmt.Sprintf("app-a:%x", buffer)), err
		}
	}},
	"generate goes on without randomness": {"generate", "a reader that fails", func(b *broken) {
		b.generate = func(random io.Reader, k key.Key, from key.Value) (key.Value, error) {
			v, err := b.Kind.Generate(random, k, from)
			if err != nil {
				return key.NewValue("app-a:password"), nil
			}
			return v, nil
		}
	}},
	"generate gives what check refuses": {"generate", "Check refuses what", func(b *broken) {
		b.check = func(v key.Value) ([]string, error) {
			if strings.HasPrefix(v.Reveal(), "app-b:") {
				return nil, errors.New("not that one")
			}
			return b.Kind.Check(nil, v)
		}
	}},
	"an error tells the value": {"rotation", "the error of Verify holds a secret", func(b *broken) {
		b.verify = func(ctx context.Context, c kind.Change) error {
			if err := b.Kind.Verify(ctx, c); err != nil {
				return fmt.Errorf("login with %s: %w", c.To.Value.Reveal(), err)
			}
			return nil
		}
	}},
	"an error tells the password, quoted": {"wrong administrator password", "holds a secret", func(b *broken) {
		b.stage = func(ctx context.Context, c kind.Change) error {
			if err := b.Kind.Stage(ctx, c); err != nil {
				return fmt.Errorf("administrator %q: %w", c.Connection.Passwords()[0].Reveal(), err)
			}
			return nil
		}
	}},
	"an error tells the password, percent-encoded": {"check connection", "holds a secret", func(b *broken) {
		b.checkConnection = func(ctx context.Context, c kind.Connection) ([]string, error) {
			if _, err := b.Kind.CheckConnection(ctx, c); err != nil {
				return nil, fmt.Errorf("toy://admin:%s@directory: %w", url.QueryEscape(c.Passwords()[0].Reveal()), err)
			}
			return nil, nil
		}
	}},
	"a note tells the password": {"check connection", "a note of CheckConnection holds a secret", func(b *broken) {
		b.checkConnection = func(ctx context.Context, c kind.Connection) ([]string, error) {
			_, err := b.Kind.CheckConnection(ctx, c)
			return []string{"password " + c.Passwords()[0].Reveal() + " is weak"}, err
		}
	}},
	"what uses a version is told with its value": {"rotation", "what InUse says holds a secret", func(b *broken) {
		b.inUse = func(ctx context.Context, c kind.Change) (int, string, error) {
			n, _, err := b.Kind.InUse(ctx, c)
			return n, fmt.Sprintf("%d sessions of %s", n, c.From.Value.Reveal()), err
		}
	}},
}

func with(o map[string]string, name, value string) map[string]string {
	more := map[string]string{}
	maps.Copy(more, o)
	more[name] = value
	return more
}
