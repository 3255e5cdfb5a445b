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

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

const (
	// mostChecks is how many servers are checked at the same time.
	mostChecks = 4
	// mostAbove bounds how far a mark at a server may raise the numbers of a key's versions.
	mostAbove = 10_000
	// The names of checks begin with what they check.
	checksKey        = "keys/"
	checksConnection = "connections/"
)

// Health is what the last check of a key or of a connection found. It is not stored: after a restart all are checked soon.
type Health struct {
	At       time.Time // of the check; zero: there was none yet
	Problems []kind.Problem
	Fault    string   // why the check itself failed, such as a server that does not answer
	Notes    []string // what an operator should know although nothing is wrong
	Mended   []string // what has been restored without being asked for
	Refused  string   // who still tries a version that is retired; empty: nobody, as far as the server tells
}

// Texts returns what is wrong, each problem with its remedy.
func (h Health) Texts() []string {
	var all []string
	told := false // by the fault, which says of a problem that it could not be mended
	for _, p := range h.Problems {
		all = append(all, p.String())
		told = told || strings.Contains(h.Fault, p.Text)
	}
	if h.Fault != "" && !told {
		all = append([]string{h.Fault}, all...)
	}
	return all
}

// refusalAge is for how long after its end a version's login is looked for among those that a server refuses.
const refusalAge = 7 * 24 * time.Hour

