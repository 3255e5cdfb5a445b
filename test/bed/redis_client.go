// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// redisPatience is how long a server may take to answer; one that stands still never does.
const redisPatience = 5 * time.Second

// Do runs a command as the administrator, over a connection of its own. A list comes back as lines.
func (r *Redis) Do(ctx context.Context, args ...string) (string, error) {
	return r.DoAs(ctx, redisAdmin, r.AdminPassword, args...)
}

// DoAs runs a command as another user. What a server answers instead of a reply is a [goredis.Error].
func (r *Redis) DoAs(ctx context.Context, user, password string, args ...string) (string, error) {
	c, end := r.connect()
	defer end()
	if err := c.Do(ctx, "AUTH", user, password).Err(); err != nil {
		return "", fmt.Errorf("logging in to redis as %s: %w", user, err)
	}
	command := make([]any, len(args))
	for i, arg := range args {
		command[i] = arg
	}
	reply, err := c.Do(ctx, command...).Result()
	if err != nil && !errors.Is(err, goredis.Nil) {
		return "", fmt.Errorf("redis: %s: %w", args[0], err)
	}
	return lines(reply), nil
}

// lines returns a reply of any shape as text.
func lines(reply any) string {
	switch reply := reply.(type) {
	case nil:
		return ""
	case []any:
		items := make([]string, len(reply))
		for i, item := range reply {
			items[i] = lines(item)
		}
		return strings.Join(items, "\n")
	}
	return fmt.Sprint(reply)
}

// serving reports by its error whether the server answers, whatever the passwords are by now.
func (r *Redis) serving(ctx context.Context) error {
	c, end := r.connect()
	defer end()
	err := c.Ping(ctx).Err()
	if goredis.IsAuthError(err) {
		return nil
	}
	return err
}

// connect returns a connection on which nobody has logged in. It tries once, and sends nothing of its own but HELLO.
func (r *Redis) connect() (c *goredis.Conn, end func()) {
	o := &goredis.Options{
		Addr: r.Addr, Protocol: 2, PoolSize: 1, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		DialTimeout: redisPatience, ReadTimeout: redisPatience, WriteTimeout: redisPatience, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if r.authority != nil {
		o.TLSConfig = r.authority.TLS()
	}
	client := goredis.NewClient(o)
	c = client.Conn()
	return c, func() {
		_ = c.Close()
		_ = client.Close()
	}
}
