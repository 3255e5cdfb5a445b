// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

const (
	// leastPeriod and maxPeriod bound the time between two samples of a node. A client that runs one command is there for
	// some 20 ms: samples that are further apart miss it, whatever they spare the server.
	leastPeriod = 2500 * time.Microsecond
	maxPeriod   = 20 * time.Millisecond
	// firstPeriod is the time between samples until it is known what one costs the server.
	firstPeriod = 10 * time.Millisecond
	// slowPeriod is the time between samples where nothing but replicas can be seen.
	slowPeriod = 250 * time.Millisecond
	// firstSamples is how many samples are taken until then.
	firstSamples = 5
	// share is the part of the server's time that samples may take: one of so many.
	share = 45
	// overhead is what a sample costs beside the command itself: to read the request and to write the reply.
	overhead = 40 * time.Microsecond
)

// Sample implements kind.Sampler: it asks each node again and again who is logged in, as often as costs the node some two
// percent of a core. It ends when the first node has seen a session.
func (k *Kind) Sample(ctx context.Context, c kind.Change, d time.Duration) (int, string, error) {
	t, nodes, err := k.watched(ctx, c)
	if err != nil || t.first {
		return 0, "", err
	}
	within, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	uses, short := make([]use, len(nodes)), make([]kind.Unattributed, len(nodes))
	err = each(nodes, func(i int, n node) error {
		var err error
		if uses[i], short[i], err = k.sampleNode(ctx, within.Done(), t, n); len(uses[i].sessions) > 0 {
			cancel()
		}
		return err
	})
	if err != nil {
		return 0, "", err
	}
	// The last look is a whole one: it counts what there is at all nodes, and finds what InUse finds.
	for i, u := range uses {
		if len(u.sessions) > 0 {
			continue
		}
		if uses[i], err = k.used(ctx, t, nodes[i]); err != nil {
			return 0, "", err
		}
	}
	count, what := t.tell(uses)
	for _, missed := range short {
		if count == 0 && missed != (kind.Unattributed{}) && t.old != t.next {
			return 0, what, missed
		}
	}
	return count, what, nil
}

// sampleNode polls a node until it sees a session or end is closed. It does not cancel a running command: that would
// cost a login. It also counts the logins, by INFO commandstats, that no poll has seen; short is zero where there are none.
func (k *Kind) sampleNode(ctx context.Context, end <-chan struct{}, t turn, n node) (u use, short kind.Unattributed, err error) {
	period := firstPeriod
	if t.old == t.next { // nothing but replicas can be seen, and these stay
		period = slowPeriod
	}
	before, err := k.spent(ctx, t.Connection, n.addr)
	if err != nil {
		return use{}, short, err
	}
	clients := newcomers{}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for taken := 1; ; taken++ {
		u, err := k.usedAmong(ctx, t, n, clients.look(taken == 1))
		if err != nil || len(u.sessions) > 0 {
			return u, short, err
		}
		if taken == firstSamples && period == firstPeriod {
			after, err := k.spent(ctx, t.Connection, n.addr)
			if err != nil {
				return u, short, err
			}
			period = periodFor(before, after)
			ticker.Reset(period)
		}
		select {
		case <-end:
			after, err := k.spent(context.WithoutCancel(ctx), t.Connection, n.addr)
			if err != nil {
				return u, short, err
			}
			return u, clients.short(n.addr, before, after, taken), ctx.Err()
		case <-ticker.C:
		}
	}
}

// newcomers are the clients that have come since the first look, by id, and how many commands each has taken to log in.
type newcomers map[string]newcomer

// newcomer is a client that has come, or was there before.
type newcomer struct {
	logins int
	last   bool // that is all that counts of it
}

// maxNewcomers bounds what a sample remembers of a server.
const maxNewcomers = 500_000

// look takes the clients of a look.
func (c newcomers) look(first bool) func(listed) {
	return func(one listed) {
		known, ok := c[one.id]
		if known.last && !one.own || !ok && len(c) >= maxNewcomers { // beyond that, logins count as not seen
			return
		}
		switch {
		case first, one.own: // it was here before, or is counted when it logs in: it may be gone before a look
			c[one.id] = newcomer{last: true}
		case one.loggedIn():
			c[one.id] = newcomer{1, true}
		default: // it may log in yet
			c[one.id] = newcomer{}
		}
	}
}

// loggedIn reports whether a client must have sent an AUTH or a HELLO that the server counts. A client without a login is listed as
// the default user, with whichever command it has tried last: a command that was refused proves nothing. The server's own client,
// its link to its master, has no user. One that has done nothing since its AUTH may be ours, which has its name after it.
func (l listed) loggedIn() bool {
	return l.user != defaultUser && l.user != noUser && l.command != "auth" || l.hello
}

