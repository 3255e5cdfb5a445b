// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// unreachedError says in one line why there is no session of a database, and what to do. It holds no password.
type unreachedError struct {
	text  string
	cause error
}

func (e *unreachedError) Error() string { return e.text }
func (e *unreachedError) Unwrap() error { return e.cause }

// unreached puts the driver's error, which has a line for each try at each address, into one line.
func unreached(ctx context.Context, config *pgx.ConnConfig, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("connecting to the database: %w", ctx.Err())
	}
	what := "the database at " + strings.Join(addresses(config), ", ")
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return &unreachedError{fmt.Sprintf("%s refuses user %s: %s (SQLSTATE %s); %s", what, config.User, server.Message, server.Code, remedy(server.Code)), err}
	}
	return &unreachedError{fmt.Sprintf("%s cannot be reached: %s; start it, or mend host, port and sslmode", what, strings.Join(reasons(err), ", ")), err}
}

// addresses are all that a URL names.
func addresses(config *pgx.ConnConfig) (all []string) {
	add := func(host string, port uint16) {
		if _, address := pgconn.NetworkAddress(host, port); !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	add(config.Host, config.Port)
	for _, f := range config.Fallbacks {
		add(f.Host, f.Port)
	}
	return all
}

// reasons are the innermost causes of all tries, each once.
func reasons(err error) (all []string) {
	var tries interface{ Unwrap() []error }
	if errors.As(err, &tries) {
		for _, try := range tries.Unwrap() {
			if cause := errors.Unwrap(try); cause != nil {
				try = cause // without the address
			}
			for _, reason := range reasons(try) {
				if !slices.Contains(all, reason) {
					all = append(all, reason)
				}
			}
		}
		return all
	}
	var network *net.OpError
	if errors.As(err, &network) {
		err = network.Err
	}
	return []string{strings.Join(strings.Fields(err.Error()), " ")}
}

// remedy is what to do when a server refuses a login. Source of the codes: PostgreSQL's manual, appendix "Error Codes".
func remedy(code string) string {
	switch code {
	case "28P01", "28000": // invalid_password, invalid_authorization_specification
		return "mend user and password, or let the user in from here (pg_hba.conf)"
	case "3D000": // invalid_catalog_name
		return "name a database that is there"
	case "53300", "57P03": // too_many_connections, cannot_connect_now
		return "run it again in a while"
	}
	return "mend the URL, or see the server's log"
}
