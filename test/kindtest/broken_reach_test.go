// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"net"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// brokenReach are wrong about where values go, and as whom.
var brokenReach = map[string]variant{
	"a login is named by its password": {"names logins", "names nobody, or by a password", func(b *broken) {
		b.login = func(v key.Value) (string, error) {
			_, password, _ := strings.Cut(v.Reveal(), ":")
			return password, nil
		}
	}},
	"a login is not named": {"names logins", "names nobody", func(b *broken) {
		b.login = func(key.Value) (string, error) { return "", nil }
	}},
	"an option's host is called unsaid": {"leads nowhere else", "Verify calls a host that option user names", func(b *broken) {
		b.normalize = func(o kind.Options) (kind.Options, error) { return kind.Defaults(b.Fields(), o) }
		b.verify = func(ctx context.Context, c kind.Change) error {
			if !strings.Contains(c.Key.Options["user"], ":") {
				return b.Kind.Verify(ctx, c)
			}
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.Key.Options["user"])
			if err != nil {
				return err
			}
			defer conn.Close() //nolint:errcheck // nothing is pending
			if _, err := conn.Write([]byte("hello")); err != nil {
				return err
			}
			_, err = conn.Read(make([]byte, 1))
			return err
		}
	}},
}
