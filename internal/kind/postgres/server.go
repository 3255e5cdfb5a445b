// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
)

// CheckChange implements kind.ChangeChecker. A change may not take the administrator's own login away, nor the version's that
// is in use.
func (*Kind) CheckChange(c kind.Change) error {
	from, to, err := urls.Both(c)
	if err != nil {
		return err
	}
	admin, err := parseAdmin(c.Connection)
	switch {
	case roleNames.Ours(c.Key, to.User) && to.User == from.User:
		return fmt.Errorf("version %d has the same user, %s, as version %d, which is in use; rotate without value=", c.To.Number, to.User, c.From.Number)
	case err != nil:
		return fmt.Errorf("connection %s: url: %w", c.Connection.Name, err)
	case roleNames.Ours(c.Key, to.User) && admin.User == to.User:
		return fmt.Errorf("connection %s logs in as %s, one of the login roles of this key; give the connection an administrator of its own", c.Connection.Name, to.User)
	case from.User != to.User && admin.User == from.User:
		return fmt.Errorf("connection %s logs in as %s, the role that this rotation locks at its end; give the connection an administrator of its own", c.Connection.Name, from.User)
	}
	return nil
}

// Stage implements kind.Server. A role that is not one of the key's own came with an operator's value, and is left as the
// operator made it.
func (k *Kind) Stage(ctx context.Context, c kind.Change) error {
	from, to, err := urls.Both(c)
	if err == nil {
		err = k.CheckChange(c)
	}
	if err != nil || !roleNames.Ours(c.Key, to.User) {
		return err
	}
	verifier, err := verifier(k.random, to.Password)
	if err != nil {
		return err
	}
	return k.transaction(ctx, c, to.User, lookUp(c, to.User, from.User), func(answer *pgconn.Result) ([]string, error) {
		roles, version, err := readRoles(answer)
		if err != nil {
			return nil, err
		}
		if err := mayStage(c, roles, from.User, to.User, k.proves(ctx, c, to)); err != nil {
			return nil, err
		}
		owner, err := findOwner(c, roles, version, c.From)
		if err != nil {
			return nil, err
		}
		if err := owner.safe(roles[owner.name], c.Connection); err != nil {
			return nil, err
		}
		return slices.Concat(owner.lend(roles, to.User, verifier), owner.revokeFormer(roles, to.User), marks(c, roles, from.User, to.User)), nil
	})
}

// transaction changes one role at the primary; other changes of the role wait. It sends the first statement together with BEGIN,
// and the statements of then together with COMMIT: a server may be far away. Each statement sees what was committed before it
// began, including the previous change of the role, at any isolation level of the server.
func (k *Kind) transaction(ctx context.Context, c kind.Change, role, first string, then func(*pgconn.Result) ([]string, error)) error {
	at := home(c.Connection)
	return k.admin(ctx, c.Connection, at, func(conn *pgx.Conn) error {
		found, err := begin(ctx, conn, role, first)
		if err == nil {
			var statements []string
			if statements, err = then(found); err == nil {
				_, err = together(ctx, conn, append(statements, "COMMIT")...)
			}
		}
		if err != nil && !conn.IsClosed() {
			_, _ = together(ctx, conn, "ROLLBACK") // a session that it fails in is not used again
		}
		switch {
		case hasState(err, stateInsufficient):
			return faultf("%s: the administrator may not do this: %w; see the notes of connection %s for the privileges that it needs", at.what, plain(err, at), c.Connection.Name)
		case hasState(err, stateReadOnlyTransaction):
			return faultf("%s is read-only, as a replica is; name the primary in hyvve/connections/%s: %w", at.what, c.Connection.Name, err)
		}
		return err
	})
}

// together runs statements in one round trip. None is run after one that fails.
func together(ctx context.Context, conn *pgx.Conn, statements ...string) ([]*pgconn.Result, error) {
	return pgsession.Together(ctx, conn.PgConn(), statements...)
}

// Verify implements kind.Server: it logs in wherever workloads will, and looks whom it acts as.
func (k *Kind) Verify(ctx context.Context, c kind.Change) error {
	_, to, err := urls.Both(c)
	if err != nil {
		return err
	}
	return k.verify(ctx, c, to)
}

// verify logs in with a user and password wherever workloads log in with To.
func (k *Kind) verify(ctx context.Context, c kind.Change, as dsn.URL) error {
	_, to, err := urls.Both(c)
	if err != nil {
		return err
	}
	places, err := k.places(c, to)
	if err != nil {
		return err
	}
	own := ""
	if slices.ContainsFunc(places, elsewhere(c.Connection)) {
		if own, err = k.identity(ctx, c.Connection); err != nil {
			return err
		}
	}
	for _, at := range places {
		if err := k.verifyAt(ctx, c, at, as, own); err != nil {
			return err
		}
	}
	return nil
}

