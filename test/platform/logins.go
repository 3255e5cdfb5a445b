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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Login is a user at a server.
type Login struct {
	User     string `json:"user"`
	Valid    bool   `json:"can_log_in"`
	Sessions int    `json:"sessions"`
}

// LoginResult is what became of the users of a URL over a rotation, seen at the server.
type LoginResult struct {
	Env        string  `json:"env"`
	Old        string  `json:"old_user"`
	Most       int     `json:"old_sessions_at_most"`
	WhenLocked int     `json:"old_sessions_when_locked"` // the most that were ever seen of a user that could not log in any more
	Logins     []Login `json:"logins_at_the_end"`
}

// Valid are the users that can log in.
func (r LoginResult) Valid() (names []string) {
	for _, l := range r.Logins {
		if l.Valid {
			names = append(names, l.User)
		}
	}
	return names
}

// Problem says what is wrong with a result; "": nothing.
func (r LoginResult) Problem() string {
	switch valid := r.Valid(); {
	case r.Most == 0:
		return fmt.Sprintf("%s: no session of %s was seen", r.Env, r.Old)
	case r.WhenLocked > 0:
		return fmt.Sprintf("%s: %d sessions of %s were open when it could not log in any more", r.Env, r.WhenLocked, r.Old)
	case len(valid) != 1 || valid[0] == r.Old:
		return fmt.Sprintf("%s: %s can log in at the end", r.Env, strings.Join(valid, ", "))
	}
	return ""
}

// databaseLogins asks PostgreSQL for the users of DATABASE_URL. Who may log in is read before the sessions are, so that a
// session is never laid to a lock that came after it.
func (w *World) databaseLogins(ctx context.Context) (logins []Login, err error) {
	conn, err := pgx.Connect(ctx, w.Postgres.AdminURL(databaseName))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	rows, err := conn.Query(ctx, `
		WITH roles AS MATERIALIZED (
			SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname = $1 OR rolname ~ '^database_url(_[a-z2-7]{6})?_[ab]$')
		SELECT rolname, rolcanlogin, (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname AND application_name <> 'hyvve-engine')
		FROM roles ORDER BY rolname`, roleName)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Login])
}

// cacheUser matches the users of REDIS_URL, with the id of the mount in their names.
var cacheUser = regexp.MustCompile(`^(default|redis_url(_[a-z2-7]{6})?_[ab])$`)

// cacheLogins asks Redis for the users of REDIS_URL, in the same order.
func (w *World) cacheLogins(ctx context.Context) (logins []Login, err error) {
	users, err := w.Redis.Do(ctx, "ACL", "LIST")
	if err != nil {
		return nil, err
	}
	clients, err := w.Redis.Do(ctx, "CLIENT", "LIST")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(users) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !cacheUser.MatchString(fields[1]) {
			continue
		}
		l := Login{User: fields[1], Valid: fields[2] == "on"}
		for client := range strings.Lines(clients) {
			client := " " + client
			if strings.Contains(client, " user="+l.User+" ") && !strings.Contains(client, " name=hyvve-engine ") && !strings.Contains(client, " cmd=NULL ") {
				l.Sessions++
			}
		}
		logins = append(logins, l)
	}
	return logins, nil
}

// WatchLogins looks at both servers again and again, and shows when something has changed. What it returns ends it.
func (w *World) WatchLogins(ctx context.Context, show func(env string, logins []Login)) (end func() ([]LoginResult, error)) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	watched := []struct {
		env, old string
		ask      func(context.Context) ([]Login, error)
	}{{"DATABASE_URL", roleName, w.databaseLogins}, {"REDIS_URL", "default", w.cacheLogins}}
	results := make([]LoginResult, len(watched))
	errs := make([]error, len(watched))
	for n, at := range watched {
		group.Go(func() { results[n], errs[n] = watchLogins(ctx, at.env, at.old, at.ask, show) })
	}
	return func() ([]LoginResult, error) {
		cancel()
		group.Wait()
		return results, errors.Join(errs...)
	}
}

func watchLogins(ctx context.Context, env, old string, ask func(context.Context) ([]Login, error), show func(string, []Login)) (LoginResult, error) {
	r := LoginResult{Env: env, Old: old}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for last := false; ; {
		logins, err := ask(context.WithoutCancel(ctx))
		if err != nil {
			return r, fmt.Errorf("%s: %w", env, err)
		}
		if !slices.Equal(logins, r.Logins) {
			show(env, logins)
		}
		r.Logins = logins
		for _, l := range logins {
			if l.User == old {
				r.Most = max(r.Most, l.Sessions)
			}
			if !l.Valid {
				r.WhenLocked = max(r.WhenLocked, l.Sessions)
			}
		}
		if last {
			return r, nil
		}
		select {
		case <-ctx.Done():
			last = true // once more, for how it is at the end
		case <-ticker.C:
		}
	}
}

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
