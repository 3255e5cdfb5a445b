// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// pool is what the consoles of PgBouncers say of a user.
type pool struct {
	clients int // that have logged in as the user
	// servers are the connections that PgBouncer has open as the user, to whatever server: its ends of them.
	servers map[serverEnd]bool
	// sockets is how many of them go through a socket of its machine, by the server's port. PgBouncer does not say which they are.
	sockets map[int]int
}

// serverEnd is one of PgBouncer's connections as the server knows it, too: the process that serves it, and the port from which
// PgBouncer has made it. One of both alone may be the same at another server.
type serverEnd struct{ pid, port int }

// strip returns the sessions that are not PgBouncer's.
func (p pool) strip(u use) use {
	var left use
	for _, s := range u {
		switch {
		case s.clientPort < 0 && p.sockets[s.serverPort] > 0:
			p.sockets[s.serverPort]--
		case !p.servers[serverEnd{s.pid, s.clientPort}]:
			left = append(left, s)
		}
	}
	return left
}

// also adds what was seen at another moment, of which at most the larger number was there at once.
func (p *pool) also(o pool) {
	p.clients = max(p.clients, o.clients)
	maps.Copy(p.servers, o.servers)
	for port, n := range o.sockets {
		p.sockets[port] = max(p.sockets[port], n)
	}
}

// pooled asks all consoles for a user, once or again and again for d; then it returns the most that each has said.
func (k *Kind) pooled(ctx context.Context, c kind.Connection, user string, d time.Duration) (pool, error) {
	sum := pool{servers: map[serverEnd]bool{}, sockets: map[int]int{}}
	for _, text := range strings.Fields(c.Options[fieldBouncers]) {
		u, err := dsn.Postgres(text)
		if err != nil {
			return sum, err
		}
		at := console(u)
		most := pool{servers: sum.servers, sockets: map[int]int{}}
		err = k.login(ctx, c, at, u.User, c.Secrets[fieldConsole], func(conn *pgx.Conn) error {
			for begun := now(); ; {
				asked := now()
				now, err := askConsole(ctx, conn, user)
				if err != nil {
					return err
				}
				most.also(now)
				if time.Since(begun) >= d {
					return nil
				}
				rest := min(max(time.Duration(float64(time.Since(asked))/sampleShare), minPeriod), maxPeriod)
				if err := backoff.Wait(ctx, rest); err != nil {
					return err
				}
			}
		})
		if err != nil {
			return sum, err
		}
		sum.clients += most.clients
		for port, n := range most.sockets {
			sum.sockets[port] += n
		}
	}
	return sum, nil
}

func askConsole(ctx context.Context, conn *pgx.Conn, user string) (pool, error) {
	now := pool{servers: map[serverEnd]bool{}, sockets: map[int]int{}}
	err := eachOf(ctx, conn, "SHOW CLIENTS", user, nil, func([]string) { now.clients++ })
	if err != nil {
		return now, err
	}
	return now, eachOf(ctx, conn, "SHOW SERVERS", user, []string{"addr", "port", "local_port", "remote_pid"}, func(values []string) {
		var numbers [3]int
		for n, text := range values[1:] {
			numbers[n], _ = strconv.Atoi(text) // 0 is nobody's
		}
		if strings.HasPrefix(values[0], "unix") {
			now.sockets[numbers[0]]++
		} else {
			now.servers[serverEnd{pid: numbers[2], port: numbers[1]}] = true
		}
	})
}

// eachOf reads some columns of the rows of a console's answer whose column user is the one given. Its columns differ by release;
// one that is not there is empty.
func eachOf(ctx context.Context, conn *pgx.Conn, command, user string, columns []string, do func(values []string)) error {
	rows, err := conn.Query(ctx, command, pgx.QueryExecModeSimpleProtocol) // the only one that consoles understand
	if err != nil {
		return err
	}
	defer rows.Close()
	at := map[string]int{}
	for n, f := range rows.FieldDescriptions() {
		at[f.Name] = n
	}
	if _, ok := at["user"]; !ok {
		return fmt.Errorf("%s has no column user", command)
	}
	for rows.Next() {
		raw := rows.RawValues()
		if string(raw[at["user"]]) != user {
			continue
		}
		values := make([]string, len(columns))
		for n, column := range columns {
			if i, ok := at[column]; ok {
				values[n] = string(raw[i])
			}
		}
		do(values)
	}
	return rows.Err()
}
