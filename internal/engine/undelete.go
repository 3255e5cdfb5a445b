// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// undeleteTime is for how long a version is undeleted where nothing says it: the key retains none.
const undeleteTime = 24 * time.Hour

// longestUndelete bounds for how long a version is undeleted, unless the key retains versions for longer. A time that was
// mistyped would leave an old login valid for years.
const longestUndelete = 30 * 24 * time.Hour

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
	server, ok := e.base.kindOf(change.Key).(kind.Undeleter)
	if err != nil || !ok {
		return v, warnings, err
	}
	defer e.lock(func(m *memory) { delete(m.restoring, u.Key) })
	ctx, cancel := context.WithTimeout(ctx, actionDeadline)
	defer cancel()
	if err = undeleteAt(ctx, server, change); err == nil {
		err = verifyAt(ctx, server, change)
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
		return v, change, nil, rotation.Refusef("key %s: version %d is %s, and not in quarantine; %s", k.Name, v.Number, v.State, retainedText(k))
	case u.For < 0:
		return v, change, nil, rotation.Refusef("for %s is negative; leave it out for the time for which the key retains versions", u.For)
	case u.For > max(longestUndelete, l.config.RetainOf(k)):
		return v, change, nil, rotation.Refusef("for %s is longer than %s, the longest time for which a version of key %s can be undeleted; give a shorter one, and undelete it again before it ends", u.For, max(longestUndelete, l.config.RetainOf(k)), k.Name)
	case u.For > 0 && len(k.Protects) > 0:
		return v, change, nil, rotation.Refusef("for: key %s protects rows; a version of it is undeleted until a rotation has brought its rows under a new one, and not for a time: leave for out", k.Name)
	}
	until := l.undeletedUntil(k, u.For)
	changed, err := k.WithUndeleted(v.Number, l.Now().UTC(), until)
	if err != nil {
		return v, change, nil, rotation.Refusef("%w", err)
	}
	v, _ = changed.Version(v.Number)
	if change, err = l.mayUndelete(changed, v); err != nil {
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
	if _, ok := l.kindOf(k).(kind.Undeleter); ok {
		l.lock(func(m *memory) { m.restoring[k.Name] = true })
	}
	return v, change, l.undeleteWarnings(changed, v), nil
}

// restingVersion returns a key that nothing else is changing, and a version of it.
func (l *locked) restingVersion(name string, number int) (key.Key, key.Version, error) {
	if r, ok := l.active[l.rotating[name]]; ok {
		return l.keys[name], key.Version{}, l.underWay(name, r)
	}
	return l.idleVersion(name, number)
}

// idleVersion returns a key and a version of it while nothing of the key is changed at its server.
func (l *locked) idleVersion(name string, number int) (key.Key, key.Version, error) {
	k, ok := l.keys[name]
	if !ok {
		return k, key.Version{}, unknownKey(name)
	}
	v, ok := k.Version(number)
	if !ok {
		return k, v, rotation.Refusef("key %s has no version %d; %s", name, number, retainedText(k))
	}
	if id, acting := l.acting(name); acting {
		return k, v, tryAgain{fmt.Sprintf("rotation %s is at the server of key %s at this moment; try again", id, name)}
	}
	if l.beingChecked(name) {
		return k, v, tryAgain{fmt.Sprintf("key %s is being checked at its server at this moment; try again", name)}
	}
	return k, v, nil
}

// retainedText says which versions there are to undelete, and which are undeleted.
func retainedText(k key.Key) string {
	var words []string
	for _, number := range k.Retained() {
		v, _ := k.Version(number)
		words = append(words, fmt.Sprintf("%d (until %s)", number, rotation.Stamp(v.Until)))
	}
	text := "retained are: " + strings.Join(words, ", ")
	if len(words) == 0 {
		text = "no version of it is retained"
	}
	words = nil
	for _, number := range k.Undeleted() {
		v, _ := k.Version(number)
		words = append(words, fmt.Sprintf("%d (%s)", number, v.UndeletedText()))
	}
	switch {
	case len(words) > 0:
		return text + "; undeleted are: " + strings.Join(words, ", ")
	case len(k.Retained()) == 0:
		return text + ": the values of earlier versions are erased"
	}
	return text
}

