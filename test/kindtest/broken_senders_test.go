// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"net"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// sendPassword sends a connection's password to whatever host its url names.
func sendPassword(ctx context.Context, c kind.Connection) error {
	u, err := dsn.Parse(c.Options["url"], "toy")
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host())
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is pending
	if _, err := conn.Write([]byte("AUTH " + c.Secrets[kind.FieldPassword].Reveal() + "\r\n")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 16))
	return err
}

// declared is the toy kind's fields, with something else said of url.
func declared(b *broken, say func(f *kind.Field)) {
	b.connectionFields = func() []kind.Field {
		fields := b.Kind.ConnectionFields()
		say(&fields[0])
		return fields
	}
	b.checkConnection = func(ctx context.Context, c kind.Connection) ([]string, error) { return nil, sendPassword(ctx, c) }
}

// brokenSenders say of url that it does not decide where the password is sent.
var brokenSenders = map[string]variant{
	"the URL is called harmless": {"secrets stay where they were given for", "field url is said to decide nothing about where password is sent", func(b *broken) {
		declared(b, func(f *kind.Field) { f.Harmless = true })
	}},
	"the URL is said to send another secret": {"secrets stay where they were given for", "told the secret: true", func(b *broken) {
		declared(b, func(f *kind.Field) { f.Sends = []string{"other"} })
	}},
	"a URL that binds the password": {"secrets stay where they were given for", "", func(b *broken) {
		declared(b, func(*kind.Field) {})
	}},
}
