// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
)

const (
	// ownName marks our sessions, which count as nobody's use.
	ownName = "hyvve-engine"
	// patience with a server that does not answer when we log in.
	patience = 10 * time.Second
	// adminSessions is how many sessions an administrator has at most: what rotations do at the same time waits for them.
	adminSessions = 8
	// maxLogins is how many sessions there are at most, at a server and all that belongs to it, in which new versions are tried.
	maxLogins = 8
	// idleSession is when a session that nobody needs is closed.
	idleSession = time.Minute
	// lockTimeout bounds the wait for somebody else who changes the same role.
	lockTimeout = "10s"
	// maxMessage is how long a message of a server may be that has let us in: all settings of a role are one.
	maxMessage = 4 << 20
)

// config is how to log in at a place. TLS is the connection's.
func (p place) config(c kind.Connection, user string, password key.Value) (*pgx.ConnConfig, error) {
	mode := p.session.SSLMode
	if mode == "require" && c.Options[login.FieldCA] != "" { // as libpq does it
		mode = "verify-ca"
	}
	config, err := p.parsed(mode)
	if err != nil {
		return nil, err
	}
	config.User, config.Password, config.ConnectTimeout = user, password.Reveal(), patience
	if !p.pooler { // PgBouncer refuses most of them
		maps.Copy(config.RuntimeParams, pgsession.Startup())
	}
	config.RuntimeParams["application_name"] = ownName
	config.RuntimeParams["client_encoding"] = "UTF8" // of what we quote; in others a quote may be part of a character
	// Nothing is prepared: there may be a pooler in between that hands out servers by transaction.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	pgsession.Limit(&config.Config, maxMessage)
	if err := restrict(c, config, p.asks); err != nil {
		return nil, err
	}
	if p.session.ChannelBinding == "require" {
		config.ChannelBinding = p.session.ChannelBinding
	}
	return config, secure(c, config, p.session.SystemRoots)
}

// secure puts a connection's certificates where TLS is used: the CA for everybody, the client's for the administrator.
// A URL that says sslrootcert=system is for public CAs alone.
func secure(c kind.Connection, config *pgx.ConnConfig, system bool) error {
	roots, err := login.Roots(c)
	if err != nil {
		return err
	}
	var certificates []tls.Certificate
	if u, err := parseAdmin(c); err == nil && u.User == config.User {
		if certificates, err = login.Certificates(c); err != nil {
			return err
		}
	}
	configs := []*tls.Config{config.TLSConfig}
	for _, f := range config.Fallbacks {
		configs = append(configs, f.TLSConfig)
	}
	for _, t := range configs {
		if t == nil {
			continue
		}
		if roots != nil && !system {
			t.RootCAs = roots
		}
		t.Certificates = certificates
	}
	return nil
}

// home is the connection's own server, and its database.
func home(c kind.Connection) place {
	u, err := parseAdmin(c)
	if err != nil {
		return place{what: "the server"}
	}
	u.Session.Options = "" // our sessions are ours to set
	return placeOf("the server", u)
}

// replicas are the standbys that the connection names, with their data in the same database.
func replicas(c kind.Connection) []place {
	var all []place
	for _, text := range kind.SplitList(c.Options[fieldReplicas]) {
		if h, err := splitReplica(text); err == nil { // checked by NormalizeConnection
			at := home(c)
			at.what, at.hosts, at.session.TargetAttrs = "the replica", dsn.Hosts{h}, ""
			all = append(all, at.named())
		}
	}
	return all
}

// console is a PgBouncer's.
func console(u dsn.Target) place {
	at := placeOf("the PgBouncer", u)
	at.pooler, at.session.Options = true, ""
	return at
}

// admin runs something in an administrator's session at a place. Sessions are kept for the next time; one that the server
// has ended, or refuses a new one for, is opened again with whichever password is in force. Whether a session still lives is
// found out by using it: what is run may be run twice.
func (k *Kind) admin(ctx context.Context, c kind.Connection, at place, do func(*pgx.Conn) error) error {
	var err error
	for n, password := range c.Passwords() {
		var pool *sessions
		name := fmt.Sprintf("%s/%d/%d/%s", c.Name, c.Revision, n, at.host)
		if pool, err = k.use(name, c, at, password); err != nil {
			return err
		}
		acquired, ended := false, false
		acquired, ended, err = attempt(ctx, pool.Pool, do)
		if ended || orphaned(err) {
			// A server that was started again has ended all our sessions without a word. Where the administrator's role was
			// dropped and made again, as by a dump, sessions go on as a role that is no more.
			pool.Reset()
			acquired, _, err = attempt(ctx, pool.Pool, do)
		}
		unwanted := !acquired && refused(err)
		k.leave(name, pool, unwanted)
		if !unwanted {
			break
		}
	}
	return lockedOut(plain(err, at), c)
}

// sessions are those of an administrator at a place. They are closed only when no call uses them: to close a pool is to
// cancel the sessions that it is opening, and two calls for different revisions of a connection would cancel each other's.
type sessions struct {
	*pgxpool.Pool
	users int
}

