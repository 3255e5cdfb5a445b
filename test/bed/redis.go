// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const stopPatience = 10 * time.Second

// redisAdmin is the user that tests and the bed administer a server by. It may do everything, as default may.
const redisAdmin = "admin"

// RedisUsers says where a server keeps its users, and so how a change to them is made to outlive a restart.
type RedisUsers int

// Places of users.
const (
	UsersInConfig  RedisUsers = iota // in the configuration file: CONFIG REWRITE
	UsersInACLFile                   // in a file of their own: ACL SAVE
	UsersInMemory                    // nowhere: the configuration came by standard input, and neither works
)

// RedisOptions say how a server is started.
type RedisOptions struct {
	Users    RedisUsers
	TLS      bool              // and nothing else; clients need no certificate
	Settings map[string]string // further ones of redis.conf, which win
}

// Redis is a private Redis server without persistence of data.
type Redis struct {
	Addr          string
	URL           string // with the password of the default user
	AdminPassword string // of the user admin; a test that changes it sets it here, too
	ConfigPath    string // the configuration file, where there is one
	ACLPath       string // the file of users, where there is one
	LogPath       string

	password  string // of the user default, at first
	options   RedisOptions
	authority *Authority // where it speaks TLS
	bed       *Bed
	spec      spec
	process   *process
}

// Redis starts a server whose users are in its configuration file.
func (b *Bed) Redis(ctx context.Context) (*Redis, error) { return b.RedisWith(ctx, RedisOptions{}) }

// RedisWith starts a server.
func (b *Bed) RedisWith(ctx context.Context, o RedisOptions) (*Redis, error) {
	r, err := b.newRedis(o, randomHex(16), randomHex(16), nil)
	if err != nil {
		return nil, err
	}
	return r, r.Start(ctx)
}

// newRedis makes a server that has yet to be started, with lines of configuration of its own.
func (b *Bed) newRedis(o RedisOptions, password, admin string, lines []string) (*Redis, error) {
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
	r := &Redis{
		Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), password: password, AdminPassword: admin, options: o, bed: b,
		spec: spec{
			name: "redis-" + strconv.Itoa(port), path: path, dir: dir,
			stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
		},
	}
	listen := []string{fmt.Sprintf("port %d", port)}
	if o.TLS {
		if listen, err = r.secure(port); err != nil {
			return nil, err
		}
	}
	r.URL = r.UserURL("", password)
	lines = slices.Concat([]string{
		"bind 127.0.0.1", `save ""`, "appendonly no", "dir " + dir,
		"repl-diskless-sync-delay 0", // by default a replica waits five seconds for others to come
	}, listen, lines)
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		lines = append(lines, name+" "+o.Settings[name])
	}
	return r, r.configure(lines)
}

// secure makes a certificate for the server, and returns the lines of its configuration.
func (r *Redis) secure(port int) ([]string, error) {
	var err error
	if r.authority, err = r.bed.Authority(); err != nil {
		return nil, err
	}
	cert, err := r.authority.server("redis", nil)
	return []string{
		"port 0", fmt.Sprintf("tls-port %d", port), "tls-cert-file " + cert.CertFile, "tls-key-file " + cert.KeyFile,
		"tls-ca-cert-file " + r.authority.File, "tls-auth-clients no", "tls-replication yes", "tls-cluster yes",
	}, err
}

// configure puts configuration and users to where the server is to look for them.
func (r *Redis) configure(lines []string) error {
	users := []string{aclLine("default", r.password), aclLine(redisAdmin, r.AdminPassword)}
	if r.options.Users == UsersInACLFile {
		r.ACLPath = filepath.Join(r.spec.dir, "users.acl")
		lines = append(lines, "aclfile "+r.ACLPath)
		if err := os.WriteFile(r.ACLPath, []byte(strings.Join(users, "\n")+"\n"), 0o600); err != nil {
			return err
		}
	} else {
		lines = append(lines, users...)
	}
	text := strings.Join(lines, "\n") + "\n"
	if r.options.Users == UsersInMemory {
		r.spec.args, r.spec.stdin = []string{"-"}, text
		return nil
	}
	r.ConfigPath = filepath.Join(r.spec.dir, "redis.conf")
	r.spec.args = []string{r.ConfigPath}
	return os.WriteFile(r.ConfigPath, []byte(text), 0o600)
}

func aclLine(user, password string) string {
	return fmt.Sprintf("user %s on #%x ~* &* +@all", user, sha256.Sum256([]byte(password)))
}

// Start starts the server, again after Stop or Kill on the same port, with what is in its files.
func (r *Redis) Start(ctx context.Context) error {
	r.bed.say("starting Redis on %s", r.Addr)
	var err error
	if r.process, err = r.bed.start(r.spec); err != nil {
		return err
	}
	r.LogPath = r.process.log
	return r.process.await(ctx, r.serving)
}

// Stop ends the server.
func (r *Redis) Stop() error { return r.process.stop(stopPatience) }

// Kill ends the server as a crash would.
func (r *Redis) Kill() { r.process.kill() }

// Pause makes the server stand still, as a partition would make it seem: it accepts connections and never answers.
func (r *Redis) Pause() error { return r.process.pause() }

// Resume lets it go on.
func (r *Redis) Resume() error { return r.process.resume() }

// AdminURL is the administrator's URL.
func (r *Redis) AdminURL() string { return r.UserURL(redisAdmin, r.AdminPassword) }

// UserURL is a user's URL. What it is to trust where it is a rediss one, Bed.Authority says.
func (r *Redis) UserURL(user, password string) string {
	u := url.URL{Scheme: "redis", User: url.UserPassword(user, password), Host: r.Addr}
	if r.authority != nil {
		u.Scheme = "rediss"
	}
	return u.String()
}

// Replica starts a server that replicates this one as the administrator: its masteruser and masterauth say so. It has
// the same options, and users of its own, which are at first those of this one at its first start.
func (r *Redis) Replica(ctx context.Context) (*Redis, error) {
	host, port, err := net.SplitHostPort(r.Addr)
	if err != nil {
		return nil, err
	}
	replica, err := r.bed.newRedis(r.options, r.password, r.AdminPassword, append(r.login(), "replicaof "+host+" "+port))
	if err != nil {
		return nil, err
	}
	if err := replica.Start(ctx); err != nil {
		return nil, err
	}
	return replica, replica.AwaitLink(ctx)
}

// login is how a server of the same users logs in to this one.
func (r *Redis) login() []string {
	return []string{"masteruser " + redisAdmin, "masterauth " + r.AdminPassword}
}

// AwaitLink waits until a replica follows its master.
func (r *Redis) AwaitLink(ctx context.Context) error {
	return until(ctx, "the replica's link to its master", func(ctx context.Context) error {
		info, err := r.Do(ctx, "INFO", "replication")
		if err == nil && !strings.Contains(info, "master_link_status:up") {
			err = errors.New("it is down")
		}
		return err
	})
}

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
