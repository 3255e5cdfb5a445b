// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

const (
	// sampleShare is how much of a core the looks of dense samples may take of a server. The pauses between them take half as
	// much again, and the whole stays below 3 %.
	sampleShare = 0.016
	// minPeriod and maxPeriod bound the time between two samples. A session that logs in, runs a statement and leaves is
	// visible for some 3 ms on a local network.
	minPeriod = 2800 * time.Microsecond
	maxPeriod = 15 * time.Millisecond
	// calibration is how many samples are taken to see what one costs, and costAge how long that holds.
	calibration = 40
	costAge     = time.Minute
	// joinTime is how long after its begin a sample still counts for a caller who has asked for the one before, too.
	joinTime = 150 * time.Millisecond
)

// Sample implements kind.Sampler: all that InUse asks is asked again and again.
func (k *Kind) Sample(ctx context.Context, c kind.Change, d time.Duration) (int, string, error) {
	return k.count(ctx, c, d)
}

// count counts sessions of the old role at the server and at its replicas, and clients of it at PgBouncers: those of this
// moment, or those seen within d.
func (k *Kind) count(ctx context.Context, c kind.Change, d time.Duration) (int, string, error) {
	from, to, err := urls.Both(c)
	if err != nil || from.User == "" {
		return 0, "", err
	}
	if from.User == to.User {
		return 0, fmt.Sprintf("both versions are of role %s: the server cannot tell their sessions apart", from.User), nil
	}
	places := append([]place{home(c.Connection)}, replicas(c.Connection)...)
	found, missed := make([]use, len(places)), make([]misses, len(places))
	errs := make([]error, len(places)+1)
	var pooled pool
	var busy sync.WaitGroup
	for n, at := range places {
		busy.Go(func() { found[n], missed[n], errs[n] = k.sessions(ctx, c.Connection, at, from.User, d) })
	}
	busy.Go(func() { pooled, errs[len(places)] = k.pooled(ctx, c.Connection, from.User, d) })
	busy.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, "", err
		}
	}
	total := 0
	var words []string
	for n, at := range places {
		if pooled.clients == 0 { // no client can get at PgBouncer's own connections
			found[n] = pooled.strip(found[n])
		}
		if count := found[n].count(); count > 0 {
			total += count
			words = append(words, fmt.Sprintf("%d sessions of role %s at %s: %s", count, from.User, at.what, found[n]))
		}
	}
	if pooled.clients > 0 {
		total += pooled.clients
		words = append(words, fmt.Sprintf("%d clients of role %s at PgBouncer", pooled.clients, from.User))
	}
	if total == 0 {
		err = k.tooShort(c, places, missed)
	}
	return total, strings.Join(words, "; "), err
}

// sampler samples the sessions of a place for all callers, one second or so at a time. Callers who ask again as soon as
// they are answered are sampled without a break: a sample continues with the roles of the one before.
type sampler struct {
	mu      sync.Mutex
	current *sample
	next    *sample
	running bool
	cost    time.Duration // of one look
	costAt  time.Time     // when that was measured
}

// sample is one sample.
type sample struct {
	roles map[string]bool // that are looked for
	asked map[string]bool // for whom somebody waits
	long  time.Duration
	begun time.Time

	done   chan struct{} // closed when what follows is set
	found  map[string]use
	missed misses
	err    error
}

// taking samples the sessions of roles for so long, and counts the logins that no sample has seen.
type taking func(roles []string, long time.Duration, logins *shortLogins) (found map[string]use, missed misses, err error)

// ask returns the sessions of a role that are seen within a sample of that length which begins from now on, or has begun
// just now and continues from one that the same caller has asked for; and the logins that were not seen.
func (s *sampler) ask(ctx context.Context, role string, long time.Duration, take taking) (use, misses, error) {
	s.mu.Lock()
	of := s.current
	if of == nil || !of.roles[role] || time.Since(of.begun) > joinTime || of.long < long {
		if s.next == nil {
			s.next = &sample{roles: map[string]bool{}, asked: map[string]bool{}, done: make(chan struct{})}
		}
		of = s.next
	}
	of.roles[role], of.asked[role] = true, true
	if of == s.next {
		of.long = max(of.long, long)
	}
	if !s.running {
		s.running = true
		go s.run(take)
	}
	s.mu.Unlock()
	select {
	case <-of.done:
		return of.found[role], of.missed, of.err
	case <-ctx.Done():
		return nil, misses{}, ctx.Err()
	}
}

// run takes samples until nobody has asked for the last one.
func (s *sampler) run(take taking) {
	var last *sample
	var logins shortLogins
	for {
		s.mu.Lock()
		one := s.next
		s.next = nil
		if one == nil && last != nil && len(last.asked) > 0 && last.err == nil {
			one = &sample{roles: map[string]bool{}, asked: map[string]bool{}, done: make(chan struct{}), long: last.long}
		}
		if one == nil {
			s.current, s.running = nil, false
			s.mu.Unlock()
			return
		}
		if last != nil {
			maps.Copy(one.roles, last.asked)
		}
		one.begun = now()
		s.current = one
		roles := slices.Sorted(maps.Keys(one.roles))
		s.mu.Unlock()
		one.found, one.missed, one.err = take(roles, one.long, &logins)
		s.mu.Lock() // nobody joins from here on
		s.current = nil
		s.mu.Unlock()
		close(one.done)
		last = one
	}
}

// sampler returns the one of a place.
func (k *Kind) sampler(c kind.Connection, at place) *sampler { return &k.census(c, at).samples }

