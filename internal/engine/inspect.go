// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// refusalAge is for how long after its end a version's login is looked for among those that a server refuses.
const refusalAge = 7 * 24 * time.Hour

// whoStillTries says who still tries the version of a key that was retired last.
func (s *state) whoStillTries(ctx context.Context, c kind.Change) string {
	reporter, ok := s.base.KindOf(c.Key).(kind.RefusalReporter)
	if !ok {
		return ""
	}
	for _, v := range slices.Backward(c.Key.Versions) {
		age := s.Now().Sub(v.Retired)
		if v.Login == "" || v.State.Live() || age > refusalAge {
			continue
		}
		count, what, err := untrusted.Refusals(ctx, reporter, c, v.Login, age)
		if err != nil || count == 0 {
			return ""
		}
		return fmt.Sprintf("version %d, which is retired, was tried %s, and refused: %s", v.Number, times(count), what)
	}
	return ""
}

// checkDue starts the checks whose time has come, a few at the same time.
func (l *locked) checkDue(now time.Time) {
	every := l.Defaults.LookEvery
	for every > 0 && len(l.checking) < maxChecks {
		first, ok := l.checks.Next()
		if !ok || first.At.After(now) {
			return
		}
		if _, acting := l.acting(strings.TrimPrefix(first.Key, checksKey)); acting {
			l.checks.Set(first.Key, now.Add(tickEvery))
			continue
		}
		l.checks.Set(first.Key, now.Add(every))
		if l.check(first.Key) == nil { // it is gone
			l.checks.Set(first.Key, never)
		}
	}
}

// check makes a check in the background unless it is under way, and returns what is closed when it has ended; nil: there is
// nothing to check.
func (l *locked) check(of string) <-chan struct{} {
	if done := l.checking[of]; done != nil {
		return done
	}
	check := l.checkOf(of)
	if check == nil {
		return nil
	}
	done := make(chan struct{})
	l.checking[of] = done
	l.background(func(e *Engine) {
		check(e)
		l, release := e.acquire()
		defer release()
		defer l.nudge()
		delete(l.checking, of)
		close(done)
	})
	return done
}

// checkOf returns the check of that name; nil: there is nothing to check.
func (l *locked) checkOf(of string) func(*Engine) {
	if name, ok := strings.CutPrefix(of, checksConnection); ok {
		c, there := l.Connections[name]
		connector, err := l.Connector(c.Kind)
		if !there || err != nil {
			return nil
		}
		return func(e *Engine) {
			h := Health{At: e.Now().UTC()}
			if h.Notes, err = checkConnection(e.ctx, connector, c); err != nil {
				h.Fault = err.Error()
			}
			e.noteHealth(of, h)
		}
	}
	name := strings.TrimPrefix(of, checksKey)
	_, inspected := l.KindOf(l.Keys[name]).(kind.Inspector)
	if _, current := l.Keys[name].Current(); !inspected || !current {
		return nil
	}
	return func(e *Engine) {
		result, err := inspection{e, mendFixable, rotation.Itself}.inspect(e.ctx, name)
		noted := !result.At.IsZero()
		if err != nil && !noted && !Passing(err) && e.ctx.Err() == nil {
			e.noteHealth(of, Health{At: e.Now().UTC(), Fault: untrusted.Text(err.Error())})
		}
	}
}

// noteHealth keeps what a check has found, and says so once if something is wrong that was not before.
func (s *state) noteHealth(of string, h Health) {
	var before Health
	s.lock(func(m *memory) {
		before = m.health[of]
		m.health[of] = h
	})
	if texts := h.Texts(); len(texts) > 0 && !slices.Equal(texts, before.Texts()) {
		s.Observer.Fault("check of "+of, errors.New(strings.Join(texts, "; ")))
	}
}

// mend says what an inspection may restore.
type mend int

const (
	mendNothing mend = iota // it only tells what it would
	mendFixable             // if that needs no decision of an operator
	mendAll                 // an operator has asked for it
)

// Reconciled is what Reconcile has found and done.
type Reconciled struct {
	Health
	Done []string // or, with dryRun, what it would do
}

