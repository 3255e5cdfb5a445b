// SPDX-License-Identifier: Apache-2.0

package toy

import (
	"context"
	"fmt"
	"maps"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// ConnectionFields implements kind.Connector.
func (Kind) ConnectionFields() []kind.Field {
	return []kind.Field{
		{Name: "url", Description: "Where the directory is: toy://administrator@host. A password in it is moved out."},
		{Name: kind.FieldPassword, Secret: true, Description: "The administrator's password."},
		kind.AllowedHostsField(),
	}
}

// NormalizeConnection implements kind.Connector.
func (k Kind) NormalizeConnection(c kind.Connection) (kind.Connection, error) {
	options, err := kind.Defaults(k.ConnectionFields(), c.Options)
	if err != nil {
		return c, err
	}
	delete(options, kind.FieldPassword) // it stands among the secrets
	u, err := dsn.Parse(options["url"], "toy")
	if err != nil {
		return c, fmt.Errorf("url: %w", err)
	}
	if !u.Password.Empty() {
		c.Secrets = maps.Clone(c.Secrets)
		if c.Secrets == nil {
			c.Secrets = map[string]key.Value{}
		}
		c.Secrets[kind.FieldPassword] = u.Password
	}
	options["url"] = u.String()
	c.Options = options
	return c, nil
}

// CheckConnection implements kind.Connector.
func (k Kind) CheckConnection(ctx context.Context, c kind.Connection) ([]string, error) {
	_, err := k.Directory.Administrator(ctx, c.Passwords())
	return nil, err
}

// RotateRoot implements kind.Connector. Setting the password that is in force already changes nothing.
func (k Kind) RotateRoot(ctx context.Context, c kind.Connection) error {
	admin, err := k.Directory.Administrator(ctx, c.Passwords())
	if err != nil {
		return err
	}
	return admin.SetOwnPassword(ctx, c.Next.Reveal())
}

// Login implements kind.LoginNamer: the user.
func (Kind) Login(value key.Value) (string, error) {
	user, _, err := parse(value)
	return user, err
}

// Servers implements kind.LoginNamer.
func (Kind) Servers(c kind.Connection) []string {
	u, err := dsn.Parse(c.Options["url"], "toy")
	if err != nil {
		return nil
	}
	return []string{u.Host()}
}

// Allowed implements kind.Addresser.
func (k Kind) Allowed(c kind.Connection) (kind.Hosts, error) {
	return kind.AllowedHosts(c, k.Servers(c)...)
}

// Leads implements kind.Addresser: a value names no host of its own.
func (Kind) Leads(kind.Options, key.Value) ([]string, error) { return nil, nil }
