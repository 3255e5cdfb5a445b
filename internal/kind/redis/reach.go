// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"cmp"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var (
	_ kind.AdministratorNamer = (*Kind)(nil)
	_ kind.Addresser          = (*Kind)(nil)
)

// Login implements kind.LoginNamer: the user.
func (*Kind) Login(value key.Value) (string, error) {
	u, err := dsn.Stored(value.Reveal(), schemes...)
	return userOf(u), err
}

// Administrator implements kind.AdministratorNamer: the user.
func (*Kind) Administrator(c kind.Connection) string {
	return cmp.Or(c.Options[fieldUsername], defaultUser)
}

// Servers implements kind.LoginNamer: the nodes that the connection names. Users are the same at all of them.
func (*Kind) Servers(c kind.Connection) []string {
	a, err := readAdmin(c)
	if err != nil {
		return nil
	}
	return append([]string{a.addr}, a.seeds...)
}

// Allowed implements kind.Addresser. Where nodes may be that others name, keys may lead, too.
func (k *Kind) Allowed(c kind.Connection) (kind.Hosts, error) {
	own, err := kind.AllowedHosts(c, k.Servers(c)...)
	if err != nil {
		return own, err
	}
	nodes, err := kind.ParseHosts(c.Options[fieldHosts])
	if err != nil {
		return own, fmt.Errorf("%s: %w", fieldHosts, err)
	}
	return own.And(nodes), nil
}

// Leads implements kind.Addresser.
func (*Kind) Leads(options kind.Options, value key.Value) ([]string, error) {
	if options[optionVerify] == "false" {
		return nil, nil
	}
	all, err := templates(options)
	if err != nil {
		return nil, err
	}
	all["value"], all["url"] = value.Reveal(), options[optionURL]
	var leads []string
	for name, text := range all {
		if text == "" {
			continue
		}
		u, err := dsn.Stored(text, schemes...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		addrs, err := addresses(u)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		leads = append(leads, addrs...)
	}
	return leads, nil
}