// Reconcile looks whether a key's current version is valid at its server, and makes it so from what Vault holds. It takes
// no login away from anybody.
func (e *Engine) Reconcile(ctx context.Context, name string, dryRun bool, by rotation.Actor) (Reconciled, error) {
	if _, ok := e.Key(name); !ok {
		return Reconciled{}, catalog.UnknownKey(name)
	}
	what := mendAll
	if dryRun {
		what = mendNothing
	}
	return inspection{e, what, by}.inspect(ctx, name)
}

// inspection is a look at the servers of keys, which mends what it may.
type inspection struct {
	*Engine
	what mend
	by   rotation.Actor
}

// inspect asks a key's server for its current version and, where it may, mends what is wrong. Meanwhile no action of a
// rotation of the key begins: what it takes away must not be restored.
func (i inspection) inspect(ctx context.Context, name string) (Reconciled, error) {
	var change kind.Change
	var restorer kind.Inspector
	err := i.update(func(l *locked) (err error) {
		change, restorer, err = l.inspected(name)
		return err
	})
	if err != nil {
		return Reconciled{}, err
	}
	defer i.lock(func(m *memory) { delete(m.restoring, name) })
	ctx, cancel := context.WithTimeout(ctx, connectionDeadline)
	defer cancel()
	finding, err := untrusted.Inspect(ctx, restorer, change)
	if err != nil {
		return Reconciled{}, rotation.Refusef("key %s: %w", name, err)
	}
	if err := i.update(func(l *locked) error { return l.noteFinding(ctx, name, finding) }); err != nil {
		return Reconciled{}, err
	}
	result := Reconciled{Health: Health{At: i.Now().UTC(), Problems: finding.Problems, Notes: finding.Notes, Refused: i.whoStillTries(ctx, change)}}
	if len(finding.Problems) == 0 {
		i.isValid(change)
	}
	if mender, ok := restorer.(kind.Restorer); ok && len(finding.Problems) > 0 {
		fixable := !slices.ContainsFunc(finding.Problems, func(p kind.Problem) bool { return !p.Fixable })
		if i.what != mendFixable || fixable {
			if finding.Kept != "" {
				change.Kept = finding.Kept
			}
			if result.Done, err = i.restore(ctx, mender, change); err != nil {
				result.Fault = err.Error()
				i.noteHealth(checksKey+name, result.Health)
				return result, rotation.Refusef("key %s: %w", name, err)
			}
		}
	}
	undeleted := i.undeletedProblems(ctx, change)
	if i.what == mendNothing || len(result.Done) == 0 {
		result.Problems = append(result.Problems, undeleted...)
		i.noteHealth(checksKey+name, result.Health)
		return result, nil
	}
	return i.mended(ctx, restorer, change, result, undeleted)
}

// inspected returns what an inspection asks about, and marks the key as being looked at.
func (l *locked) inspected(name string) (kind.Change, kind.Inspector, error) {
	k := l.Keys[name]
	inspector, ok := l.KindOf(k).(kind.Inspector)
	if !ok {
		return kind.Change{}, nil, rotation.Refusef("key %s is of kind %s, whose values no server keeps: there is nothing to reconcile", name, k.Kind)
	}
	if _, ok := k.Current(); !ok {
		return kind.Change{}, nil, rotation.Refusef("key %s has no version yet", name)
	}
	connection, err := l.ConnectionOf(k)
	if err != nil {
		return kind.Change{}, nil, rotation.Refusef("%w", err)
	}
	if id, acting := l.acting(name); acting {
		return kind.Change{}, nil, tryAgain{fmt.Sprintf("rotation %s has been at the server of key %s for a while; try again, or pause it first with: vault write -f hyvve/rotations/%s/pause", id, name, id)}
	}
	if l.beingChecked(name) {
		return kind.Change{}, nil, tryAgain{fmt.Sprintf("key %s is being checked at this moment; try again", name)}
	}
	l.lock(func(m *memory) { m.restoring[name] = true })
	change := kind.Change{Key: k, Connection: connection, Kept: k.Kept}
	change.To, change.From = l.validAtServer(k)
	return change, inspector, nil
}

