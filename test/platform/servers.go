// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// servers are the connections to the platform's servers.
var servers = facts.Servers{Database: "main", Redis: "cache"}

const (
	databaseName = "hyvve"
	roleName     = "hyvve_app"   // owns the tables, and logs in itself until the first rotation
	adminName    = "hyvve_admin" // of the engine, at both servers

	witnessName       = "hyvve_witness" // of the engine, which looks at rows by it
	witnessConnection = "rows"
)

// server is where URLs of the platform are valid.
type server struct {
	kind       string
	admin, url key.Value // URLs: the engine's at first, and the one in use
}

// expose lets the URL in use name where workloads reach the server; the engine's own stays as it is.
func (s *server) expose(expose func(port int) (host string, err error)) error {
	if expose == nil {
		return nil
	}
	u, err := url.Parse(s.url.Reveal())
	if err != nil {
		return errors.New("the URL of a server cannot be read") // the reason would quote it
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return fmt.Errorf("the URL of a server has no port: %w", err)
	}
	host, err := expose(port)
	if err != nil {
		return err
	}
	u.Host = net.JoinHostPort(host, u.Port())
	s.url = key.NewValue(u.String())
	return nil
}

// startDatabase starts PostgreSQL with the platform's tables and rows.
func (w *World) startDatabase(ctx context.Context, seeding bed.Seeding) error {
	var err error
	if w.Postgres, err = w.Bed.Postgres(ctx); err != nil {
		return err
	}
	password, err := w.Postgres.NewRole(ctx, roleName)
	if err != nil {
		return err
	}
	root, err := w.Postgres.NewRole(ctx, adminName)
	if err != nil {
		return err
	}
	admin, err := w.Postgres.NewDatabase(ctx, databaseName)
	if err != nil {
		return err
	}
	if err := exec(ctx, admin,
		"GRANT ALL ON DATABASE "+databaseName+" TO "+roleName, "GRANT ALL ON SCHEMA public TO "+roleName,
		"ALTER ROLE "+adminName+" CREATEROLE", "GRANT pg_signal_backend TO "+adminName,
		"GRANT "+roleName+" TO "+adminName+" WITH ADMIN OPTION", // which PostgreSQL 16 asks for
	); err != nil {
		return err
	}
	w.database = server{
		kind: "postgres", admin: key.NewValue(w.Postgres.URL("postgres", adminName, root)),
		// As the platform has it: with parameters of Prisma's, which no server knows.
		url: key.NewValue(w.Postgres.URL(databaseName, roleName, password) + "&schema=public&connection_limit=5"),
	}
	conn, err := pgx.Connect(ctx, w.Postgres.URL(databaseName, roleName, password))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	seeding.MasterKey, seeding.BetterAuth = w.Initial[facts.MasterKey], w.Initial[facts.BetterAuth]
	total := seeding.Providers + seeding.Servers + seeding.Legacy + seeding.Connections + seeding.Users
	_, _ = fmt.Fprintf(w.Bed.Log, "encrypting %d rows as the platform does (one derivation each)\n", total)
	if w.Rows, err = bed.SeedPlatform(ctx, conn, seeding); err != nil {
		return err
	}
	return w.makeWitness(ctx, admin)
}

// makeWitness makes a login that may read the columns of envelopes and nothing else, by which the engine looks at rows itself.
func (w *World) makeWitness(ctx context.Context, admin string) error {
	password, err := w.Postgres.NewRole(ctx, witnessName)
	if err != nil {
		return err
	}
	statements := []string{"ALTER ROLE " + witnessName + " BYPASSRLS"}
	for _, env := range []string{facts.MasterKey, facts.BetterAuth} {
		for _, c := range facts.Columns(env) {
			statements = append(statements, fmt.Sprintf("GRANT SELECT (%s) ON %s TO %s", c.Column, c.Table, witnessName))
		}
	}
	w.witness = key.NewValue(w.Postgres.URL(databaseName, witnessName, password))
	return exec(ctx, admin, statements...)
}

func exec(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// startRedis starts Redis, which everybody uses as its user default, as many platforms do.
func (w *World) startRedis(ctx context.Context) error {
	var err error
	if w.Redis, err = w.Bed.Redis(ctx); err != nil {
		return err
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	root := hex.EncodeToString(secret)
	if _, err := w.Redis.Do(ctx, "ACL", "SETUSER", adminName, "on", ">"+root, "~*", "&*", "+@all"); err != nil {
		return err
	}
	w.cache = server{kind: "redis", admin: key.NewValue(w.Redis.UserURL(adminName, root)), url: key.NewValue(w.Redis.URL + "/0")}
	return nil
}
