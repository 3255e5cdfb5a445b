// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

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
			latest += fmt.Sprintf(", %s ago", time.Duration(min(seconds, within.Seconds())*float64(time.Second)).Round(time.Second))
		}
	}
	return count, latest
}
