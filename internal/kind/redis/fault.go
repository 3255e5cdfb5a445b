// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// fault is an error in our words. It keeps the cause for errors.Is and errors.As.
type fault struct {
	text  string
	cause error
}

func (f fault) Error() string { return f.text }
func (f fault) Unwrap() error { return f.cause }

// hash is a password's, which a server quotes when it complains of it.
var hash = regexp.MustCompile("[0-9a-f]{64}")

// answer is what a server said in the place of a reply, without hashes.
type answer string

var _ goredis.Error = answer("")

func (a answer) Error() string { return string(a) }
func (answer) RedisError()     {}

// noLogin is in the place of what a server said to a login that was neither yes nor no: it may quote what was sent.
const noLogin = answer("the login was not understood")

// plain says what is wrong with a command at a node.
func plain(err error, addr, user string, args []any) error {
	var ours fault
	var text string
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return err
	case goredis.IsAuthError(err):
		text = fmt.Sprintf("node %s refuses user %s: the password is wrong, or the user is off or not there", addr, user)
	case goredis.IsPermissionError(err):
		text = fmt.Sprintf("node %s: user %s may not run %s; %s", addr, user, command(args), grant(user, rule(args)))
	case errors.Is(err, noLogin):
		text = fmt.Sprintf("node %s does not take a login of user %s: it has no such users, or is no Redis server", addr, user)
	case answered(err):
		said := answer(kind.Line(hash.ReplaceAllString(err.Error(), "[hash]"), kind.MaxServerText))
		text, err = fmt.Sprintf("node %s says to %s: %s", addr, command(args), said), said
	case late(err) && errors.As(err, new(handshake)):
		text = fmt.Sprintf("node %s did not answer in time when TLS was to begin: a server without TLS does not; write redis:// for that", addr)
	case late(err):
		text = fmt.Sprintf("node %s did not answer in time", addr)
	case errors.Is(err, context.Canceled):
		text = fmt.Sprintf("node %s: the call was cancelled", addr)
	case closed(err) && errors.As(err, new(handshake)):
		text = fmt.Sprintf("node %s cannot be reached: it closed the connection when TLS was to begin; is it a Redis server with TLS?", addr)
	case closed(err):
		text = fmt.Sprintf("node %s cannot be reached: it closed the connection without an answer; is it a Redis server, and does it want TLS (rediss://)?", addr)
	case network(err):
		text = fmt.Sprintf("node %s cannot be reached: %v", addr, err)
	default: // the driver quotes what it does not understand
		text = fmt.Sprintf("node %s does not answer as Redis does; is it another server?", addr)
	}
	return fault{text, err}
}

// handshake is an error of the beginning of TLS.
type handshake struct{ error }

func (h handshake) Unwrap() error { return h.error }

// closed reports whether the other side has ended a connection without a word.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// network reports whether an error is in words of ours or of the system's, about connections and certificates.
func network(err error) bool {
	var failed net.Error
	var unsigned *tls.CertificateVerificationError
	var plaintext tls.RecordHeaderError
	return errors.As(err, &failed) || errors.As(err, &unsigned) || errors.As(err, &plaintext) || errors.Is(err, io.EOF) || errors.Is(err, goredis.ErrClosed)
}

// command is what was run, without its arguments.
func command(args []any) string { return strings.ToUpper(strings.ReplaceAll(rule(args)[1:], "|", " ")) }

// rule is the one of an ACL that allows a command.
func rule(args []any) string {
	name := fmt.Sprint(args[0])
	if len(args) > 1 && slices.Contains([]string{"ACL", "CLIENT", "CLUSTER", "CONFIG"}, name) {
		name += "|" + fmt.Sprint(args[1])
	}
	return "+" + strings.ToLower(name)
}

func grant(user string, rules ...string) string {
	return fmt.Sprintf("grant it with: ACL SETUSER %s %s", user, strings.Join(rules, " "))
}

// together is several faults as one.
func together(errs ...error) error {
	var texts []string
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	for _, err := range errs {
		if !slices.Contains(texts, err.Error()) {
			texts = append(texts, err.Error())
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fault{strings.Join(texts, "; "), errors.Join(errs...)}
}

// each does something with all at the same time, with every one whatever becomes of the others.
func each[T any](all []T, do func(i int, one T) error) error {
	errs := make([]error, len(all))
	var busy sync.WaitGroup
	for i, one := range all {
		busy.Go(func() { errs[i] = do(i, one) })
	}
	busy.Wait()
	return together(errs...)
}

// Refusals implements kind.RefusalReporter by ACL LOG, of which a node keeps the last entries (acllog-max-len) until it is
// started again. With two passwords of one user a node does not tell which of them was tried.
func (k *Kind) Refusals(ctx context.Context, c kind.Change, login string, within time.Duration) (int, string, error) {
	c.From = key.Version{}
	t, err := readTurn(c)
	if err != nil || login == t.next {
		return 0, "", err
	}
	nodes, err := k.discover(ctx, c.Connection)
	if err != nil {
		return 0, "", err
	}
	counts, whats := make([]int, len(nodes)), make([]string, len(nodes))
	err = each(nodes, func(i int, n node) error {
		reply, err := k.do(ctx, c.Connection, n.addr, "ACL", "LOG")
		if err != nil {
			return err
		}
		entries, _ := reply.([]any)
		counts[i], whats[i] = refused(entries, login, within)
		if counts[i] > 0 {
			whats[i] = fmt.Sprintf("%d by user %s at %s, %s", counts[i], login, n.addr, whats[i])
		}
		return nil
	})
	if err != nil {
		return 0, "", err
	}
	count := 0
	var parts []string
	for i, n := range counts {
		if count += n; n > 0 {
			parts = append(parts, whats[i])
		}
	}
	return count, strings.Join(parts, "; "), nil
}

// refused reads the entries of ACL LOG, the latest one first: how many logins of a user it has refused within that time, and
// the latest.
func refused(entries []any, user string, within time.Duration) (count int, latest string) {
	for _, entry := range entries {
		fields := table(entry)
		if fields["reason"] != "auth" || fields["username"] != user {
			continue
		}
		text, _ := fields["age-seconds"].(string)
		seconds, err := strconv.ParseFloat(text, 64)
		if err == nil && seconds > within.Seconds() {
			continue // of the time when it was valid still
		}
		n, _ := fields["count"].(int64)
		if count += int(max(n, 1)); latest != "" {
			continue
		}
		addr := "somewhere"
		client, _ := fields["client-info"].(string)
		for _, part := range split(client) {
			if at, ok := strings.CutPrefix(part, "addr="); ok {
				addr = at
				break
			}
		}
		latest = fmt.Sprintf("the latest from %.80q", addr)
		if err == nil && seconds >= 0 {
			latest += fmt.Sprintf(", %s ago", duration.Text(time.Duration(min(seconds, within.Seconds())*float64(time.Second)).Round(time.Second)))
		}
	}
	return count, latest
}
