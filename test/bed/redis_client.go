// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// redisPatience is how long a server may take to answer; one that stands still never does.
const redisPatience = 5 * time.Second

// RedisError is what a server answered instead of a reply.
type RedisError string

func (e RedisError) Error() string { return string(e) }

// Do runs a command as the administrator, over a connection of its own. A list comes back as lines.
func (r *Redis) Do(ctx context.Context, args ...string) (string, error) {
	return r.DoAs(ctx, redisAdmin, r.AdminPassword, args...)
}

// DoAs runs a command as another user.
func (r *Redis) DoAs(ctx context.Context, user, password string, args ...string) (string, error) {
	c, err := r.dial(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close() //nolint:errcheck // nothing is pending
	if _, err := c.do("AUTH", user, password); err != nil {
		return "", fmt.Errorf("logging in to redis as %s: %w", user, err)
	}
	reply, err := c.do(args...)
	if err != nil {
		return "", fmt.Errorf("redis: %s: %w", args[0], err)
	}
	return reply, nil
}

// serving reports whether the server answers, whatever the passwords are by now.
func (r *Redis) serving(ctx context.Context) error {
	c, err := r.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // nothing is pending
	_, err = c.do("PING")
	var answer RedisError
	if errors.As(err, &answer) && strings.HasPrefix(string(answer), "NOAUTH") {
		return nil
	}
	return err
}

type redisConn struct {
	net.Conn
	reader *bufio.Reader
}

func (r *Redis) dial(ctx context.Context) (*redisConn, error) {
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	var conn net.Conn
	var err error
	if r.authority != nil {
		conn, err = (&tls.Dialer{Config: r.authority.TLS()}).DialContext(ctx, "tcp", r.Addr)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", r.Addr)
	}
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	return &redisConn{conn, bufio.NewReader(conn)}, conn.SetDeadline(deadline)
}

func (c *redisConn) do(args ...string) (string, error) {
	var request strings.Builder
	fmt.Fprintf(&request, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(c, request.String()); err != nil {
		return "", err
	}
	return c.reply()
}

// reply reads one, of RESP 2.
func (c *redisConn) reply() (string, error) {
	line, err := c.reader.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("redis said an empty line")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", RedisError(rest)
	}
	n, err := strconv.Atoi(rest)
	if err != nil || kind != '$' && kind != '*' {
		return "", fmt.Errorf("redis said %q, which is no reply", line)
	}
	if kind == '*' {
		var items []string
		for range n {
			item, err := c.reply()
			if err != nil {
				return "", err
			}
			items = append(items, item)
		}
		return strings.Join(items, "\n"), nil
	}
	if n < 0 {
		return "", nil
	}
	text := make([]byte, n+len("\r\n"))
	if _, err := io.ReadFull(c.reader, text); err != nil {
		return "", err
	}
	return string(text[:n]), nil
}
