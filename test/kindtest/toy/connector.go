// SPDX-License-Identifier: Apache-2.0

package toy

import (
	"context"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// ConnectionFields implements kind.Connector.
func (Kind) ConnectionFields() []kind.Field {
	return []kind.Field{
		{Name: login.FieldURL, Description: "Where the directory is: toy://administrator@host. A password in it is moved out."},
		login.PasswordField(),
		kind.AllowedHostsField(),
	}
}

// NormalizeConnection implements kind.Connector.
func (k Kind) NormalizeConnection(c kind.Connection) (kind.Connection, error) {
	c, _, err := login.NormalizeConnection(c, k.ConnectionFields(), "the administrator's, as toy://admin@directory", read)
	return c, err
}

// CheckConnection implements kind.Connector.
func (k Kind) CheckConnection(ctx context.Context, c kind.Connection) ([]string, error) {
	_, err := k.Directory.Administrator(ctx, c.Passwords())
	return nil, err
}

// RotateRoot implements kind.RootRotator. To set the password that is in force already changes nothing.
func (k Kind) RotateRoot(ctx context.Context, c kind.Connection) error {
	admin, err := k.Directory.Administrator(ctx, c.Passwords())
	if err != nil {
		return err
	}
	return admin.SetOwnPassword(ctx, c.Next.Reveal())
}

// Servers implements kind.LoginNamer.
func (Kind) Servers(c kind.Connection) []string {
	u, err := read(c.Options[login.FieldURL])
	if err != nil {
		return nil
	}
	return []string{u.Host()}
}

// Allowed implements kind.Addresser.
func (k Kind) Allowed(c kind.Connection) (kind.Hosts, error) {
	return kind.AllowedHosts(c, k.Servers(c)...)
}
