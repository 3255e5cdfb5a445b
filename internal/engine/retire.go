// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// ending is the end of an undeleted version, as it was asked for.
type ending struct {
	versionID
	force  bool // although it is in use; its sessions are ended
	by     rotation.Actor
	reason string
}

// RetireVersion ends an undeleted version before its time: it goes back into quarantine. With force it ends although it is
// in use; sessions of it are ended. A rotation has nothing to do with the login of an undeleted version: it ends beside one.
func (e *Engine) RetireVersion(ctx context.Context, name string, number int, force bool, reason string, by rotation.Actor) error {
	if err := CheckReason(reason); err != nil {
		return err
	}
	var call serverEnd
	err := e.update(func(l *locked) (err error) {
		call, err = l.retiring(ctx, ending{versionID{name, number}, force, by, reason})
		return err
	})
	if err != nil || call == nil {
		return err
	}
	defer e.nudge()
	return call(ctx, e)
}

// serverEnd ends an undeleted login at its server, and stores that.
type serverEnd func(context.Context, *Engine) error

// retiring ends an undeleted version. Where its server has to end it first, it returns the call that does so.
func (l *locked) retiring(ctx context.Context, n ending) (serverEnd, error) {
	server, served := l.KindOf(l.Keys[n.key]).(kind.Server)
	find := l.restingVersion
	if served {
		find = l.idleVersion
	}
	k, v, err := find(n.key, n.number)
	if err != nil {
		return nil, err
	}
	if v.State != key.Undeleted {
		return nil, rotation.Refusef("key %s: version %d is %s, and not undeleted: there is nothing to end; %s", n.key, n.number, v.State, catalog.RetainedText(k))
	}
	if len(k.Protects) > 0 && !n.force {
		return nil, rotation.Refusef("key %s protects rows, and some may be under version %d: a rotation retires it once no row needs it: vault write hyvve/rotate key=%s; or, if the rows may be unreadable: force=true", n.key, n.number, n.key)
	}
	if text := l.stillUsed(k, v); text != "" && !n.force {
		return nil, rotation.Refusef("key %s: version %d is in use: %s; %s", n.key, n.number, text, n.hint())
	}
	if !served {
		return nil, l.storeEnd(ctx, n)
	}
	call, err := l.endAtServer(server, k, v, n)
	if err != nil {
		return nil, rotation.Refusef("key %s: %w", n.key, err)
	}
	return func(ctx context.Context, e *Engine) error {
		err := call(ctx, e)
		switch {
		case err == nil || e.failing():
			return err
		case errors.As(err, new(inUse)):
			return rotation.Refusef("key %s: version %d is still undeleted: %w; %s", n.key, n.number, err, n.hint())
		case e.lapseFailed(n.versionID, err):
			return rotation.Refusef("key %s: version %d is to end, and its server has not ended it yet: %w; that is tried again by itself; to let the version in again: vault write hyvve/keys/%s/undelete version=%d", n.key, n.number, err, n.key, n.number)
		}
		return rotation.Refusef("key %s: version %d is still undeleted: %w; when that is mended, do the same again", n.key, n.number, err)
	}, nil
}

// hint is the way on where an undeleted version is in use.
func (n ending) hint() string {
	return fmt.Sprintf("let that client use the current version, and do the same again; or end it all the same, with its sessions: vault write hyvve/keys/%s/retire version=%d force=true", n.key, n.number)
}

