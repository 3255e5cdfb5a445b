// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"cmp"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var (
	_ kind.AdministratorNamer = (*Kind)(nil)
	_ kind.Addresser          = (*Kind)(nil)
)

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
