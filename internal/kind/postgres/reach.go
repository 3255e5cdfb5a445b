// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"net"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

var (
	_ kind.AdministratorNamer = (*Kind)(nil)
	_ kind.Addresser          = (*Kind)(nil)
)

// Administrator implements kind.AdministratorNamer: the role.
func (*Kind) Administrator(c kind.Connection) string {
	u, err := parseAdmin(c)
	if err != nil {
		return ""
	}
	return u.User
}

// Servers implements kind.LoginNamer. Roles are of the whole server, whatever the database.
func (*Kind) Servers(c kind.Connection) []string {
	t, err := dsn.Postgres(c.Options[login.FieldURL])
	if err != nil {
		return nil
	}
	return dialed(t.Hosts)
}

// dialed is where a client goes, as host:port.
func dialed(hosts dsn.Hosts) []string {
	var all []string
	for _, h := range hosts {
		all = append(all, net.JoinHostPort(cmp.Or(h.Addr, h.Host), strconv.Itoa(int(h.Port))))
	}
	return all
}

// Allowed implements kind.Addresser.
func (k *Kind) Allowed(c kind.Connection) (kind.Hosts, error) {
	own := append(k.Servers(c), kind.SplitList(c.Options[fieldReplicas])...)
	for _, text := range strings.Fields(c.Options[fieldBouncers]) {
		if t, err := dsn.Postgres(text); err == nil {
			own = append(own, dialed(t.Hosts)...)
		}
	}
	return kind.AllowedHosts(c, own...)
}
