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