// attempt runs something in a session of a pool, and reports whether there was one, and whether it has ended other than by the
// caller's wish.
func attempt(ctx context.Context, pool *pgxpool.Pool, do func(*pgx.Conn) error) (acquired, ended bool, err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return false, false, err
	}
	defer conn.Release()
	err = do(conn.Conn())
	return true, err != nil && conn.Conn().IsClosed() && ctx.Err() == nil, err
}

// use returns the sessions of that name, which are left with leave. Those of other revisions of the connection are closed
// if nobody uses them.
func (k *Kind) use(name string, c kind.Connection, at place, password key.Value) (*sessions, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for other, pool := range k.pools {
		if pool.users == 0 && strings.HasPrefix(other, c.Name+"/") && !strings.HasPrefix(other, fmt.Sprintf("%s/%d/", c.Name, c.Revision)) {
			delete(k.pools, other)
			go pool.Close()
		}
	}
	if k.closed {
		return nil, errors.New("the engine is being closed")
	}
	if pool, ok := k.pools[name]; ok {
		pool.users++
		return pool, nil
	}
	pool, err := newPool(c, at, password, func(context.Context, *pgx.Conn) error { k.enter(at); return nil })
	if err != nil {
		return nil, err
	}
	k.pools[name] = &sessions{Pool: pool, users: 1}
	return k.pools[name], nil
}

// leave ends a call's use of sessions, and closes them where the server does not want them and no other call uses them.
func (k *Kind) leave(name string, pool *sessions, unwanted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pool.users--
	if unwanted && pool.users == 0 && k.pools[name] == pool {
		delete(k.pools, name)
		go pool.Close()
	}
}

func newPool(c kind.Connection, at place, password key.Value, entered func(context.Context, *pgx.Conn) error) (*pgxpool.Pool, error) {
	u, err := parseAdmin(c)
	if err != nil {
		return nil, err
	}
	config, err := at.config(c, u.User, password)
	if err != nil {
		return nil, err
	}
	// A change that the server has confirmed must survive a crash of the server.
	config.RuntimeParams["synchronous_commit"] = "on"
	config.RuntimeParams["lock_timeout"] = lockTimeout
	pooled, err := pgxpool.ParseConfig(at.settings(""))
	if err != nil {
		return nil, errors.New("the administrator's sessions cannot be made")
	}
	pooled.ConnConfig, pooled.AfterConnect = config, entered
	pooled.MaxConns, pooled.MinConns, pooled.MaxConnIdleTime = adminSessions, 0, idleSession
	pooled.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // see admin
	pool, err := pgxpool.NewWithConfig(context.Background(), pooled)
	if err != nil {
		return nil, errors.New("the administrator's sessions cannot be made")
	}
	return pool, nil
}

// Close ends all sessions.
func (k *Kind) Close() error {
	k.mu.Lock()
	pools := slices.Collect(maps.Values(k.pools))
	clear(k.pools)
	k.closed = true
	k.mu.Unlock()
	for _, pool := range pools { // it waits for calls, which may want mu
		pool.Close()
	}
	return nil
}

// loginsAt holds one for each login under way at a server, its replicas and its poolers. A server that does not answer
// holds up no other.
func (k *Kind) loginsAt(server place) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.logins[server.host] == nil {
		k.logins[server.host] = make(chan struct{}, maxLogins)
	}
	return k.logins[server.host]
}