// endAtServer marks a key as being looked at, and returns the call that ends an undeleted login and takes the mark away. What is
// about to be done is stored before the server hears of it: after a crash no check makes the login valid again, and the end
// follows by itself.
func (l *locked) endAtServer(server kind.Server, k key.Key, v key.Version, n ending) (serverEnd, error) {
	change := kind.Change{Key: k, From: v, Cut: l.cuts(n), Kept: k.Kept}
	change.To, _ = l.validAtServer(k)
	var err error
	if change.Connection, err = l.ConnectionOf(k); err != nil {
		return nil, err
	}
	long := min(l.Defaults.Effective(k.Policy).Observe, rotation.DenseTime)
	l.lock(func(m *memory) { m.restoring[n.key] = true })
	return func(ctx context.Context, e *Engine) error {
		defer e.lock(func(m *memory) { delete(m.restoring, n.key) })
		at, cancel := context.WithTimeout(ctx, actionDeadline)
		defer cancel()
		if !change.Cut {
			if err := unusedStill(at, server, change, long); err != nil {
				return err
			}
		}
		for stored := false; !stored; {
			err := e.update(func(l *locked) (err error) {
				change.Cut, err = l.storeEnding(ctx, n)
				return err
			})
			if err != nil {
				return err
			}
			if err := untrusted.Retire(at, server, change); err != nil {
				return err
			}
			err = e.update(func(l *locked) error {
				if l.cuts(n) && !change.Cut {
					return nil // meanwhile, a compromised rotation of the key has begun to retire: the login ends again, with its sessions
				}
				stored = true
				return l.storeEnd(ctx, n)
			})
			if err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// cuts reports whether the end of an undeleted version ends its sessions, too: by force, or since its key is compromised.
func (l *locked) cuts(n ending) bool {
	k := l.Keys[n.key]
	v, _ := k.Version(n.number)
	_, leaked := l.leakedBy(k)
	return n.force || v.Cut || leaked
}

// storeEnding stores that the end of an undeleted version was decided, and returns whether its sessions are ended, too.
func (l *locked) storeEnding(ctx context.Context, n ending) (cut bool, err error) {
	k, cut := l.Keys[n.key], l.cuts(n)
	v, ok := k.Version(n.number)
	switch {
	case !ok || v.State != key.Undeleted:
		return cut, rotation.Refusef("key %s: version %d is not undeleted any more", n.key, n.number)
	case v.Ending && v.Cut == cut:
		return cut, nil // by a call that was cut short
	}
	changed, err := k.WithEnding(n.number, cut)
	if err != nil {
		return cut, err
	}
	l.lapseLater(n.versionID, nil)
	what := fmt.Sprintf("retiring version %d of %s, which is undeleted", n.number, n.key)
	if cut {
		what += ", with its sessions"
	}
	if r, leaked := l.leakedBy(k); leaked {
		what += fmt.Sprintf(": rotation %s is of a compromised key", r.ID)
	}
	return cut, l.storeVersion(ctx, changed, v, what, n.by, n.reason, n.changes()...)
}

func (n ending) changes() []rotation.EntryChange {
	if !n.force {
		return nil
	}
	return []rotation.EntryChange{{Field: "force", To: "true"}}
}

// storeEnd stores that an undeleted version has ended. It is retained at least until its retention would have ended
// without the undeletion: who ends it may not be allowed to erase it.
func (l *locked) storeEnd(ctx context.Context, n ending) error {
	k := l.Keys[n.key]
	v, ok := k.Version(n.number)
	if !ok || v.State != key.Undeleted {
		return nil
	}
	if r, ok := l.leakedBy(k); ok {
		return l.storeLeakedEnd(ctx, r, n)
	}
	login, _ := l.LoginOf(k, v.Value)
	now := l.Now().UTC()
	changed, err := catalog.Retired(k, n.number, l.Defaults.RetainOf(k), now)
	if err == nil {
		changed, err = catalog.Uncrowded(changed, now)
	}
	if err != nil {
		return err
	}
	if login.Name != "" {
		changed = changed.WithLogin(n.number, login.Name, now)
	}
	what := fmt.Sprintf("retired version %d of %s, which was undeleted, and erased it", n.number, n.key)
	if end, _ := changed.Version(n.number); end.State == key.Retained {
		what = fmt.Sprintf("retired version %d of %s, which was undeleted; its value is retained until %s", n.number, n.key, rotation.Stamp(end.Until))
	}
	n.force = n.force || v.Cut
	if n.force {
		what += "; nobody was asked whether it was in use (force=true)"
		if _, ok := l.KindOf(k).(kind.Server); ok {
			what += ", and its sessions at the server were ended"
		}
	}
	return l.storeVersion(ctx, changed, v, what, n.by, n.reason, n.changes()...)
}

// endUndeleted retires an undeleted version whose time is over, or whose end was decided; later, if it is in use. The error is
// one of storage.
func (l *locked) endUndeleted(ctx context.Context, k key.Key, v key.Version) error {
	n := ending{versionID: versionID{k.Name, v.Number}, force: v.Cut, by: rotation.Itself}
	if _, acting := l.acting(k.Name); acting || l.beingChecked(k.Name) {
		l.lapseSoon(n.versionID)
		return nil
	}
	l.lapseLater(n.versionID, nil)
	if text := l.stillUsed(k, v); text != "" && !v.Cut {
		l.lapseLater(n.versionID, inUse{text})
		return nil
	}
	server, ok := l.KindOf(k).(kind.Server)
	if !ok {
		return l.storeEnd(ctx, n)
	}
	call, err := l.endAtServer(server, k, v, n)
	if err != nil {
		l.lapseLater(n.versionID, err)
		return nil
	}
	l.background(func(e *Engine) {
		defer e.nudge()
		err := call(e.ctx, e)
		switch {
		case err == nil || e.ctx.Err() != nil:
		case e.Stale():
			e.Observer.Fault(fmt.Sprintf("the end of version %d of key %s", n.number, n.key), err)
		default: // status says it
			e.lapseFailed(n.versionID, err)
		}
	})
	return nil
}

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

// storeLeakedEnd stores that an undeleted login of a compromised key has ended, with its sessions. Its value is not retained: it must never log in again.
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

// Undeletion asks for a retained version back.
type Undeletion struct {
	Key     string
	Version int
	For     time.Duration // 0: as long as the key retains versions; not for keys that protect rows
	Reason  string
	By      rotation.Actor
}

// Undelete makes a retained version accepted again beside the current one. Where a server verifies the key's values, the
// version logs in there again when it returns. The record is written first: if the server fails, the same call does the rest.
func (e *Engine) Undelete(ctx context.Context, u Undeletion) (key.Version, []string, error) {
	if err := CheckReason(u.Reason); err != nil {
		return key.Version{}, nil, err
	}
	var v key.Version
	var change kind.Change
	var warnings []string
	err := e.update(func(l *locked) (err error) {
		v, change, warnings, err = l.undelete(ctx, u)
		return err
	})
	server, ok := e.base.KindOf(change.Key).(kind.Undeleter)
	if err != nil || !ok {
		return v, warnings, err
	}
	defer e.lock(func(m *memory) { delete(m.restoring, u.Key) })
	ctx, cancel := context.WithTimeout(ctx, actionDeadline)
	defer cancel()
	if err = untrusted.Undelete(ctx, server, change); err == nil {
		err = untrusted.Verify(ctx, server, change)
	}
	if err != nil {
		return v, warnings, rotation.Refusef("key %s: version %d is undeleted, and its server does not take it yet: %w; when that is mended, do the same again; or end it with: vault write hyvve/keys/%s/retire version=%d", u.Key, u.Version, err, u.Key, u.Version)
	}
	return v, warnings, nil
}

// undelete stores that a version is undeleted. Where its server must be changed, the key is marked as being looked at, and the
// caller takes the mark away.
func (l *locked) undelete(ctx context.Context, u Undeletion) (v key.Version, change kind.Change, warnings []string, err error) {
	k, v, err := l.restingVersion(u.Key, u.Version)
	if err != nil {
		return v, change, nil, err
	}
	switch {
	case v.State != key.Retained && v.State != key.Undeleted:
		return v, change, nil, rotation.Refusef("key %s: version %d is %s, and not in quarantine; %s", k.Name, v.Number, v.State, catalog.RetainedText(k))
	case u.For < 0:
		return v, change, nil, rotation.Refusef("for %s is negative; leave it out for the time for which the key retains versions", duration.Text(u.For))
	case u.For > max(catalog.LongestUndelete, l.Defaults.RetainOf(k)):
		return v, change, nil, rotation.Refusef("for %s is longer than %s, the longest time for which a version of key %s can be undeleted; give a shorter one, and undelete it again before it ends", duration.Text(u.For), duration.Text(max(catalog.LongestUndelete, l.Defaults.RetainOf(k))), k.Name)
	case u.For > 0 && len(k.Protects) > 0:
		return v, change, nil, rotation.Refusef("for: key %s protects rows; a version of it is undeleted until a rotation has brought its rows under a new one, and not for a time: leave for out", k.Name)
	}
	until := l.UndeletedUntil(k, u.For)
	changed, err := k.WithUndeleted(v.Number, l.Now().UTC(), until)
	if err != nil {
		return v, change, nil, rotation.Refusef("%w", err)
	}
	v, _ = changed.Version(v.Number)
	if change, err = l.MayUndelete(changed, v); err != nil {
		return v, change, nil, err
	}
	what := fmt.Sprintf("undeleted version %d of %s, until a rotation retires it", v.Number, k.Name)
	if !until.IsZero() {
		what = fmt.Sprintf("undeleted version %d of %s, until %s", v.Number, k.Name, rotation.Stamp(until))
	}
	if err := l.storeVersion(ctx, changed, v, what, u.By, u.Reason); err != nil {
		return v, change, nil, err
	}
	l.lock(func(m *memory) { delete(m.lapsing, versionID{k.Name, v.Number}) })
	l.planLapse(k.Name)
	if _, ok := l.KindOf(k).(kind.Undeleter); ok {
		l.lock(func(m *memory) { m.restoring[k.Name] = true })
	}
	return v, change, l.UndeleteWarnings(changed, v), nil
}

// EraseVersion erases a retained value before its time. There is no way back.
func (e *Engine) EraseVersion(ctx context.Context, name string, number int, reason string, by rotation.Actor) error {
	if err := CheckReason(reason); err != nil {
		return err
	}
	l, release := e.acquire()
	defer release()
	k, v, err := l.restingVersion(name, number)
	switch {
	case err != nil && !errors.As(err, new(tryAgain)):
		return err
	case v.State == key.Undeleted:
		return rotation.Refusef("key %s: version %d is undeleted; end that first: vault write hyvve/keys/%s/retire version=%d", name, number, name, number)
	case v.State != key.Retained:
		return rotation.Refusef("key %s: version %d is %s; only the value of a retained version can be erased; %s", name, number, v.State, catalog.RetainedText(k))
	}
	text := fmt.Sprintf("erased version %d of %s before its end, which was %s", number, name, rotation.Stamp(v.Until))
	return l.eraseVersion(ctx, k, v, text, by, reason)
}
