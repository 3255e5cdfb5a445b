// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
)

// elsewhere reports of places whether a workload's URL leads there by another address than the connection's: to a pooler, to
// the same server by another name, or to another server.
func elsewhere(c kind.Connection) func(place) bool {
	own := home(c).host
	return func(at place) bool { return at.pooler && at.host != own }
}

// identityOf asks for what a server has in common with its replicas, and with copies of its files, but with no other server; "" if it does not say, as some
// hosted ones.
func identityOf(ctx context.Context, conn *pgx.Conn) string {
	results, err := together(ctx, conn, "BEGIN TRANSACTION READ ONLY", pgsession.SetSearchPath, "SELECT system_identifier FROM pg_control_system()", "ROLLBACK")
	if err != nil {
		if !conn.IsClosed() {
			_, _ = together(ctx, conn, "ROLLBACK") // a pooler keeps the connection
		}
		return ""
	}
	if rows := results[2].Rows; len(rows) == 1 {
		return string(rows[0][0])
	}
	return ""
}

// identity is that of the connection's server.
func (k *Kind) identity(ctx context.Context, c kind.Connection) (id string, err error) {
	err = k.admin(ctx, c, home(c), func(conn *pgx.Conn) error {
		id = identityOf(ctx, conn)
		return nil
	})
	return id, err
}

// alien returns an error where a session is at another server than the connection's. The same role may log in at both with
// the same password, such as before a move; a role that is made at the one is not known at the other.
func alien(ctx context.Context, conn *pgx.Conn, c kind.Connection, at place, own string) error {
	if id := identityOf(ctx, conn); own == "" || id == "" || id == own {
		return nil
	}
	return faultf("%s is another server than that of connection %s, %s, where the login roles are made; write a URL of that one, or name the connection of this one in connection=", at.what, c.Name, home(c).host)
}

// whyRefused asks what is likely where a login is refused.
func whyRefused(c kind.Change, at place, user string) string {
	question := fmt.Sprintf("does pg_hba.conf (or a PgBouncer's list of users) not let %s in", user)
	if roleNames.Ours(c.Key, user) {
		question = "has the role not arrived there yet, or " + question
	} else {
		question = "is the password in the value another one than the server's, or " + question
	}
	if elsewhere(c.Connection)(at) {
		question += fmt.Sprintf(", or is it another server than that of connection %s", c.Connection.Name)
	}
	return question + "?"
}

// reaches returns an error where the next version will not work however it is staged: a URL leads to another server, names a
// database that there is not, or cannot be reached; or the verify_query fails. A value of an operator's is tried itself, and
// otherwise the present version in its place. Where that does not log in at all, or not as the next one's owner, nothing more
// is found: Inspect tells of it.
func (k *Kind) reaches(ctx context.Context, c kind.Change, from, to dsn.URL, found map[string]known, o owner) error {
	if !roleNames.Ours(c.Key, to.User) {
		return k.verify(ctx, c, to)
	}
	if from.User == "" || o.name == "" {
		return nil
	}
	if actsAs(found, from.User) != o.name {
		c.Key.Options = maps.Clone(c.Key.Options)
		c.Key.Options[optionQuery] = ""
	}
	err := k.verify(ctx, c, from)
	if !refused(err) {
		return err
	}
	at := home(c.Connection)
	at.database = from.Path()
	if valid, unknown := k.valid(ctx, c.Connection, at, from); unknown != nil || !valid {
		return unknown
	}
	return err
}