// short returns the logins at a node between two counts that are of none of the newcomers, or why they are not known. There were
// so many looks between the counts.
func (c newcomers) short(addr string, before, after spending, looks int) kind.Unattributed {
	uncounted := cmp.Or(before.fault, after.fault)
	switch {
	case uncounted != "":
	case after.calls == 0:
		uncounted = "INFO commandstats does not count commands"
	case after.calls < before.calls+uint64(looks) || after.logins < before.logins: //nolint:gosec // looks are not negative
		uncounted = "INFO commandstats was reset, by a restart or CONFIG RESETSTAT"
	}
	if uncounted != "" {
		return kind.Unattributed{At: addr, Uncounted: uncounted}
	}
	if n := c.unseen(before, after); n > 0 {
		return kind.Unattributed{Logins: n, At: addr}
	}
	return kind.Unattributed{}
}

// unseen is how many logins there were between two counts that are of none of the newcomers.
func (c newcomers) unseen(before, after spending) int {
	left := int(min(after.logins-before.logins, 1<<20))
	if after.surely > before.perhaps { // one that the count before may include is not subtracted
		left -= int(min(after.surely-before.perhaps, 1<<20))
	}
	for _, one := range c {
		left -= one.logins
	}
	return max(left, 0)
}

// cannotCount says why short logins at a node cannot be counted, and what that means for rotations; empty: they can.
func (k *Kind) cannotCount(ctx context.Context, c kind.Connection, addr string) (string, error) {
	before, err := k.spent(ctx, c, addr)
	if err != nil {
		return "", err
	}
	looks := 1
	if _, err := k.do(ctx, c, addr, "CLIENT", "LIST", "TYPE", "pubsub"); answered(err) { // a refused command is not counted
		looks = 0
	} else if err != nil {
		return "", err
	}
	after, err := k.spent(ctx, c, addr)
	if err != nil {
		return "", err
	}
	missed := newcomers{}.short(addr, before, after, looks)
	if missed.Uncounted == "" { // logins meanwhile are nobody's concern
		return "", nil
	}
	return fmt.Sprintf("%v; so each rotation samples the node for six times observe=, at most a minute, before it locks the old user", missed), nil
}

// spending is how often a node has run CLIENT LIST, and for how long; and how often somebody has logged in. Of these logins at
// least surely were our own, and at most perhaps.
type spending struct {
	calls, micros, logins uint64
	surely, perhaps       uint64
	fault                 string // why it is not known; empty: it is
}

// spent asks a node for its spending.
func (k *Kind) spent(ctx context.Context, c kind.Connection, addr string) (spending, error) {
	surely := entered.at(addr).answered
	reply, err := k.do(ctx, c, addr, "INFO", "commandstats")
	if err != nil && !answered(err) {
		return spending{}, err
	}
	text, _ := reply.(string)
	if strings.Count(text, "\n") > maxLines {
		return spending{}, fault{fmt.Sprintf("node %s answers to INFO with more than %d lines; is it another server?", addr, maxLines), nil}
	}
	s := readSpending(text)
	if err != nil {
		s.fault = err.Error()
	}
	ours := entered.at(addr)
	s.surely, s.perhaps = surely, ours.answered+ours.underWay
	return s, nil
}

func readSpending(text string) (s spending) {
	info := readInfo(text)
	stats, ok := info["cmdstat_client|list"]
	if !ok { // before Redis 7 all of CLIENT is one
		stats = info["cmdstat_client"]
	}
	for _, command := range []string{"cmdstat_auth", "cmdstat_hello"} {
		_, calls, _ := strings.Cut(info[command], "calls=")
		calls, _, _ = strings.Cut(calls, ",")
		n, err := strconv.ParseUint(calls, 10, 64)
		if err == nil {
			s.logins += n
		}
	}
	for part := range strings.SplitSeq(stats, ",") {
		name, value, _ := strings.Cut(part, "=")
		n, err := strconv.ParseUint(value, 10, 64)
		switch {
		case err != nil:
		case name == "calls":
			s.calls = n
		case name == "usec":
			s.micros = n
		}
	}
	return s
}

// periodFor is the time between samples, from what those between two looks have cost.
func periodFor(before, after spending) time.Duration {
	if after.calls <= before.calls || after.micros < before.micros {
		return firstPeriod
	}
	cost := time.Duration(min((after.micros-before.micros)/(after.calls-before.calls), uint64(maxPeriod.Microseconds()))) * time.Microsecond //nolint:gosec // it is bounded
	return min(max((cost+cost/4+overhead)*share, leastPeriod), maxPeriod)
}

// InUse implements kind.Server: sessions of the old user at all nodes. Nodes that have joined are brought up to date first.
func (k *Kind) InUse(ctx context.Context, c kind.Change) (int, string, error) {
	t, nodes, err := k.watched(ctx, c)
	if err != nil || t.first {
		return 0, "", err
	}
	uses := make([]use, len(nodes))
	err = each(nodes, func(i int, n node) (err error) {
		uses[i], err = k.used(ctx, t, n)
		return err
	})
	if err != nil {
		return 0, "", err
	}
	count, what := t.tell(uses)
	return count, what, nil
}

// watched returns the nodes at which sessions of the old user count, brought up to date.
func (k *Kind) watched(ctx context.Context, c kind.Change) (turn, []node, error) {
	t, err := readTurn(c)
	if err != nil || t.first {
		return t, nil, err
	}
	nodes, err := k.discover(ctx, c.Connection)
	if err == nil {
		err = k.bring(ctx, t, nodes)
	}
	return t, nodes, err
}

