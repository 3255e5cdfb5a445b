// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// The authentication methods that auth_methods may name, as in libpq's require_auth. The server chooses among them, and so does
// an impostor: only methodSCRAM keeps the password from it.
const (
	methodSCRAM    = "scram-sha-256"
	methodMD5      = "md5"
	methodPassword = "password" // in the clear
	methodNone     = "none"     // the server asks for nothing: trust, or a client certificate
)

// methods are those that a connection allows.
func methods(c kind.Connection) ([]string, error) {
	var all []string
	for _, name := range kind.SplitList(c.Options[fieldMethods]) {
		switch name {
		case methodSCRAM, methodMD5, methodPassword, methodNone:
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		default:
			return nil, fmt.Errorf("auth_methods: %s is not known; name some of %s, %s, %s and %s, with commas between", kind.Quote(name), methodSCRAM, methodMD5, methodPassword, methodNone)
		}
	}
	if len(all) == 0 {
		all = []string{methodSCRAM}
	}
	return all, nil
}

// restrict lets a login use only the methods that its connection and require_auth of its URL allow. A login without any exchange
// shows no password: whether a workload's server asks for one is not ours to decide, and the administrator's certificate needs
// none. With asks, the login is to prove a password: it fails where the server asks for none, and is not tried
// (errNothingAsked) where the URL allows nothing else.
func restrict(c kind.Connection, config *pgx.ConnConfig, asks bool) error {
	all, err := methods(c)
	if err != nil {
		return err
	}
	u, err := parseAdmin(c)
	if (err != nil || u.User != config.User || c.Options[login.FieldCert] != "") && !slices.Contains(all, methodNone) {
		all = append(all, methodNone)
	}
	demanded := config.RequireAuth
	if asks && demanded == "" && !slices.ContainsFunc(all, exchanges) {
		all = []string{methodSCRAM}
	}
	if demanded != "" {
		not := strings.HasPrefix(demanded, "!") // all of them, then
		all = slices.DeleteFunc(all, func(name string) bool {
			return slices.Contains(kind.SplitList(strings.ReplaceAll(demanded, "!", "")), name) == not
		})
		if len(all) == 0 {
			return fmt.Errorf("require_auth=%s of the URL and auth_methods of the connection have no method in common; let auth_methods name one of them", demanded)
		}
	}
	if asks {
		if all = slices.DeleteFunc(all, func(name string) bool { return !exchanges(name) }); len(all) == 0 {
			return errNothingAsked
		}
	}
	config.RequireAuth, config.ChannelBinding = strings.Join(all, ","), "prefer"
	return nil
}

// exchanges reports whether a login by a method proves a password.
func exchanges(method string) bool { return method != methodNone }

// errNothingAsked is the error of a login that is to prove a password, where the URL allows no method that does.
var errNothingAsked = errors.New("require_auth of the URL and auth_methods of the connection have only none in common, which proves no password; let both name another method")

// asksNothing reports whether a login has failed because the server asks for no password, or may ask for none.
func asksNothing(err error) bool {
	if errors.Is(err, errNothingAsked) {
		return true
	}
	var connecting *pgconn.ConnectError
	if !errors.As(err, &connecting) {
		return false
	}
	text := connecting.Error()
	return strings.Contains(text, requirement) && !strings.Contains(text, "server requested ")
}

// requirement is what the driver says where a server asks in another way than is allowed.
const requirement = "authentication method requirement"

// unwanted says what to do where a server asks for a password by a method that the connection does not allow; empty where
// that is not what is wrong.
func unwanted(text string) string {
	if !strings.Contains(text, requirement) {
		return ""
	}
	_, after, _ := strings.Cut(text, "server requested ")
	method, _, found := strings.Cut(after, " authentication")
	if !found {
		return "it asks for no password, which " + methodSCRAM + " would prove it to know; let it ask (pg_hba.conf), or add none to auth_methods of the connection"
	}
	return fmt.Sprintf("it asks for the password by the method %s, so that the password was not sent; let it use %s (pg_hba.conf, and the password set again with password_encryption = '%[2]s'; of PgBouncer: auth_type), or add %[1]s to auth_methods of the connection", method, methodSCRAM)
}

// exposed are notes on places where nothing proves who the server is: a machine of somebody else may answer in its place.
func exposed(c kind.Connection) []string {
	all, err := methods(c)
	if err != nil {
		return nil
	}
	places := append([]place{home(c)}, replicas(c)...)
	for _, text := range strings.Fields(c.Options[fieldBouncers]) {
		if u, err := dsn.Postgres(text); err == nil {
			places = append(places, console(u))
		}
	}
	var notes []string
	for _, at := range places {
		config, err := at.config(c, "", c.Secrets[kind.FieldPassword])
		if err != nil || proven(&config.Config) {
			continue
		}
		note := at.what + " is not proven to be the server: without sslmode=verify-full in its URL (and tls_ca, where its CA is not among the system's) another machine can answer in its place"
		switch {
		case slices.Contains(all, methodPassword):
			note += "; auth_methods allows password: the password crosses the network in the clear"
		case slices.Contains(all, methodMD5):
			note += "; auth_methods allows md5: anybody who listens can guess the password"
		}
		notes = append(notes, note)
	}
	return notes
}

// proven reports whether each address is of this machine, or shows a certificate that is verified.
func proven(config *pgconn.Config) bool {
	ways := []*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}
	for _, way := range append(ways, config.Fallbacks...) {
		verified := way.TLSConfig != nil && (!way.TLSConfig.InsecureSkipVerify || way.TLSConfig.VerifyPeerCertificate != nil || way.TLSConfig.VerifyConnection != nil)
		if !verified && !near(way.Host) {
			return false
		}
	}
	return true
}

// near reports whether a host is a socket, or the loopback.
func near(host string) bool {
	network, _ := pgconn.NetworkAddress(host, 0)
	ip := net.ParseIP(host)
	return network == "unix" || host == "localhost" || ip != nil && ip.IsLoopback()
}
