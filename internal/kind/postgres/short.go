// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"maps"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// shortLogins finds, through samples that follow each other without a break, the logins at a server that no sample has seen:
// PostgreSQL counts the sessions of each database (pg_stat_database.sessions, since version 14), for all roles together. It counts a
// session when that is idle for the first time, or ends.
type shortLogins struct {
	last   headcount
	credit map[string]int // sessions that the sample before saw and the server had not counted yet, by database
}

// headcount is who is at a server at a moment, and how many there have been.
type headcount struct {
	counts map[string]int // sessions that each database has had
	before map[string]int // how many were ours when the server was asked, and when it had answered
	ours   map[string]int
	here   map[int]string // the databases of the sessions that there are, by process
}

// countHeads reads a headcount but for ours. A server that does not count sessions says 0.
func countHeads(ctx context.Context, conn *pgx.Conn) (headcount, error) {
	h := headcount{counts: map[string]int{}, here: map[int]string{}}
	rows, err := conn.Query(ctx, `
		SELECT s.datname::text, coalesce((pg_catalog.to_jsonb(s) ->> 'sessions')::int8, 0)::int8, ARRAY(
			SELECT a.pid FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.datid = s.datid AND `+clients+`
		) FROM pg_catalog.pg_stat_database s WHERE s.datname IS NOT NULL`)
	if err != nil {
		return h, err
	}
	defer rows.Close()
	for rows.Next() {
		var database string
		var count int
		var here []int
		if err := rows.Scan(&database, &count, &here); err != nil {
			return h, err
		}
		h.counts[database] = count
		for _, pid := range here {
			h.here[pid] = database
		}
	}
	return h, rows.Err()
}

// clients is the condition for sessions of clients other than ours. Of those of other roles the server may tell no more than
// who they are (pg_read_all_stats).
const clients = `a.usesysid IS NOT NULL AND coalesce(a.backend_type, 'client backend') = 'client backend' AND coalesce(a.application_name, '') <> '` + ownName + `'`

// unseen returns how many logins since the last headcount are of no session that was seen, by database. It takes the sessions
// that the sample has seen and that were not there before, and a headcount after it.
func (l *shortLogins) unseen(seen map[int]string, after headcount) map[string]int {
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
	missed, credit := map[string]int{}, map[string]int{}
	for database, count := range after.counts {
		before := l.last.counts[database]
		if count < before { // the counts were reset
			continue
		}
		// A login of ours that was under way during a count is not taken for one that it includes.
		left := count - before - max(after.before[database]-l.last.ours[database], 0) - came[database]
		switch used := left - l.credit[database]; {
		case left < 0:
			credit[database] = -left
		case used < 0:
			credit[database] = -used
		case used > 0:
			missed[database] = used
		}
	}
	*l = shortLogins{last: after, credit: credit}
	return missed
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

// countHeads is a headcount at a place, with the logins of ours that it includes.
func (k *Kind) countHeads(ctx context.Context, conn *pgx.Conn, at place) (headcount, error) {
	before := k.entered(at)
	h, err := countHeads(ctx, conn)
	h.before, h.ours = before, k.entered(at)
	return h, err
}

// entered returns how often we have logged in to each database at a place.
func (k *Kind) entered(at place) map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.ours[at.oneName()])
}

// oneName is the hosts of a place, with one name for this machine, which has several.
func (p place) oneName() string {
	var all []string
	for _, h := range p.hosts {
		host := h.Host
		if h.Socket() || kind.IsLoopback(host) {
			host = "localhost"
		}
		all = append(all, net.JoinHostPort(host, strconv.Itoa(int(h.Port))))
	}
	return strings.Join(all, ",")
}