// used returns the sessions at a node that count. With two passwords of one user these are replicas alone.
func (k *Kind) used(ctx context.Context, t turn, n node) (use, error) {
	return k.usedAmong(ctx, t, n, func(listed) {})
}

// usedAmong is used, and tells of every client that is logged in.
func (k *Kind) usedAmong(ctx context.Context, t turn, n node, each func(listed)) (use, error) {
	sessions, err := k.sessionsAmong(ctx, t.Connection, n, t.old, each)
	if t.old == t.next {
		sessions = slices.DeleteFunc(sessions, func(s session) bool { return !s.replica })
	}
	return use{n.addr, sessions}, err
}

// tell counts sessions, and says what they are or what cannot be seen.
func (t turn) tell(uses []use) (int, string) {
	count, what := tell(t.old, uses)
	// A replica keeps the password that it was started with, and would lose its master when that goes.
	if t.old == t.next && (count == 0 || !t.forward()) {
		return 0, fmt.Sprintf("both versions are passwords of user %s, whose sessions the server does not tell apart: leases and reports are the evidence", t.old)
	}
	return count, what
}

// session is a client of a node.
type session struct {
	addr, name string
	replica    bool // a replica's link to its master
}

// use is the sessions of a user at a node.
type use struct {
	addr     string
	sessions []session
}

// sessions are those of a user at a node but our own. A client without a login is listed as the default user, like one that has
// logged in as that. Where the default user has a password, those do not count that have sent no command. The others do: a command
// that was refused looks like one that was not.
func (k *Kind) sessions(ctx context.Context, c kind.Connection, n node, name string) ([]session, error) {
	return k.sessionsAmong(ctx, c, n, name, func(listed) {})
}

// maxClients is how many clients a node may list. Each line of the list has some 400 bytes, of which largeReply has as many.
const maxClients = 250_000

// noUser is in place of a user's name where a client has none.
const noUser = "(superuser)"

// listed is a client in a line of CLIENT LIST.
type listed struct {
	id, user string
	command  string // the last one
	hello    bool   // it speaks RESP 3, and so has sent a HELLO that was not refused
	own      bool   // it is ours
}

// sessionsAmong is sessions, and calls a function for each client.
func (k *Kind) sessionsAmong(ctx context.Context, c kind.Connection, n node, name string, each func(listed)) ([]session, error) {
	reply, err := k.do(ctx, c, n.addr, "CLIENT", "LIST")
	if err != nil {
		return nil, err
	}
	text, _ := reply.(string)
	if strings.Count(text, "\n") > maxClients {
		return nil, fault{fmt.Sprintf("node %s lists more than %d clients; is it another server?", n.addr, maxClients), nil}
	}
	silent := name != defaultUser // whether those count that have said nothing
	if !silent {
		as, err := k.user(ctx, c, n.addr, name)
		if err != nil {
			return nil, err
		}
		silent = as != nil && as.nopass
	}
	var all []session
	for line := range strings.Lines(text) {
		fields := map[string]string{}
		for _, part := range split(line) {
			field, value, _ := strings.Cut(part, "=")
			fields[field] = value
		}
		if _, ok := fields["user"]; !ok && len(fields) > 0 {
			return nil, fmt.Errorf("node %s does not say whose its sessions are: CLIENT LIST has no user=, as Redis %d and newer have", n.addr, oldest)
		}
		if id := fields["id"]; id != "" {
			each(listed{id, fields["user"], fields["cmd"], fields["resp"] == "3", fields["name"] == ownName})
		}
		if fields["user"] != name || fields["name"] == ownName {
			continue
		}
		if fields["cmd"] == "NULL" && !silent {
			continue
		}
		all = append(all, session{fields["addr"], fields["name"], strings.Contains(fields["flags"], "S")})
	}
	return all, nil
}

// tell counts sessions, and says what they are.
func tell(user string, uses []use) (count int, what string) {
	var parts []string
	named, replicas := 0, 0
	for _, u := range uses {
		var names []string
		for _, s := range u.sessions {
			if s.replica {
				replicas++
			}
			if named++; named > login.FewSessions {
				continue
			}
			text := kind.Line(s.addr, login.MaxSessionWord)
			switch {
			case s.replica:
				text += " (a replica)"
			case s.name != "":
				text += " (" + kind.Line(s.name, login.MaxSessionWord) + ")"
			}
			names = append(names, text)
		}
		count += len(u.sessions)
		if len(u.sessions) > 0 {
			part := fmt.Sprintf("%d of user %s at %s", len(u.sessions), user, u.addr)
			if len(names) > 0 {
				part += ": " + strings.Join(names, ", ")
			}
			parts = append(parts, part)
		}
	}
	if count == 0 {
		return 0, ""
	}
	what = "clients: " + strings.Join(parts, "; ")
	if count > login.FewSessions {
		what += fmt.Sprintf(", and %d more", count-login.FewSessions)
	}
	if replicas > 0 {
		what += fmt.Sprintf("; %d of them replicate as this user: give replicas one of their own, with masteruser and masterauth", replicas)
	}
	return count, what
}