// undeletedUntil returns the end of an undeletion that begins now; zero: a rotation ends it.
func (cat *catalog) undeletedUntil(k key.Key, long time.Duration) time.Time {
	if len(k.Protects) > 0 {
		return time.Time{}
	}
	if long == 0 {
		long = cat.config.RetainOf(k)
	}
	if long == 0 {
		long = undeleteTime
	}
	return cat.Now().UTC().Add(long)
}

// mayUndelete refuses a version whose login cannot come back, and returns what its server is asked.
func (cat *catalog) mayUndelete(k key.Key, v key.Version) (kind.Change, error) {
	change := kind.Change{Key: k, To: v, Kept: k.Kept}
	current, ok := k.Current()
	if !ok {
		return change, rotation.Refusef("key %s has no current version, beside which another could be accepted", k.Name)
	}
	change.From = current
	if _, has := cat.kindOf(k).(kind.Server); !has {
		return change, nil
	}
	undeleter, can := cat.kindOf(k).(kind.Undeleter)
	if !can {
		return change, rotation.Refusef("key %s is of kind %s, whose server cannot take a retired version back", k.Name, k.Kind)
	}
	if len(k.Protects) > 0 {
		return change, rotation.Refusef("key %s protects rows, and its values log in at a server, too: such a version cannot be undeleted; make two keys of it", k.Name)
	}
	var err error
	if change.Connection, err = cat.connectionOf(k); err != nil {
		return change, rotation.Refusef("%w", err)
	}
	if err := undeleter.CheckUndelete(change); err != nil {
		return change, rotation.Refusef("key %s: %w; nothing was changed", k.Name, err)
	}
	if err := cat.checkHosts(k, v.Value); err != nil {
		return change, rotation.Refusef("key %s: %w; nothing was changed", k.Name, err)
	}
	if with := cat.sharers(k, v.Value); len(with) > 0 {
		return change, rotation.Refusef("key %s: %s, the login of version %d, is that of %s now; nothing was changed", k.Name, with[0].login, v.Number, keysOf(with))
	}
	mine, named := cat.loginOf(k, v.Value)
	for _, number := range k.Undeleted() {
		other, _ := k.Version(number)
		if theirs, ok := cat.loginOf(k, other.Value); named && ok && number != v.Number && theirs.shares(mine) {
			return change, rotation.Refusef("key %s: %s, the login of version %d, is that of version %d, which is undeleted; end that first: vault write hyvve/keys/%s/retire version=%d", k.Name, mine.name, v.Number, number, k.Name, number)
		}
	}
	return change, nil
}

// endsUndeleted refuses other options of a key with which the login of an undeleted version could not be ended.
func (cat *catalog) endsUndeleted(changed, old key.Key) error {
	undeleter, ok := cat.kindOf(old).(kind.Undeleter)
	if !ok || maps.Equal(changed.Options, old.Options) {
		return nil
	}
	connection, err := cat.connectionOf(changed)
	if err != nil {
		return rotation.Refusef("%w", err)
	}
	changed.Versions = old.Versions
	if number, err := undeletedBy(undeleter, changed, connection); err != nil {
		return rotation.Refusef("key %s: version %d is undeleted, and could not be ended after this change (%w); end it first: vault write hyvve/keys/%s/retire version=%d", old.Name, number, err, old.Name, number)
	}
	return nil
}

// undeletedBy returns an undeleted version of a key whose login could not be ended by way of a connection, and why.
func undeletedBy(undeleter kind.Undeleter, k key.Key, connection kind.Connection) (number int, err error) {
	current, _ := k.Current()
	for _, number := range k.Undeleted() {
		v, _ := k.Version(number)
		if err := undeleter.CheckUndelete(kind.Change{Key: k, From: current, To: v, Connection: connection}); err != nil {
			return number, err
		}
	}
	return 0, nil
}

// connectionEndsUndeleted refuses a change of a connection with which the login of an undeleted version could not be ended: it is the
// new administrator's, say. What could not be ended before is no reason.
func (cat *catalog) connectionEndsUndeleted(changed, old kind.Connection) error {
	for _, name := range slices.Sorted(maps.Keys(cat.keys)) {
		k := cat.keys[name]
		undeleter, ok := cat.kindOf(k).(kind.Undeleter)
		if c, err := cat.connectionOf(k); !ok || err != nil || c.Name != changed.Name {
			continue
		}
		if _, err := undeletedBy(undeleter, k, old); err != nil {
			continue
		}
		if number, err := undeletedBy(undeleter, k, changed); err != nil {
			return rotation.Refusef("connection %s: version %d of key %s is undeleted, and could not be ended after this change (%w); end it first: vault write hyvve/keys/%s/retire version=%d; nothing was stored", changed.Name, number, name, err, name, number)
		}
	}
	return nil
}

