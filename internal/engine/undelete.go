// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

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

// undelete stores that a version is undeleted. Where its server has to be told, the key is marked as being looked at, and the
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
		return v, change, nil, rotation.Refusef("for %s is negative; leave it out for the time for which the key retains versions", u.For)
	case u.For > max(catalog.LongestUndelete, l.Defaults.RetainOf(k)):
		return v, change, nil, rotation.Refusef("for %s is longer than %s, the longest time for which a version of key %s can be undeleted; give a shorter one, and undelete it again before it ends", u.For, max(catalog.LongestUndelete, l.Defaults.RetainOf(k)), k.Name)
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

// restingVersion returns a key that nothing else is changing, and a version of it.
func (l *locked) restingVersion(name string, number int) (key.Key, key.Version, error) {
	if r, ok := l.active[l.rotating[name]]; ok {
		return l.Keys[name], key.Version{}, l.underWay(name, r)
	}
	return l.idleVersion(name, number)
}

// idleVersion returns a key and a version of it while nothing of the key is changed at its server.
func (l *locked) idleVersion(name string, number int) (key.Key, key.Version, error) {
	k, ok := l.Keys[name]
	if !ok {
		return k, key.Version{}, catalog.UnknownKey(name)
	}
	v, ok := k.Version(number)
	if !ok {
		return k, v, rotation.Refusef("key %s has no version %d; %s", name, number, catalog.RetainedText(k))
	}
	if id, acting := l.acting(name); acting {
		return k, v, tryAgain{fmt.Sprintf("rotation %s is at the server of key %s at this moment; try again", id, name)}
	}
	if l.beingChecked(name) {
		return k, v, tryAgain{fmt.Sprintf("key %s is being checked at its server at this moment; try again", name)}
	}
	return k, v, nil
}

// undeletedProblems tries the undeleted versions of a key at its server, makes those valid again that it does not take, unless
// nothing is to be mended, and says which it still does not take. A crash between the record and the server leaves such a
// version, and a server may forget one. One whose end was decided stays as it is. The key is marked as being looked at.
func (e *Engine) undeletedProblems(ctx context.Context, c kind.Change, what mend, by rotation.Actor) (problems []kind.Problem) {
	server, ok := e.base.KindOf(c.Key).(kind.Undeleter)
	if !ok {
		return nil
	}
	for _, number := range c.Key.Undeleted() {
		v, _ := c.Key.Version(number)
		if v.Ending {
			continue
		}
		u := kind.Change{Key: c.Key, From: c.To, To: v, Connection: c.Connection, Kept: c.Kept}
		err := untrusted.Verify(ctx, server, u)
		if err != nil && what != mendNothing {
			err = e.restoreUndeleted(ctx, server, u, what, by)
		}
		if err == nil {
			e.isValid(u)
			continue
		}
		problems = append(problems, kind.Problem{
			Text:    fmt.Sprintf("version %d, which is undeleted until %s, does not log in: %s", number, rotation.Stamp(v.Until), untrusted.Text(err.Error())),
			Remedy:  fmt.Sprintf("when that is mended: vault write hyvve/keys/%s/undelete version=%d; or end it: vault write hyvve/keys/%s/retire version=%d force=true", c.Key.Name, number, c.Key.Name, number),
			Rotates: true,
		})
	}
	return problems
}

// restoreUndeleted makes an undeleted version valid again at its server. That is journaled before it is done.
func (e *Engine) restoreUndeleted(ctx context.Context, server kind.Undeleter, u kind.Change, what mend, by rotation.Actor) error {
	todo := fmt.Sprintf("the login of version %d, which is undeleted %s", u.To.Number, u.To.UndeletedText())
	if err := e.update(func(l *locked) error { return l.journalRestore(ctx, u, []string{todo}, what, by) }); err != nil {
		return err
	}
	if err := untrusted.Undelete(ctx, server, u); err != nil {
		return err
	}
	return untrusted.Verify(ctx, server, u)
}

// undeletedLogins say, where a compromised key is rotated, what becomes of older versions of it that log in.
func (l *locked) undeletedLogins(r rotation.Rotation) (all []remark) {
	for _, c := range r.Changes {
		k := l.Keys[c.Key]
		for _, number := range l.Leaked(r, k) {
			all = append(all, remark{c.Env, fmt.Sprintf("version %d is undeleted, and logs in until this rotation retires version %d: that ends it, too, with its sessions, and erases it; to end it now: vault write hyvve/keys/%s/retire version=%d force=true", number, c.From, k.Name, number)})
		}
	}
	return all
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
