// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// endingLeaked stores that a compromised rotation is about to end undeleted logins, before a server is asked to. If the server fails
// or the process dies, no check makes them valid again, and the end is tried again by itself.
func (l *locked) endingLeaked(ctx context.Context, r rotation.Rotation) error {
	return l.eachLeaked(r, func(k key.Key, v key.Version) error {
		if v.Ending && v.Cut {
			return nil
		}
		changed, err := k.WithEnding(v.Number, true)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("retiring version %d of %s, which is undeleted, with its sessions: rotation %s is of a compromised key", v.Number, k.Name, r.ID)
		return l.storeVersion(ctx, changed, v, what, rotation.Itself, "")
	})
}

// endLeaked stores that a compromised rotation has ended undeleted logins.
func (l *locked) endLeaked(ctx context.Context, r rotation.Rotation) error {
	return l.eachLeaked(r, func(k key.Key, v key.Version) error {
		return l.storeLeakedEnd(ctx, r, ending{versionID: versionID{k.Name, v.Number}, by: rotation.Itself})
	})
}

// eachLeaked calls do for each undeleted version that a compromised rotation ends at the server, while the rotation is at that step.
func (l *locked) eachLeaked(r rotation.Rotation, do func(key.Key, key.Version) error) error {
	if r.Action() != rotation.ActRetire {
		return nil
	}
	for _, name := range r.KeyNames() {
		for _, number := range l.Leaked(r, l.Keys[name]) {
			v, _ := l.Keys[name].Version(number)
			if err := do(l.Keys[name], v); err != nil {
				return err
			}
		}
	}
	return nil
}

// leakedBy returns the rotation of a compromised key that ends the undeleted logins of the key and cannot be reverted any more.
func (rs *records) leakedBy(k key.Key) (r rotation.Rotation, ok bool) {
	r, ok = rs.active[rs.rotating[k.Name]]
	return r, ok && r.State == rotation.Retiring && len(rs.Leaked(r, k)) > 0
}

// storeLeakedEnd stores that an undeleted login of a compromised key has ended. Its value is not retained: it must never log in again.
func (l *locked) storeLeakedEnd(ctx context.Context, r rotation.Rotation, n ending) error {
	k := l.Keys[n.key]
	v, _ := k.Version(n.number)
	login, _ := l.LoginOf(k, v.Value)
	changed, err := k.WithErased(n.number)
	if err != nil {
		return err
	}
	changed = changed.WithLogin(n.number, login.Name, l.Now().UTC())
	what := fmt.Sprintf("retired version %d of %s, which was undeleted, with its sessions at the server, and erased it: rotation %s is of a compromised key", n.number, n.key, r.ID)
	return l.storeVersion(ctx, changed, v, what, n.by, n.reason, n.changes()...)
}