// whoStillTries says who still tries the version of a key that was retired last.
func (e *Engine) whoStillTries(ctx context.Context, c kind.Change) string {
	reporter, ok := e.kindOf(c.Key).(kind.RefusalReporter)
	if !ok {
		return ""
	}
	for _, v := range slices.Backward(c.Key.Versions) {
		age := e.Now().Sub(v.Retired)
		if v.Login == "" || v.State.Live() || age > refusalAge {
			continue
		}
		count, what, err := refusalsAt(ctx, reporter, c, v.Login, age)
		if err != nil || count == 0 {
			return ""
		}
		return fmt.Sprintf("version %d, which is retired, was tried %s, and refused: %s", v.Number, times(count), what)
	}
	return ""
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// Health returns that of a key, or of a connection.
func (e *Engine) Health(of string) Health {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.health[of]
}

// KeyHealth returns what is known of a key's current version at its server.
func (e *Engine) KeyHealth(name string) Health { return e.Health(checksKey + name) }

// ConnectionHealth returns what is known of a connection.
func (e *Engine) ConnectionHealth(name string) Health { return e.Health(checksConnection + name) }

// planCheck puts the first check of a key or a connection on the agenda, spread so that a restart is no storm. The writer
// lock is held.
func (e *Engine) planCheck(of string, now time.Time) {
	every := e.config.LookEvery
	if !e.checks.At(of).IsZero() || every == 0 {
		return
	}
	if name, ok := strings.CutPrefix(of, checksKey); ok {
		if _, ok := e.kindOf(e.keys[name]).(kind.Inspector); !ok {
			return
		}
	}
	e.checks.Set(of, now.Add(schedule.SpreadOver(every, e.share(key.Key{Name: of}, "check"))))
}

// checkSoon makes a check of a key due. The writer lock is held.
func (e *Engine) checkSoon(name string, now time.Time) {
	if _, ok := e.kindOf(e.keys[name]).(kind.Inspector); ok && e.config.LookEvery > 0 {
		e.checks.Set(checksKey+name, now)
	}
}

// checkDue starts the checks whose time has come, a few at the same time. The writer lock is held.
func (e *Engine) checkDue(now time.Time) {
	every := e.config.LookEvery
	for every > 0 && len(e.checking) < mostChecks {
		first, ok := e.checks.Next()
		if !ok || first.At.After(now) {
			return
		}
		if _, acting := e.acting(strings.TrimPrefix(first.Key, checksKey)); acting {
			e.checks.Set(first.Key, now.Add(tickEvery))
			continue
		}
		e.checks.Set(first.Key, now.Add(every))
		if e.checking[first.Key] {
			continue
		}
		check := e.checkOf(first.Key)
		if check == nil { // it is gone
			e.checks.Set(first.Key, never)
			continue
		}
		e.checking[first.Key] = true
		e.Background(func() {
			check()
			defer e.takeTurn()()
			defer e.nudge()
			delete(e.checking, first.Key)
		})
	}
}

// acting reports whether a rotation of the key is changing something at its server at this moment. The writer lock is held.
func (e *Engine) acting(name string) (id string, acting bool) {
	id = e.rotating[name]
	return id, e.busy[id] && !e.active[id].StepSamples()
}

// planChecks plans the first check of every key and every connection. The writer lock is held.
func (e *Engine) planChecks(now time.Time) {
	e.checks = schedule.NewAgenda()
	for name := range e.keys {
		e.planCheck(checksKey+name, now)
	}
	for name := range e.connections {
		e.planCheck(checksConnection+name, now)
	}
}

// checkOf returns the check of that name; nil: there is nothing to check. The writer lock is held.
func (e *Engine) checkOf(of string) func() {
	if name, ok := strings.CutPrefix(of, checksConnection); ok {
		c, there := e.connections[name]
		connector, err := e.connector(c.Kind)
		if !there || err != nil {
			return nil
		}
		return func() {
			h := Health{At: e.Now().UTC()}
			if h.Notes, err = e.checkConnection(e.ctx, connector, c); err != nil {
				h.Fault = err.Error()
			}
			e.noteHealth(of, h)
		}
	}
	name := strings.TrimPrefix(of, checksKey)
	_, inspected := e.kindOf(e.keys[name]).(kind.Inspector)
	if _, current := e.keys[name].Current(); !inspected || !current {
		return nil
	}
	return func() {
		result, err := e.inspect(e.ctx, name, mendFixable, rotation.Itself)
		noted := !result.At.IsZero()
		if err != nil && !noted && !Passing(err) && e.ctx.Err() == nil {
			e.noteHealth(of, Health{At: e.Now().UTC(), Fault: say(err.Error())})
		}
	}
}

// noteHealth keeps what a check has found, and says so once if something is wrong that was not before.
func (e *Engine) noteHealth(of string, h Health) {
	var before Health
	e.lock(func() {
		before = e.health[of]
		e.health[of] = h
	})
	if texts := h.Texts(); len(texts) > 0 && !slices.Equal(texts, before.Texts()) {
		e.Observer.Fault("check of "+of, errors.New(strings.Join(texts, "; ")))
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
		return Reconciled{}, unknownKey(name)
	}
	what := mendAll
	if dryRun {
		what = mendNothing
	}
	return e.inspect(ctx, name, what, by)
}

// inspect asks a key's server for its current version and, where it may, mends what is wrong. Meanwhile no action of a
// rotation of the key begins: what it takes away must not be restored.
func (e *Engine) inspect(ctx context.Context, name string, what mend, by rotation.Actor) (Reconciled, error) {
	change, restorer, err := e.inspected(name)
	if err != nil {
		return Reconciled{}, err
	}
	defer e.lock(func() { delete(e.restoring, name) })
	ctx, cancel := context.WithTimeout(ctx, connectionDeadline)
	defer cancel()
	finding, err := inspectServer(ctx, restorer, change)
	if err != nil {
		return Reconciled{}, rotation.Refusef("key %s: %w", name, err)
	}
	if err := e.noteFinding(ctx, name, finding); err != nil {
		return Reconciled{}, err
	}
	result := Reconciled{Health: Health{At: e.Now().UTC(), Problems: finding.Problems, Notes: finding.Notes, Refused: e.whoStillTries(ctx, change)}}
	if len(finding.Problems) == 0 {
		e.isValid(change)
	}
	if mender, ok := restorer.(kind.Restorer); ok && len(finding.Problems) > 0 {
		fixable := !slices.ContainsFunc(finding.Problems, func(p kind.Problem) bool { return !p.Fixable })
		if what != mendFixable || fixable {
			if finding.Kept != "" {
				change.Kept = finding.Kept
			}
			if result.Done, err = e.restore(ctx, mender, change, what, by); err != nil {
				result.Fault = err.Error()
				e.noteHealth(checksKey+name, result.Health)
				return result, rotation.Refusef("key %s: %w", name, err)
			}
		}
	}
	undeleted := e.undeletedProblems(ctx, change, what, by)
	if what == mendNothing || len(result.Done) == 0 {
		result.Problems = append(result.Problems, undeleted...)
		e.noteHealth(checksKey+name, result.Health)
		return result, nil
	}
	return e.mended(ctx, restorer, change, result, undeleted)
}

// tryAgain is a refusal that says nothing of the key: something else is at its server at this moment.
type tryAgain struct{ text string }

func (t tryAgain) Error() string { return t.text }
func (t tryAgain) Unwrap() error { return rotation.Refusef("%s", t.text) }

// Passing reports whether a refusal of Reconcile will soon be over by itself.
func Passing(err error) bool { return errors.As(err, new(tryAgain)) }

// beingChecked reports whether an inspection of the key is under way.
func (e *Engine) beingChecked(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.restoring[name]
}

// inspected returns what an inspection asks about, and marks the key as being looked at.
func (e *Engine) inspected(name string) (kind.Change, kind.Inspector, error) {
	defer e.takeTurn()()
	k := e.keys[name]
	inspector, ok := e.kindOf(k).(kind.Inspector)
	if !ok {
		return kind.Change{}, nil, rotation.Refusef("key %s is of kind %s, whose values no server keeps: there is nothing to reconcile", name, k.Kind)
	}
	if _, ok := k.Current(); !ok {
		return kind.Change{}, nil, rotation.Refusef("key %s has no version yet", name)
	}
	connection, err := e.connectionOf(k)
	if err != nil {
		return kind.Change{}, nil, rotation.Refusef("%w", err)
	}
	if id, acting := e.acting(name); acting {
		return kind.Change{}, nil, tryAgain{fmt.Sprintf("rotation %s has been at the server of key %s for a while; try again, or pause it first with: vault write -f hyvve/rotations/%s/pause", id, name, id)}
	}
	if e.beingChecked(name) {
		return kind.Change{}, nil, tryAgain{fmt.Sprintf("key %s is being checked at this moment; try again", name)}
	}
	e.lock(func() { e.restoring[name] = true })
	change := kind.Change{Key: k, Connection: connection, Kept: k.Kept}
	change.To, change.From = e.validAtServer(k)
	return change, inspector, nil
}

// validAtServer returns the version of a key that its server has to know, and the one beside it that is valid there; empty: none is.
// A rotation that has ended one of its versions at the server may wait before that is stored: it has further keys, with rows. The
// writer lock is held.
func (e *Engine) validAtServer(k key.Key) (stays, beside key.Version) {
	stays, _ = k.Current()
	for _, v := range k.Versions {
		if v.State == key.Previous {
			beside = v
		}
	}
	r, ok := e.active[e.rotating[k.Name]]
	if c, has := r.Change(k.Name); ok && has && slices.ContainsFunc(r.Timeline, func(e rotation.Event) bool { return e.State == r.State && e.Step == rotation.StepErase }) {
		stays, _ = k.Version(r.Staying(c))
		beside = key.Version{}
	}
	return stays, beside
}

// noteFinding stores with the key what only a healthy server knows, and the numbers that it has seen.
func (e *Engine) noteFinding(ctx context.Context, name string, f kind.Finding) error {
	defer e.takeTurn()()
	k, ok := e.keys[name]
	if !ok {
		return unknownKey(name)
	}
	changed := k
	if f.Kept != "" {
		changed.Kept = f.Kept
	}
	if last := k.NextNumber() - 1; f.ServerVersion > last && f.ServerVersion < last+mostAbove {
		changed.Above = f.ServerVersion
	}
	if changed.Kept == k.Kept && changed.Above == k.Above {
		return nil
	}
	if err := e.put(ctx, pathKeys+name, changed); err != nil {
		return err
	}
	e.lock(func() { e.keys[name] = changed })
	return nil
}

// restore makes the current version valid again at its server. What is to be done is journaled before it is done: killed in
// between, the journal says more than was done, and the next check does the rest.
func (e *Engine) restore(ctx context.Context, mender kind.Restorer, change kind.Change, what mend, by rotation.Actor) ([]string, error) {
	todo, err := restoreAt(ctx, mender, change, true)
	if len(todo) == 0 || what == mendNothing {
		return todo, err
	}
	// What cannot be mended does not hold up what can: the second call returns that error again.
	if err := e.journalRestore(ctx, change, todo, what, by); err != nil {
		return nil, err
	}
	done, err := restoreAt(ctx, mender, change, false)
	if err == nil {
		e.isValid(change)
	}
	return done, err
}

// isValid forgets what was to be restored of a version: when it has to be restored again, that is journaled again.
func (e *Engine) isValid(change kind.Change) {
	e.lock(func() { delete(e.intended, versionID{change.Key.Name, change.To.Number}) })
}

// journalRestore writes what is about to be done. A regular check that fails does not write the same again each time.
func (e *Engine) journalRestore(ctx context.Context, change kind.Change, todo []string, what mend, by rotation.Actor) error {
	defer e.takeTurn()()
	text, of := "restoring at the server: "+strings.Join(todo, "; "), versionID{change.Key.Name, change.To.Number}
	if what == mendFixable && e.intended[of] == text {
		return nil
	}
	err := e.journal.Add(ctx, journal.Entry{
		What: text, By: by.Name, Entity: by.Entity,
		Keys: []journal.Key{{Key: change.Key.Name, From: change.To.Number, To: change.To.Number, Fingerprint: change.To.Fingerprint}},
	})
	if err == nil {
		e.lock(func() { e.intended[of] = text })
	}
	return err
}

// mended looks again, and lets rotations that failed at the server try again.
func (e *Engine) mended(ctx context.Context, inspector kind.Inspector, change kind.Change, result Reconciled, undeleted []kind.Problem) (Reconciled, error) {
	finding, err := inspectServer(ctx, inspector, change)
	result.Health = Health{At: e.Now().UTC(), Problems: finding.Problems, Notes: finding.Notes, Refused: result.Refused, Mended: result.Done}
	if err != nil {
		result.Fault = err.Error()
	}
	result.Problems = append(result.Problems, undeleted...)
	e.noteHealth(checksKey+change.Key.Name, result.Health)
	defer e.takeTurn()()
	return result, e.tryAgain(ctx, change.Connection.Name)
}

// inspections looks at the current versions of a plan's keys at their servers. What a rotation would not go through with is a
// blocker. seen reports whether a server has told a number that Vault did not know.
func (e *Engine) inspections(ctx context.Context, names []string) (blockers, notes []remark, seen bool) {
	found := make([]Reconciled, len(names))
	errs := make([]error, len(names))
	keys := make([]key.Key, len(names))
	var group sync.WaitGroup
	for n, name := range names {
		keys[n], _ = e.Key(name)
		if _, ok := e.kindOf(keys[n]).(kind.Inspector); ok {
			group.Go(func() { found[n], errs[n] = e.inspect(ctx, name, mendNothing, rotation.Itself) })
		}
	}
	group.Wait()
	for n, name := range names {
		if Passing(errs[n]) { // another check is asking the server right now
			found[n].Health, errs[n] = e.KeyHealth(name), nil
			if found[n].At.IsZero() {
				found[n].Notes = []string{"its first check at the server is under way; ask for the plan again"}
			}
			if found[n].Fault != "" {
				errs[n] = errors.New(found[n].Fault)
			}
		}
		if errs[n] != nil && len(found[n].Problems) == 0 {
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
		now, _ := e.Key(name)
		seen = seen || now.Above != keys[n].Above
	}
	return blockers, notes, seen
}