// undeletedProblems tries the undeleted versions of a key at its server, makes those valid again that it does not take, unless
// nothing is to be mended, and says which it still does not take. A crash between the record and the server leaves such a
// version, and a server may forget one. One whose end was decided stays as it is. The key is marked as being looked at.
func (e *Engine) undeletedProblems(ctx context.Context, c kind.Change, what mend, by rotation.Actor) (problems []kind.Problem) {
	server, ok := e.base.kindOf(c.Key).(kind.Undeleter)
	if !ok {
		return nil
	}
	for _, number := range c.Key.Undeleted() {
		v, _ := c.Key.Version(number)
		if v.Ending {
			continue
		}
		u := kind.Change{Key: c.Key, From: c.To, To: v, Connection: c.Connection, Kept: c.Kept}
		err := verifyAt(ctx, server, u)
		if err != nil && what != mendNothing {
			err = e.restoreUndeleted(ctx, server, u, what, by)
		}
		if err == nil {
			e.isValid(u)
			continue
		}
		problems = append(problems, kind.Problem{
			Text:    fmt.Sprintf("version %d, which is undeleted until %s, does not log in: %s", number, rotation.Stamp(v.Until), say(err.Error())),
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
	if err := undeleteAt(ctx, server, u); err != nil {
		return err
	}
	return verifyAt(ctx, server, u)
}

// undeletedLogins say, where a compromised key is rotated, what becomes of older versions of it that log in.
func (l *locked) undeletedLogins(r rotation.Rotation) (all []remark) {
	for _, c := range r.Changes {
		k := l.keys[c.Key]
		for _, number := range l.leaked(r, k) {
			all = append(all, remark{c.Env, fmt.Sprintf("version %d is undeleted, and logs in until this rotation retires version %d: that ends it, too, with its sessions, and erases it; to end it now: vault write hyvve/keys/%s/retire version=%d force=true", number, c.From, k.Name, number)})
		}
	}
	return all
}

// undeleteWarnings say what an undeletion does not do by itself.
func (cat *catalog) undeleteWarnings(k key.Key, v key.Version) (warnings []string) {
	if len(k.Protects) > 0 {
		warnings = append(warnings, fmt.Sprintf("rows under version %d can be read again by instances that have loaded it; bring them under a new version with: vault write hyvve/rotate key=%s", v.Number, k.Name))
	}
	if _, ok := cat.kindOf(k).(kind.Server); ok {
		return warnings
	}
	verified := false
	for _, name := range slices.Sorted(maps.Keys(cat.workloads)) {
		role := cat.workloads[name].Keys[k.Name]
		verified = verified || role.AcceptsBoth()
		if role.Single {
			warnings = append(warnings, fmt.Sprintf("workload %s verifies %s against one value at a time (single_value): it does not accept version %d", name, k.Env, v.Number))
		}
	}
	if !verified {
		warnings = append(warnings, fmt.Sprintf("no workload has several values of %s at a time, so that none accepts version %d", k.Env, v.Number))
	}
	return warnings
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
		return rotation.Refusef("key %s: version %d is %s; only the value of a retained version can be erased; %s", name, number, v.State, retainedText(k))
	}
	text := fmt.Sprintf("erased version %d of %s before its end, which was %s", number, name, rotation.Stamp(v.Until))
	return l.eraseVersion(ctx, k, v, text, by, reason)
}

// undeletedClash says that the login of a new version is that of one which is undeleted; empty: it is not.
func (cat *catalog) undeletedClash(c rotation.Change, k key.Key, from, to key.Version) string {
	mine, ok := cat.loginOf(k, to.Value)
	if current, has := cat.loginOf(k, from.Value); !ok || has && current.shares(mine) {
		return ""
	}
	for _, number := range k.Undeleted() {
		v, _ := k.Version(number)
		if theirs, ok := cat.loginOf(k, v.Value); ok && theirs.shares(mine) {
			return fmt.Sprintf("%s: %s, the login of the new version, is that of version %d, which is undeleted until %s; end that first: vault write hyvve/keys/%s/retire version=%d", c.Env, mine.name, number, rotation.Stamp(v.Until), k.Name, number)
		}
	}
	return ""
}