// noteFinding stores with the key what only a healthy server knows, and the numbers that it has seen.
func (l *locked) noteFinding(ctx context.Context, name string, f kind.Finding) error {
	k, ok := l.Keys[name]
	if !ok {
		return catalog.UnknownKey(name)
	}
	changed := k
	if f.Kept != "" {
		changed.Kept = f.Kept
	}
	if last := k.NextNumber() - 1; f.ServerVersion > last && f.ServerVersion < last+maxAbove {
		changed.Above = f.ServerVersion
	}
	if changed.Kept == k.Kept && changed.Above == k.Above {
		return nil
	}
	if err := l.putKey(ctx, changed); err != nil {
		return err
	}
	l.lock(func(m *memory) { m.Keys[name] = changed })
	return nil
}

// restore makes the current version valid again at its server. What is to be done is journaled before it is done: killed in
// between, the journal says more than was done, and the next check does the rest.
func (i inspection) restore(ctx context.Context, mender kind.Restorer, change kind.Change) ([]string, error) {
	todo, err := untrusted.Restore(ctx, mender, change, true)
	if len(todo) == 0 || i.what == mendNothing {
		return todo, err
	}
	// What cannot be mended does not hold up what can: the second call returns that error again.
	if err := i.update(func(l *locked) error { return l.journalRestore(ctx, change, todo, i.what, i.by) }); err != nil {
		return nil, err
	}
	done, err := untrusted.Restore(ctx, mender, change, false)
	if err == nil {
		i.isValid(change)
	}
	return done, err
}

// isValid forgets what was to be restored of a version: when it has to be restored again, that is journaled again.
func (s *state) isValid(change kind.Change) {
	s.lock(func(m *memory) { delete(m.intended, versionID{change.Key.Name, change.To.Number}) })
}

// journalRestore writes what is about to be done. A regular check that fails does not write the same again each time.
func (l *locked) journalRestore(ctx context.Context, change kind.Change, todo []string, what mend, by rotation.Actor) error {
	text, of := "restoring at the server: "+strings.Join(todo, "; "), versionID{change.Key.Name, change.To.Number}
	same := false
	l.lock(func(m *memory) { same = m.intended[of] == text })
	if what == mendFixable && same {
		return nil
	}
	err := l.journal.Add(ctx, journal.Entry{
		What: text, By: by.Name, Entity: by.Entity,
		Keys: []journal.Key{{Key: change.Key.Name, From: change.To.Number, To: change.To.Number, Fingerprint: change.To.Fingerprint}},
	})
	if err == nil {
		l.lock(func(m *memory) { m.intended[of] = text })
	}
	return err
}

// mended looks again, and lets rotations that failed at the server try again.
func (i inspection) mended(ctx context.Context, inspector kind.Inspector, change kind.Change, result Reconciled, undeleted []kind.Problem) (Reconciled, error) {
	finding, err := untrusted.Inspect(ctx, inspector, change)
	result.Health = Health{At: i.Now().UTC(), Problems: finding.Problems, Notes: finding.Notes, Refused: result.Refused, Mended: result.Done}
	if err != nil {
		result.Fault = err.Error()
	}
	result.Problems = append(result.Problems, undeleted...)
	i.noteHealth(checksKey+change.Key.Name, result.Health)
	l, release := i.acquire()
	defer release()
	return result, l.retryRotations(ctx, change.Connection.Name)
}

// all looks at the current versions of a plan's keys at their servers. What a rotation would not go through with is a
// blocker. seen reports whether a server has told a number that Vault did not know.
func (i inspection) all(ctx context.Context, names []string) (blockers, notes []remark, seen bool) {
	found := make([]Reconciled, len(names))
	errs := make([]error, len(names))
	keys := make([]key.Key, len(names))
	var group sync.WaitGroup
	for n, name := range names {
		keys[n], _ = i.Key(name)
		if _, ok := i.base.KindOf(keys[n]).(kind.Inspector); ok {
			group.Go(func() { found[n], errs[n] = i.inspect(ctx, name) })
		}
	}
	group.Wait()
	for n, name := range names {
		if Passing(errs[n]) { // another check is asking the server right now
			found[n].Health, errs[n] = i.KeyHealth(name), nil
			if found[n].At.IsZero() {
				found[n].Notes = []string{"its first check at the server is under way; ask for the plan again"}
			}
			if found[n].Fault != "" {
				errs[n] = errors.New(found[n].Fault)
			}
		}
		if errs[n] != nil && len(found[n].Problems) == 0 {
			i.foundFault(ctx, name, errs[n])
			blockers = append(blockers, remark{keys[n].Env, strings.TrimPrefix(errs[n].Error(), "key "+name+": ")})
		}
		for _, p := range found[n].Problems {
			if p.Rotates {
				notes = append(notes, remark{keys[n].Env, p.String()})
			} else {
				blockers = append(blockers, remark{keys[n].Env, p.String()})
			}
		}
		for _, text := range found[n].Notes {
			notes = append(notes, remark{keys[n].Env, text})
		}
		now, _ := i.Key(name)
		seen = seen || now.Above != keys[n].Above
	}
	return blockers, notes, seen
}

