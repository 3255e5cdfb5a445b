// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
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
