// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
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

// pool is what the consoles of PgBouncers say of a user.
type pool struct {
	clients int // that have logged in as the user
	// servers are the connections that PgBouncer has open as the user, to whatever server: its ends of them.
	servers map[serverEnd]bool
	// sockets is how many of them go through a socket of its machine, by the server's port. PgBouncer does not say which they are.
	sockets map[int]int
}

// serverEnd is one of PgBouncer's connections as the server knows it, too: the process that serves it, and the port from which
// PgBouncer has made it. One of both alone may be the same at another server.
type serverEnd struct{ pid, port int }

// strip returns the sessions that are not PgBouncer's.
func (p pool) strip(u use) use {
	var left use
	for _, s := range u {
		switch {
		case s.clientPort < 0 && p.sockets[s.serverPort] > 0:
			p.sockets[s.serverPort]--
		case !p.servers[serverEnd{s.pid, s.clientPort}]:
			left = append(left, s)
		}
	}
	return left
}

// also adds what was seen at another moment, of which at most the larger number was there at once.
func (p *pool) also(o pool) {
	p.clients = max(p.clients, o.clients)
	maps.Copy(p.servers, o.servers)
	for port, n := range o.sockets {
		p.sockets[port] = max(p.sockets[port], n)
	}
}

// pooled asks all consoles for a user, once or again and again for d; then it returns the most that each has said.
func (k *Kind) pooled(ctx context.Context, c kind.Connection, user string, d time.Duration) (pool, error) {
	sum := pool{servers: map[serverEnd]bool{}, sockets: map[int]int{}}
	for _, text := range strings.Fields(c.Options[fieldBouncers]) {
		u, err := dsn.Postgres(text)
		if err != nil {
			return sum, err
		}
		at := console(u)
		most := pool{servers: sum.servers, sockets: map[int]int{}}
		err = k.login(ctx, c, at, u.User, c.Secrets[fieldConsole], func(conn *pgx.Conn) error {
			for begun := now(); ; {
				asked := now()
				now, err := askConsole(ctx, conn, user)
				if err != nil {
					return err
				}
				most.also(now)
				if time.Since(begun) >= d {
					return nil
				}
				rest := min(max(time.Duration(float64(time.Since(asked))/sampleShare), minPeriod), maxPeriod)
				if err := backoff.Wait(ctx, rest); err != nil {
					return err
				}
			}
		})
		if err != nil {
			return sum, err
		}
		sum.clients += most.clients
		for port, n := range most.sockets {
			sum.sockets[port] += n
		}
	}
	return sum, nil
}

func askConsole(ctx context.Context, conn *pgx.Conn, user string) (pool, error) {
	now := pool{servers: map[serverEnd]bool{}, sockets: map[int]int{}}
	err := eachOf(ctx, conn, "SHOW CLIENTS", user, nil, func([]string) { now.clients++ })
	if err != nil {
		return now, err
	}
	return now, eachOf(ctx, conn, "SHOW SERVERS", user, []string{"addr", "port", "local_port", "remote_pid"}, func(values []string) {
		var numbers [3]int
		for n, text := range values[1:] {
			numbers[n], _ = strconv.Atoi(text) // 0 is nobody's
		}
		if strings.HasPrefix(values[0], "unix") {
			now.sockets[numbers[0]]++
		} else {
			now.servers[serverEnd{pid: numbers[2], port: numbers[1]}] = true
		}
	})
}

// eachOf reads some columns of the rows of a console's answer whose column user is the one given. Its columns differ by release;
// one that is not there is empty.
func eachOf(ctx context.Context, conn *pgx.Conn, command, user string, columns []string, do func(values []string)) error {
	rows, err := conn.Query(ctx, command, pgx.QueryExecModeSimpleProtocol) // the only one that consoles understand
	if err != nil {
		return err
	}
	defer rows.Close()
	at := map[string]int{}
	for n, f := range rows.FieldDescriptions() {
		at[f.Name] = n
	}
	if _, ok := at["user"]; !ok {
		return fmt.Errorf("%s has no column user", command)
	}
	for rows.Next() {
		raw := rows.RawValues()
		if string(raw[at["user"]]) != user {
			continue
		}
		values := make([]string, len(columns))
		for n, column := range columns {
			if i, ok := at[column]; ok {
				values[n] = string(raw[i])
			}
		}
		do(values)
	}
	return rows.Err()
}