// sampleAt samples the sessions of roles at a place: in one statement, which loops on the server.
func (k *Kind) sampleAt(ctx context.Context, c kind.Connection, at place, roles []string, long time.Duration, logins *shortLogins) (found map[string]use, missed misses, err error) {
	of := k.sampler(c, at)
	err = k.admin(ctx, c, at, func(conn *pgx.Conn) error {
		of.mu.Lock()
		cost, fresh := of.cost, !of.costAt.IsZero() && time.Since(of.costAt) < costAge
		of.mu.Unlock()
		if !logins.begun {
			if logins.last, err = k.countHeads(ctx, conn, at); err != nil {
				return err
			}
			logins.begun = true
		}
		if !fresh {
			if cost, err = costOf(ctx, conn, logins.last.here); err != nil {
				return err
			}
			of.mu.Lock()
			of.cost, of.costAt = cost, now()
			of.mu.Unlock()
		}
		period := min(max(time.Duration(float64(cost)/sampleShare), minPeriod), maxPeriod)
		var seen map[int]string
		if found, seen, err = readUses(conn.Query(ctx, samples(roles, long, period, logins.last.here))); err != nil {
			return err
		}
		after, err := k.countHeads(ctx, conn, at)
		if err == nil {
			missed = logins.unseen(seen, after)
		}
		return err
	})
	return found, missed, err
}

// costOf measures what one look at the sessions of a server takes of it, without the way there and back. It looks for
// sessions other than those in before, as a sample does.
func costOf(ctx context.Context, conn *pgx.Conn, before map[int]string) (time.Duration, error) {
	var took [2]time.Duration
	for n, looks := range []int{1, 1 + calibration} {
		begun := now()
		if _, _, err := readUses(conn.Query(ctx, repeated([]string{""}, looks, 0, time.Minute, before))); err != nil {
			return 0, err
		}
		took[n] = time.Since(begun)
	}
	if took[1] <= took[0] { // the server was busy with something else
		return took[1] / (1 + calibration), nil
	}
	return (took[1] - took[0]) / calibration, nil
}

// samples is the statement that looks for that long.
func samples(roles []string, long, period time.Duration, before map[int]string) string {
	return repeated(roles, int(long/period)+1, period, long, before)
}

// repeated is the statement that looks at the sessions of roles so often, at most for that long. Each look depends on the
// pause before it, so that the server makes it again; and a snapshot of the statistics holds for a whole transaction, unless
// it is cleared (PostgreSQL's documentation, "The Cumulative Statistics System"). It returns each session once; of other roles
// those that were not there before, unless that is nil.
func repeated(roles []string, looks int, period, long time.Duration, before map[int]string) string {
	names := make([]string, 0, len(roles))
	for _, role := range roles {
		names = append(names, literal(role))
	}
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 6, 64) }
	newcomers := "false"
	if before != nil {
		pids := []string{"0"}
		for pid := range before {
			pids = append(pids, strconv.Itoa(pid))
		}
		newcomers = "a.pid <> ALL ('{" + strings.Join(pids, ",") + "}'::int4[])"
	}
	return `
		SELECT DISTINCT pg_catalog.pg_get_userbyid(a.usesysid)::text, a.pid, coalesce(a.application_name, ''),
			coalesce(a.client_addr::text, ''), coalesce((SELECT d.datname::text FROM pg_catalog.pg_database d WHERE d.oid = a.datid), ''),
			extract(epoch FROM pg_catalog.statement_timestamp() - a.backend_start)::float8, a.usesysid = ANY (w.roles),
			coalesce(a.client_port, 0), pg_catalog.current_setting('port')::int4
		FROM (SELECT ARRAY(SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname IN (` + strings.Join(names, ", ") + `)) AS roles) AS w
		CROSS JOIN pg_catalog.generate_series(1, ` + strconv.Itoa(looks) + `) AS g (i)
		CROSS JOIN LATERAL (
			SELECT g.i AS n, pg_catalog.pg_sleep(` + seconds(period) + `) AS slept, pg_catalog.pg_stat_clear_snapshot() AS cleared
			WHERE pg_catalog.clock_timestamp() < pg_catalog.statement_timestamp() + ` + seconds(long) + ` * interval '1 second'
		) AS t
		CROSS JOIN LATERAL pg_catalog.pg_stat_get_activity(CASE WHEN t.n > 0 THEN NULL::int4 END) AS a
		WHERE (a.usesysid = ANY (w.roles) AND coalesce(a.application_name, '') <> ` + literal(ownName) + ` OR ` + newcomers + ` AND ` + clients + `)
			AND a.pid <> pg_catalog.pg_backend_pid()`
}

// readUses reads sessions by role, and the databases of all sessions by process. A session may be listed more than once, if it
// has changed its application_name.
func readUses(rows pgx.Rows, err error) (found map[string]use, all map[int]string, _ error) {
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	found, all = map[string]use{}, map[int]string{}
	counted := map[string]bool{}
	for rows.Next() {
		var s seen
		var role, application, address, database string
		var age *float64
		var wanted bool
		if err := rows.Scan(&role, &s.pid, &application, &address, &database, &age, &wanted, &s.clientPort, &s.serverPort); err != nil {
			return nil, nil, err
		}
		all[s.pid] = database
		name := fmt.Sprint(role, " ", s.pid)
		if age != nil {
			name += fmt.Sprint(" ", *age)
		}
		if counted[name] || !wanted {
			continue
		}
		counted[name] = true
		s.words = inWords(s.pid, age, application, database, address)
		found[role] = append(found[role], s)
	}
	return found, all, rows.Err()
}

// now is for measuring how long something takes.
func now() time.Time { return time.Now() } //nolint:forbidigo // a stopwatch: nothing that is decided or stored depends on it

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
