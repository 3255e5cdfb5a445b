// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

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
	hello    bool // it speaks RESP 3, and so has sent a HELLO that was not refused
	own      bool // it is ours
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
			each(listed{id, fields["user"], fields["resp"] == "3", fields["name"] == ownName})
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
			text := kind.Line(s.addr, login.MostWord)
			switch {
			case s.replica:
				text += " (a replica)"
			case s.name != "":
				text += " (" + kind.Line(s.name, login.MostWord) + ")"
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