// places are those where a version has to work.
func (k *Kind) places(c kind.Change, to dsn.URL) ([]place, error) {
	at := home(c.Connection)
	at.database = to.Path()
	all := []place{at}
	for _, at := range replicas(c.Connection) {
		at.database = to.Path()
		all = append(all, at)
	}
	if c.Key.Options[login.OptionVerify] == "false" {
		return all, nil
	}
	rendered, err := urls.Rendered(c.Key, c.To)
	if err != nil {
		return nil, err
	}
	for _, one := range rendered {
		u, err := dsn.Postgres(one.Text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Name, err)
		}
		what := one.Name + " at"
		listed := placeOf(what, u)
		listed.pooler = true
		for _, one := range append([]place{listed}, listed.spares(what)...) {
			if !slices.ContainsFunc(all, one.equal) {
				all = append(all, one)
			}
		}
	}
	return all, nil
}

// What a version's session is asked, in this order.
const (
	verifyActs = `SELECT current_user, session_user, (SELECT substr(s, 6) FROM pg_roles r JOIN pg_db_role_setting d ON d.setrole = r.oid, unnest(d.setconfig) s
		WHERE r.rolname = session_user AND d.setdatabase = 0 AND s LIKE 'role=%')`
	// A cursor takes nothing but a query, which cannot end the transaction; its rows stay at the server.
	verifyCursor = "DECLARE hyvve_verify NO SCROLL CURSOR FOR "
	verifyMove   = "MOVE FORWARD ALL IN hyvve_verify"
)

// verifyAt logs in at a place and looks whom the session acts as. What an operator has written as verify_query runs as the
// owner and can read whatever that may: it changes nothing, and no more than a SQLSTATE comes back. own is the identity of the
// connection's server.
func (k *Kind) verifyAt(ctx context.Context, c kind.Change, at place, to dsn.URL, own string) error {
	err := k.login(ctx, c.Connection, at, to.User, to.Password, func(conn *pgx.Conn) error {
		if elsewhere(c.Connection)(at) {
			if err := alien(ctx, conn, c.Connection, at, own); err != nil {
				return err
			}
		}
		statements := []string{"BEGIN TRANSACTION READ ONLY", pgsession.SetSearchPath, verifyActs}
		asked := len(statements)
		if query := c.Key.Options[optionQuery]; query != "" {
			statements = append(statements, verifyCursor+query, verifyMove)
		}
		results, err := together(ctx, conn, append(statements, "ROLLBACK")...)
		if err != nil && !conn.IsClosed() {
			_, _ = together(ctx, conn, "ROLLBACK") // a pooler keeps the connection
		}
		if len(results) < asked || results[asked-1].Err != nil || len(results[asked-1].Rows) != 1 {
			return cmp.Or(err, errors.New("the server does not say whom a session acts as"))
		}
		row := results[asked-1].Rows[0]
		acts, is, setting := string(row[0]), string(row[1]), row[2]
		if setting == nil && roleNames.Ours(c.Key, to.User) {
			return faultf("%s: role %s has lost its setting of role, so that it acts as %s and not as its owner: was it changed by hand since it was made?", at.what, to.User, acts)
		}
		if setting != nil && string(setting) != acts {
			return faultf("%s: a session of %s acts as %s and not as its owner %s; a pooler's server_reset_query that says SET ROLE does that: DISCARD ALL is right", at.what, is, acts, setting)
		}
		if err != nil {
			return fault{fmt.Sprintf("%s: verify_query of key %s, run as %s: %s; change it with: vault write hyvve/keys/%s verify_query='SELECT 1', once a rotation that waits for it is reverted", at.what, c.Key.Name, acts, withoutText(err), c.Key.Name), err}
		}
		return nil
	})
	if at.spare && away(err) { // clients go to the next one
		return nil
	}
	if refused(err) || hasState(err, stateProtocol) {
		return faultf("%w; %s", err, whyRefused(c, at, to.User))
	}
	return err
}

// withoutText says what is wrong with a verify_query by its SQLSTATE: the server's message may hold what the query has read.
func withoutText(err error) string {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return "the session ended"
	}
	hint := map[string]string{
		stateSyntax:              "it is not one query: SELECT, VALUES, TABLE or WITH, and nothing after it",
		stateNotSupported:        "it would change something, or is no plain query",
		stateUndefinedTable:      "it names a table that does not exist; write its schema, too, as SELECT 1 FROM public.orders",
		stateUndefinedFunction:   "it names a function or operator that does not exist; write its schema, too",
		stateReadOnlyTransaction: "it would change something",
		stateInsufficient:        "the role lacks a right",
	}[server.Code]
	if hint == "" {
		return "SQLSTATE " + server.Code
	}
	return "SQLSTATE " + server.Code + ": " + hint
}