// login runs something in a session of its own. Not many at a time: servers have few sessions to give, and workloads need
// them.
func (k *Kind) login(ctx context.Context, c kind.Connection, at place, user string, password key.Value, do func(*pgx.Conn) error) error {
	config, err := at.config(c, user, password)
	if err != nil {
		return err
	}
	logins := k.loginsAt(home(c))
	select {
	case logins <- struct{}{}:
		defer func() { <-logins }()
	case <-ctx.Done():
		return plain(ctx.Err(), at)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return plain(err, at)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is pending
	k.enter(at)
	return plain(do(conn), at)
}

// valid reports whether a user and password log in at a place.
func (k *Kind) valid(ctx context.Context, c kind.Connection, at place, u dsn.URL) (bool, error) {
	err := k.login(ctx, c, at, u.User, u.Password, func(*pgx.Conn) error { return nil })
	if refused(err) {
		return false, nil
	}
	return err == nil, err
}

// proven reports whether the server has asked for a password and found it right. One that lets everybody in (trust, peer, a
// certificate) proves nothing of it.
func (k *Kind) proven(ctx context.Context, c kind.Connection, at place, u dsn.URL) (bool, error) {
	at.asks = true
	ok, err := k.valid(ctx, c, at, u)
	if asksNothing(err) {
		return false, nil
	}
	return ok, err
}

// actsAt logs in at a place and asks whom the session acts as; valid is false where the server refuses the password.
func (k *Kind) actsAt(ctx context.Context, c kind.Connection, at place, u dsn.URL) (acts string, valid bool, err error) {
	err = k.login(ctx, c, at, u.User, u.Password, func(conn *pgx.Conn) error {
		results, err := together(ctx, conn, "SELECT current_user")
		if err != nil {
			return err
		}
		acts = string(results[0].Rows[0][0])
		return nil
	})
	if refused(err) {
		return "", false, nil
	}
	return acts, err == nil, err
}

// SQLSTATEs that we tell apart (PostgreSQL's appendix A).
const (
	stateInvalidPassword     = "28P01"
	stateInvalidUser         = "28000"
	stateInsufficient        = "42501"
	stateDependentObjects    = "2BP01"
	stateReadOnlyTransaction = "25006"
	stateUndefinedObject     = "42704"
	stateUndefinedTable      = "42P01"
	stateUndefinedFunction   = "42883"
	stateCannotConnect       = "57P03"
	stateSyntax              = "42601"
	stateTooMany             = "53300" // of a role, a database or the server; of a role the password has been found right
	stateTransactionTimeout  = "25P04"
	stateLockNotAvailable    = "55P03"
	stateNotSupported        = "0A000"
	stateProtocol            = "08P01" // what PgBouncer says of everything that it refuses
)

func hasState(err error, states ...string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && slices.Contains(states, e.Code)
}

// refused reports whether the server knows another password, or no such role.
func refused(err error) bool { return hasState(err, stateInvalidPassword, stateInvalidUser) }

// orphaned reports whether a statement may have failed since the role that the session logged in as has been dropped: the
// server says that it does not exist, or that it lacks a right.
func orphaned(err error) bool { return hasState(err, stateUndefinedObject, stateInsufficient) }

// away reports whether a server could not be asked, or lets nobody in for now.
func away(err error) bool {
	var connecting *pgconn.ConnectError
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code == stateCannotConnect
	}
	return errors.As(err, &connecting)
}

// fault is an error of a server in our words. It keeps the cause for errors.As, and prints nothing of the statement.
type fault struct {
	text  string
	cause error
}

func (f fault) Error() string { return f.text }
func (f fault) Unwrap() error { return f.cause }

// plain says what is wrong at a place, without statements and configurations.
func plain(err error, at place) error {
	var ours fault
	var server *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return err
	case errors.As(err, &server) && server.Code == stateTransactionTimeout:
		return fault{fmt.Sprintf("%s has ended our session for its setting transaction_timeout; as the administrator, say there: ALTER ROLE CURRENT_USER SET transaction_timeout = 0 (SQLSTATE %s)", at.what, server.Code), err}
	case errors.As(err, &server):
		return fault{fmt.Sprintf("%s says: %s (SQLSTATE %s)", at.what, kind.Line(server.Message, kind.MaxServerText), kind.Line(server.Code, 20)), err}
	case errors.Is(err, context.DeadlineExceeded):
		return fault{at.what + " did not answer in time", err}
	case errors.Is(err, context.Canceled):
		return fault{at.what + ": the call was cancelled", err}
	}
	var connecting *pgconn.ConnectError
	if errors.As(err, &connecting) {
		if remedy := unwanted(err.Error()); remedy != "" {
			return fault{fmt.Sprintf("%s does not let us log in as auth_methods demands: %s", at.what, remedy), err}
		}
		return fault{fmt.Sprintf("%s cannot be reached: %s", at.what, lastLine(connecting.Unwrap().Error())), err}
	}
	return fault{fmt.Sprintf("%s: %s", at.what, lastLine(err.Error())), err}
}

// lastLine is the last of several causes that the driver lists, one an address.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return kind.Line(strings.TrimSpace(lines[len(lines)-1]), kind.MaxServerText)
}

// lockedOut adds to a refusal of the administrator what helps.
func lockedOut(err error, c kind.Connection) error {
	u, broken := parseAdmin(c)
	if broken != nil || !refused(err) {
		return err
	}
	role := quoteIfNeeded(u.User)
	if hasState(err, stateInvalidUser) {
		return faultf("%w; let the administrator of connection %s in: as a superuser, ALTER ROLE %s LOGIN, or an entry in pg_hba.conf", err, c.Name, role)
	}
	if c.Written.IsZero() || c.Options[fieldRows] == "true" && c.Rotated.IsZero() { // a password that has come just now, or that nobody but its owner sets
		return faultf("%w; give the password of role %s by writing connection %s once more with its password: printf '%%s' \"$PASSWORD\" | vault write hyvve/connections/%s … password=-. Or set another one before, as a superuser: ALTER ROLE %s LOGIN PASSWORD '…'", err, role, c.Name, c.Name, role)
	}
	return faultf("%w; the administrator of connection %s is locked out. Was its password changed, or the server (or Vault) restored from before rotate-root? Set one of your choice, as a superuser: ALTER ROLE %s LOGIN PASSWORD '…'; then write it with: vault write hyvve/connections/%s password=-",
		err, c.Name, role, c.Name)
}

// faultf is an error in our words from the start.
func faultf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return fault{err.Error(), errors.Unwrap(err)}
}
