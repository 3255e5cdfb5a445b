// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Refusals implements kind.RefusalReporter by ACL LOG, of which a node keeps the last entries (acllog-max-len) until it is
// started again. With two passwords of one user a node does not tell which of them was tried.
func (k *Kind) Refusals(ctx context.Context, c kind.Change) (int, string, error) {
	t, err := read(c)
	if err != nil || t.first || t.old == t.next {
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
		counts[i], whats[i] = refused(entries, t.old)
		if counts[i] > 0 {
			whats[i] = fmt.Sprintf("%d of user %s at %s: %s", counts[i], t.old, n.addr, whats[i])
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

// refused reads the entries of ACL LOG, the latest one first: how many logins of a user it has refused, and the latest.
func refused(entries []any, user string) (count int, latest string) {
	for _, entry := range entries {
		fields := table(entry)
		if fields["reason"] != "auth" || fields["username"] != user {
			continue
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
		age, _ := fields["age-seconds"].(string)
		latest = fmt.Sprintf("the latest from %.80q, %.12s s ago", addr, age)
	}
	return count, latest
}
