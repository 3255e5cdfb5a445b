// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var (
	_ kind.AdministratorNamer = (*Kind)(nil)
	_ kind.Addresser          = (*Kind)(nil)
)

// Login implements kind.LoginNamer: the role.
func (*Kind) Login(value key.Value) (string, error) {
	u, err := dsn.Stored(value.Reveal(), schemes...)
	return u.User, err
}

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
	t, err := dsn.Postgres(c.Options[fieldURL])
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

// Leads implements kind.Addresser.
func (k *Kind) Leads(options kind.Options, value key.Value) ([]string, error) {
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
		t, err := dsn.Postgres(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		leads = append(leads, dialed(t.Hosts)...)
	}
	return leads, nil
}
