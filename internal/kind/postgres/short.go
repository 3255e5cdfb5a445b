// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// shortLogins finds, through samples that follow each other without a break, the logins at a server that no sample has seen:
// PostgreSQL counts the sessions of each database (pg_stat_database.sessions, since version 14), for all roles together. It counts a
// session when that is idle for the first time, or ends.
type shortLogins struct {
	begun  bool
	last   headcount
	credit map[string]int // sessions that the sample before saw and the server had not counted yet, by database
}

// misses are the logins that no sample has seen, by database.
type misses struct {
	logins map[string]int
	reset  map[string]bool // databases whose count was reset meanwhile
	fault  string          // why the logins to all databases are not known; empty: they are
}

// headcount is who is at a server at a moment, and how many there have been.
type headcount struct {
	counts map[string]sessionCount // of each database
	fault  string                  // why there are no counts
	before map[string]int          // how many were ours when the server was asked, and when it had answered
	ours   map[string]int
	here   map[int]string // the databases of the sessions that there are, by process
}

// sessionCount is how many sessions a database has had since its count was reset.
type sessionCount struct {
	sessions int
	reset    float64 // in seconds, by the server's clock; 0: never
}

// countHeads reads a headcount but for ours.
func countHeads(ctx context.Context, conn *pgx.Conn) (headcount, error) {
	h := headcount{counts: map[string]sessionCount{}, here: map[int]string{}}
	rows, err := conn.Query(ctx, `
		SELECT s.datname::text, (pg_catalog.to_jsonb(s) ->> 'sessions')::int8, coalesce(extract(epoch FROM s.stats_reset), 0)::float8, ARRAY(
			SELECT a.pid FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.datid = s.datid AND `+clients+`
		) FROM pg_catalog.pg_stat_database s WHERE s.datname IS NOT NULL`)
	if err != nil {
		return h, err
	}
	defer rows.Close()
	for rows.Next() {
		var database string
		var count *int
		var reset float64
		var here []int
		if err := rows.Scan(&database, &count, &reset, &here); err != nil {
			return h, err
		}
		if count == nil {
			h.fault = "pg_stat_database has no column sessions, which PostgreSQL 14 and newer have"
			count = new(int)
		}
		h.counts[database] = sessionCount{*count, reset}
		for _, pid := range here {
			h.here[pid] = database
		}
	}
	return h, rows.Err()
}

// clients is the condition for sessions of clients other than ours. Of those of other roles the server may tell no more than
// who they are (pg_read_all_stats).
const clients = `a.usesysid IS NOT NULL AND coalesce(a.backend_type, 'client backend') = 'client backend' AND coalesce(a.application_name, '') <> '` + ownName + `'`

// countHeads is a headcount at a place, with the logins of ours that it includes.
func (k *Kind) countHeads(ctx context.Context, conn *pgx.Conn, at place) (headcount, error) {
	before := k.entered(at)
	h, err := countHeads(ctx, conn)
	if hasState(err, stateInsufficient) { // it was revoked from PUBLIC
		role := quoteIfNeeded(conn.Config().User)
		h, err = headcount{fault: fmt.Sprintf("administrator %s may not read pg_stat_database; grant it, as a superuser in database %s, with: GRANT SELECT ON pg_catalog.pg_stat_database TO %s", role, quoteIfNeeded(conn.Config().Database), role)}, nil
	}
	h.before, h.ours = before, k.entered(at)
	return h, err
}

// unseen returns how many logins since the last headcount are of no session that was seen. It takes the sessions that the
// sample has seen and that were not there before, and a headcount after it.
func (l *shortLogins) unseen(seen map[int]string, after headcount) misses {
	came := map[string]int{}
	for pid, database := range seen {
		if _, before := l.last.here[pid]; !before {
			came[database]++
		}
	}
	for pid, database := range after.here {
		_, before := l.last.here[pid]
		if _, counted := seen[pid]; !before && !counted {
			came[database]++
		}
	}
	m := misses{logins: map[string]int{}, reset: map[string]bool{}, fault: cmp.Or(l.last.fault, after.fault)}
	credit := map[string]int{}
	for database, count := range after.counts {
		before, known := l.last.counts[database]
		switch {
		case known && count.reset != before.reset:
			m.reset[database] = true
			continue
		case count.sessions < before.sessions: // where one count is lost, the others are, and may be as high again
			m.fault = "the counts of pg_stat_database are lost, as after a crash of the server"
			continue
		}
		// A login of ours that was under way during a count is not taken for one that it includes.
		left := count.sessions - before.sessions - max(after.before[database]-l.last.ours[database], 0) - came[database]
		switch used := left - l.credit[database]; {
		case left < 0:
			credit[database] = -left
		case used < 0:
			credit[database] = -used
		case used > 0:
			m.logins[database] = used
		}
	}
	*l = shortLogins{begun: true, last: after, credit: credit}
	return m
}

// of returns what is known of the logins to some databases of a server; zero: all of them were seen.
func (m misses) of(databases []string, server string) kind.Unattributed {
	if m.fault != "" {
		return kind.Unattributed{At: server, Uncounted: m.fault}
	}
	sum := 0
	for _, database := range databases {
		if m.reset[database] {
			return kind.Unattributed{At: server, Uncounted: fmt.Sprintf("the statistics of database %s were reset, as by pg_stat_reset()", kind.Line(database, kind.MaxServerText))}
		}
		sum += m.logins[database]
	}
	if sum == 0 {
		return kind.Unattributed{}
	}
	return kind.Unattributed{Logins: sum, At: server}
}

// tooShort returns an error if somebody logged in to a database of the key for too short a time to be seen, or may have.
func (k *Kind) tooShort(c kind.Change, places []place, missed []misses) error {
	before := c
	before.To = c.From // its clients may use another database
	databases, err := databasesOf(before)
	if err != nil {
		return err
	}
	after, err := databasesOf(c)
	if err != nil {
		return err
	}
	databases = append(databases, after...)
	slices.Sort(databases)
	databases = slices.Compact(databases)
	for n, at := range places {
		if short := missed[n].of(databases, at.what); short != (kind.Unattributed{}) {
			return short
		}
	}
	return nil
}

// cannotCount returns a note for each server that never counts logins. One that cannot be asked is another check's business.
func (k *Kind) cannotCount(ctx context.Context, c kind.Connection) (notes []string) {
	for _, at := range append([]place{home(c)}, replicas(c)...) {
		var h headcount
		err := k.admin(ctx, c, at, func(conn *pgx.Conn) (err error) {
			h, err = k.countHeads(ctx, conn, at)
			return err
		})
		if err == nil && h.fault != "" {
			short := misses{fault: h.fault}.of(nil, at.what)
			notes = append(notes, fmt.Sprintf("%v; so each rotation samples the server for six times observe=, at most a minute, before it locks the old role", short))
		}
	}
	return notes
}

// enter notes that we have logged in to the database of a place, so that the login is nobody else's.
func (k *Kind) enter(at place) {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := at.oneName()
	if k.ours[name] == nil {
		k.ours[name] = map[string]int{}
	}
	k.ours[name][at.database]++
}

// entered returns how often we have logged in to each database at a place.
func (k *Kind) entered(at place) map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.ours[at.oneName()])
}
