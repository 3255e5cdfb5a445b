// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const stopPatience = 10 * time.Second

// Redis is a private Redis server without persistence.
type Redis struct {
	Addr    string
	URL     string // with the password of the default user
	LogPath string
	process *process
}

// Redis starts a server.
func (b *Bed) Redis(ctx context.Context) (*Redis, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not installed; run scripts/setup (make test and make demo do)")
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.Dir, "redis-")
	if err != nil {
		return nil, err
	}
	password := randomHex(16)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	config := fmt.Sprintf("bind 127.0.0.1\nport %d\nsave \"\"\nappendonly no\nrequirepass %s\ndir %s\n", port, password, dir)
	if err := os.WriteFile(dir+"/redis.conf", []byte(config), 0o600); err != nil {
		return nil, err
	}
	b.say("starting Redis on %s", addr)
	r := &Redis{Addr: addr, URL: "redis://:" + password + "@" + addr}
	r.process, err = b.start(spec{
		name: "redis-" + strconv.Itoa(port), path: path, args: []string{dir + "/redis.conf"}, dir: dir,
		stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
	})
	if err != nil {
		return nil, err
	}
	r.LogPath = r.process.log
	return r, r.process.await(ctx, func(ctx context.Context) error { return ping(ctx, addr, password) })
}

// ping logs in and asks for a sign of life.
func ping(ctx context.Context, addr, password string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is pending
	if _, err := fmt.Fprintf(conn, "AUTH %s\r\nPING\r\n", password); err != nil {
		return err
	}
	reader := bufio.NewReader(conn)
	for _, want := range []string{"+OK", "+PONG"} {
		line, err := reader.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.TrimSpace(line) != want {
			return fmt.Errorf("redis said %q, not %q", strings.TrimSpace(line), want)
		}
	}
	return nil
}

// Stop ends the server.
func (r *Redis) Stop() error { return r.process.stop(stopPatience) }