// foundFault notes what a plan has found of a key's server: status shows it until the next check, and its connection is checked
// at once.
func (i inspection) foundFault(ctx context.Context, name string, fault error) {
	if ctx.Err() != nil {
		return
	}
	i.noteHealth(checksKey+name, Health{At: i.Now().UTC(), Fault: untrusted.Text(fault.Error())})
	l, release := i.acquire()
	defer release()
	defer l.nudge()
	if of := checksConnection + l.Keys[name].Options[kind.OptionConnection]; !l.checks.At(of).IsZero() {
		l.checks.Set(of, l.Now())
	}
}

// A read of a connection answers from a check of the last moments, or makes one, and waits for it for a while.
const (
	freshFor  = 5 * time.Second
	patiently = 5 * time.Second
)

// LookAtConnection checks a connection unless that was done moments ago, or is switched off, and reports whether the result is there
// in time. It waits for a check that is under way.
func (e *Engine) LookAtConnection(ctx context.Context, name string) bool {
	of := checksConnection + name
	fresh := e.Now().Add(-freshFor)
	if e.Health(of).At.After(fresh) {
		return true
	}
	if connection, ok := e.Connection(name); !ok || connection.Written.After(fresh) || e.Config().LookEvery == 0 {
		return true
	}
	var done <-chan struct{}
	if err := e.update(func(l *locked) error { done = l.check(of); return nil }); err != nil || done == nil {
		return err == nil
	}
	timer := time.NewTimer(patiently)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// silent lets the connections of keys be checked, and returns those that do not answer soon: what their servers have to do would
// hold up the other keys without limit.
func (i inspection) silent(ctx context.Context) (silent []string) {
	var names []string
	i.lock(func(m *memory) {
		for _, k := range m.Keys {
			if _, ok := m.Connections[k.Options[kind.OptionConnection]]; ok {
				names = append(names, k.Options[kind.OptionConnection])
			}
		}
	})
	slices.Sort(names)
	names = slices.Compact(names)
	answers := make([]bool, len(names))
	var group sync.WaitGroup
	for n, name := range names {
		group.Go(func() { answers[n] = i.LookAtConnection(ctx, name) })
	}
	group.Wait()
	for n, name := range names {
		if !answers[n] {
			silent = append(silent, name)
		}
	}
	return silent
}

// undeletedProblems tries the undeleted versions of a key at its server, makes those valid again that it does not take, unless
// nothing is to be mended, and says which it still does not take. A crash between the record and the server leaves such a
// version, and a server may forget one. One whose end was decided stays as it is. The key is marked as being looked at.
func (i inspection) undeletedProblems(ctx context.Context, c kind.Change) (problems []kind.Problem) {
	server, ok := i.base.KindOf(c.Key).(kind.Undeleter)
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
		if err != nil && i.what != mendNothing {
			err = i.restoreUndeleted(ctx, server, u)
		}
		if err == nil {
			i.isValid(u)
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
func (i inspection) restoreUndeleted(ctx context.Context, server kind.Undeleter, u kind.Change) error {
	todo := fmt.Sprintf("the login of version %d, which is undeleted %s", u.To.Number, u.To.UndeletedText())
	if err := i.update(func(l *locked) error { return l.journalRestore(ctx, u, []string{todo}, i.what, i.by) }); err != nil {
		return err
	}
	if err := untrusted.Undelete(ctx, server, u); err != nil {
		return err
	}
	return untrusted.Verify(ctx, server, u)
}
