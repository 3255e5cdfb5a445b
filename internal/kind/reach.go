// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// LoginNamer is the capability of a Server with connections to say as whom a value logs in. By it the engine sees that two
// keys share a login, which a rotation of one of them would take away from the other.
type LoginNamer interface {
	// Login returns the identity at the server that a value logs in as.
	Login(value key.Value) (string, error)
	// Servers returns where the server of a connection is reached, as host:port: connections that have one of these in common
	// lead to the same server.
	Servers(c Connection) []string
}

// AdministratorNamer is the capability of a LoginNamer to say as whom a connection itself logs in. By it the engine sees that
// two connections have one administrator, whose password it must not change for one of them alone.
type AdministratorNamer interface {
	LoginNamer
	// Administrator returns the identity at the server; empty: it is not known.
	Administrator(c Connection) string
}

// Addresser is the capability of a kind with connections to say where its keys lead. The engine sends no value to a host
// that the connection does not allow.
type Addresser interface {
	// Allowed returns the hosts to which keys of a connection may lead: see AllowedHosts.
	Allowed(c Connection) (Hosts, error)
	// Leads returns the addresses, as host:port, at which the kind tries a value of a key beyond the connection's own: those
	// of the value, where there is one, and of the options. None, where the options say that it is not tried there.
	Leads(options Options, value key.Value) ([]string, error)
}

// FieldAllowedHosts is the field of a connection with further hosts to which its keys may lead.
const FieldAllowedHosts = "allowed_hosts"

// AllowedHostsField describes FieldAllowedHosts.
func AllowedHostsField() Field {
	return Field{Name: FieldAllowedHosts, Harmless: true, Description: "Hosts to which URLs of keys may lead beside those that this connection names itself, with commas between: names, *.domain, IP addresses and networks, each with :port or for any port. New passwords are tried nowhere else."}
}

// AllowedHosts returns the hosts at the addresses that a connection names, and those of FieldAllowedHosts.
func AllowedHosts(c Connection, addresses ...string) (Hosts, error) {
	more, err := ParseHosts(c.Options[FieldAllowedHosts])
	if err != nil {
		return Hosts{}, fmt.Errorf("%s: %w", FieldAllowedHosts, err)
	}
	return HostsOf(addresses...).And(more), nil
}
