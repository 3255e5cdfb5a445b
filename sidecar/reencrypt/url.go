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
)

// Parameters of a Prisma URL that are Prisma's own: the server would refuse them. Source: Prisma's reference of
// PostgreSQL connection URLs.
var prismaOnly = []string{
	"pgbouncer", "schema", "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size",
	"sslaccept", "sslidentity", "sslpassword", "channel_binding", "single_use_connections",
}

// Parameters that pgx understands or that every server does.
var serverKnows = []string{
	"sslmode", "sslrootcert", "sslcert", "sslkey", "sslsni", "sslnegotiation", "connect_timeout", "application_name",
	"target_session_attrs", "options", "search_path", "statement_timeout", "lock_timeout", "timezone",
}

// database is what a URL says.
type database struct {
	config *pgx.ConnConfig
	schema string // of tables whose column names none
}

// parseURL reads a PostgreSQL URL as Prisma does. Errors do not hold the password.
func parseURL(text string) (database, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "postgresql" && u.Scheme != "postgres") || u.Host == "" {
		return database{}, errors.New("the database URL is not of the form postgresql://user:password@host:port/database; are special characters of the password percent-encoded?")
	}
	query := u.Query()
	d := database{schema: query.Get("schema")}
	bouncer := query.Get("pgbouncer") == "true"
	if strings.EqualFold(query.Get("sslaccept"), "strict") && query.Get("sslmode") == "require" {
		query.Set("sslmode", "verify-full")
	}
	if root := query.Get("sslcert"); root != "" && query.Get("sslkey") == "" { // Prisma's sslcert is the server's CA
		query.Set("sslrootcert", root)
		query.Del("sslcert")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case slices.Contains(prismaOnly, name):
			query.Del(name)
		case !slices.Contains(serverKnows, name):
			return database{}, fmt.Errorf("the database URL has parameter %q, which is neither PostgreSQL's nor Prisma's; remove it", name)
		}
	}
	u.RawQuery = query.Encode()
	if d.config, err = pgx.ParseConfig(u.String()); err != nil {
		return database{}, fmt.Errorf("the database URL cannot be used: %s", hidden(err.Error(), u))
	}
	if bouncer { // no statement may be prepared behind a pooler that hands out servers by transaction
		d.config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if d.config.RuntimeParams["application_name"] == "" {
		d.config.RuntimeParams["application_name"] = "hyvve-reencrypt"
	}
	return d, nil
}

// hidden takes the password out of a message.
func hidden(message string, u *url.URL) string {
	password, ok := u.User.Password()
	if !ok || password == "" {
		return message
	}
	message = strings.ReplaceAll(message, url.QueryEscape(password), "xxxxx")
	return strings.ReplaceAll(message, password, "xxxxx")
}