// InUse implements kind.Server: sessions of the old role, at the server and at its replicas, and clients of it at
// PgBouncers.
func (k *Kind) InUse(ctx context.Context, c kind.Change) (int, string, error) {
	return k.count(ctx, c, 0)
}

// Retire implements kind.Server. The role stays: it is the next one's turn, or the owner.
func (k *Kind) Retire(ctx context.Context, c kind.Change) error {
	from, to, err := urls.Both(c)
	if err != nil {
		return err
	}
	if from.User == "" || from.User == to.User { // there is one role, whose password somebody else changes
		return nil
	}
	if err := k.CheckChange(c); err != nil {
		return err
	}
	err = k.despiteSessions(ctx, c, from.User, func() error {
		return k.transaction(ctx, c, from.User, lookUp(c, from.User, ""), func(answer *pgconn.Result) ([]string, error) {
			roles, _, err := readRoles(answer)
			of, there := roles[from.User]
			if err != nil || !there {
				return nil, err
			}
			return lock(from.User, of, markOf(c.Key, c.From)), mayRetire(c, of, from.User)
		})
	})
	if err != nil || !c.Cut {
		return err
	}
	return k.end(ctx, c.Connection, from.User)
}

// Unstage implements kind.Server. A role that was made for the new version goes, unless something depends on it by now: then
// it stays, locked.
func (k *Kind) Unstage(ctx context.Context, c kind.Change) error {
	from, to, err := urls.Both(c)
	if err != nil || !roleNames.Ours(c.Key, to.User) || from.User == to.User {
		return err
	}
	if admin, err := parseAdmin(c.Connection); err == nil && admin.User == to.User {
		return nil // it was never staged
	}
	staged := false
	unstage := func(do func(of known) []string) error {
		return k.transaction(ctx, c, to.User, lookUp(c, to.User, ""), func(answer *pgconn.Result) ([]string, error) {
			roles, _, err := readRoles(answer)
			if err != nil {
				return nil, err
			}
			of, there := roles[to.User]
			if staged, err = mayUnstage(c, of, there, k.proves(ctx, c, to)); !staged {
				return nil, err
			}
			return do(of), nil
		})
	}
	err = k.despiteSessions(ctx, c, to.User, func() error {
		return unstage(func(of known) []string { return lock(to.User, of, markOf(c.Key, c.To)) })
	})
	if err != nil || !staged {
		return err
	}
	if c.Cut {
		if err := k.end(ctx, c.Connection, to.User); err != nil {
			return err
		}
	}
	err = unstage(func(known) []string { return []string{"DROP ROLE " + quote(to.User)} })
	if hasState(err, stateDependentObjects) {
		return nil
	}
	return err
}

// lock returns the statements that take a role's login away, and mark it where it has no comment: so it is known later who
// has locked it.
func lock(role string, of known, m mark) []string {
	statements := []string{"ALTER ROLE " + quote(role) + " NOLOGIN PASSWORD NULL"}
	if of.Comment == "" {
		statements = append(statements, m.statement(role))
	}
	return statements
}

// end ends all sessions of a role.
func (k *Kind) end(ctx context.Context, c kind.Connection, role string) error {
	var errs []error
	for _, at := range append([]place{home(c)}, replicas(c)...) {
		errs = append(errs, k.admin(ctx, c, at, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND pid <> pg_backend_pid()", role)
			return err
		}))
	}
	return errors.Join(errs...)
}

// Iterations and salt are PostgreSQL's own (SCRAM_SHA_256_DEFAULT_ITERATIONS, SCRAM_DEFAULT_SALT_LEN in
// src/include/common/scram-common.h). Its passwords are people's; ours have 256 random bits, and need no more. Nor
// fewer, though that would spare the server, which tries the empty password on each verifier: clients such as pgjdbc refuse
// less than the 4096 of RFC 7677.
const (
	scramIterations = 4096
	scramSalt       = 16
)

// verifier is what the server keeps of a password, as ALTER ROLE … PASSWORD takes it: it tells that a client knows the
// password, and lets nobody log in. The form is that of RFC 5803 as PostgreSQL writes it:
// SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey. Our passwords are ASCII, which SASLprep leaves as it is.
func verifier(random io.Reader, password key.Value) (string, error) {
	salt := make([]byte, scramSalt)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("drawing a salt: %w", err)
	}
	salted, err := pbkdf2.Key(sha256.New, password.Reveal(), salt, scramIterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving a verifier: %w", err)
	}
	stored := sha256.Sum256(sum(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, encode(salt), encode(stored[:]), encode(sum(salted, "Server Key"))), nil
}

func sum(secret []byte, text string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
