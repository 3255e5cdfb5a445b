// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// maxMessage is how long a message of the server may be: no value of PostgreSQL is longer than 1 GB, and an envelope is far
// shorter than this.
const maxMessage = 256 << 20

// Parameters of a Prisma URL that are Prisma's own: the server would refuse them. Source: Prisma's reference of
// PostgreSQL connection URLs.
var prismaOnly = []string{
	"pgbouncer", "schema", "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size",
	"sslaccept", "sslidentity", "single_use_connections",
}

// Parameters that pgx understands or that every server does.
var serverKnows = []string{
	"host", "port", "channel_binding", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslsni", "sslnegotiation", "connect_timeout", "application_name",
	"target_session_attrs", "options", "search_path", "statement_timeout", "lock_timeout", "timezone",
}

// database is what a URL says.
type database struct {
	config *pgx.ConnConfig
	schema string // of tables whose column names none
}

// parseURL reads a PostgreSQL URL as Prisma does. Errors do not hold the password.
func parseURL(text string) (database, error) {
	target, err := dsn.Postgres(text)
	if err != nil {
		return database{}, fmt.Errorf("the database URL cannot be used: %w", err)
	}
	query := target.Query()
	d := database{schema: query.Get("schema")}
	bouncer := query.Get("pgbouncer") == "true" || query.Get("statement_cache_size") == "0"
	strict := strings.EqualFold(query.Get("sslaccept"), "strict")
	if strict && query.Get("sslmode") == "require" {
		query.Set("sslmode", "verify-full")
	}
	if root := query.Get("sslcert"); root != "" && query.Get("sslkey") == "" { // Prisma's sslcert is the server's CA
		query.Del("sslcert")
		if strict { // otherwise Prisma takes any certificate
			query.Set("sslrootcert", root)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case slices.Contains(prismaOnly, name):
			query.Del(name)
		case !slices.Contains(serverKnows, name):
			if near := usage.Nearest(name, slices.Concat(prismaOnly, serverKnows)); near != "" {
				return database{}, fmt.Errorf("the database URL has parameter %q, which is neither PostgreSQL's nor Prisma's; is it %q?", name, near)
			}
			query.Del(name) // read already, as hostaddr; hosts and libraries add marks of their own, and Prisma passes over them
		}
	}
	hosts, ports := target.Hosts.Lists()
	query.Set("host", hosts)
	query.Set("port", ports)
	u := url.URL{Scheme: target.Scheme, User: url.UserPassword(target.User, target.Password.Reveal()), Path: "/" + target.Database}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20") // pgx, as libpq, takes a plus for one
	if d.config, err = pgx.ParseConfig(u.String()); err != nil {
		return database{}, unusable(err, &u)
	}
	d.config.LookupFunc = pgconn.LookupFunc(target.Hosts.Resolver(dsn.Resolver(d.config.LookupFunc)))
	pgsession.Limit(&d.config.Config, maxMessage)
	if bouncer { // no statement may be prepared behind a pooler that hands out servers by transaction
		d.config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if d.config.RuntimeParams["application_name"] == "" {
		d.config.RuntimeParams["application_name"] = "hyvve-reencrypt"
	}
	return d, nil
}

// unusable says why pgx refuses a URL, without the URL. A password that the reason happens to hold takes the reason with
// it: blotting it out would show where it stands.
func unusable(err error, u *url.URL) error {
	const message = "the database URL cannot be used"
	cause := errors.Unwrap(err)
	password, _ := u.User.Password()
	if cause == nil || password != "" && strings.Contains(cause.Error(), password) {
		return errors.New(message + "; check its port, its sslmode and the files that it names")
	}
	return fmt.Errorf("%s: %s", message, cause.Error())
}
