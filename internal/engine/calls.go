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
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// planDeadline bounds how long a plan waits for servers.
const planDeadline = 15 * time.Second

// connectionDeadline bounds what a connection's server is asked for while somebody waits for the answer.
const connectionDeadline = 30 * time.Second

// serverCall asks the server of a key for something. One that samples does so for that long; 0: it looks once.
type serverCall struct {
	key, connection string
	do              doCall
}

// doCall makes a call. It stores by the engine what the server has made.
type doCall func(ctx context.Context, e servers, long time.Duration) error

// serverCalls returns the calls that an action needs, one a key whose kind has a server. Before stage every key is checked
// first, so that nothing is changed for one where another cannot be.
func (l *locked) serverCalls(r rotation.Rotation, what rotation.Action) ([]serverCall, error) {
	if what == rotation.ActPromote || what == rotation.ActErase {
		return nil, nil
	}
	var checks, calls []serverCall
	for _, c := range r.Changes {
		check, call, err := l.callsOf(r, c, what)
		if err != nil {
			return nil, keyFault{key: c.Key, err: err}
		}
		checks, calls = append(checks, check...), append(calls, call...)
	}
	return append(checks, calls...), nil
}

// callsOf is serverCalls of one key.
func (l *locked) callsOf(r rotation.Rotation, c rotation.Change, what rotation.Action) (checks, calls []serverCall, err error) {
	k, ok := l.Keys[c.Key]
	if !ok {
		return nil, nil, fmt.Errorf("key %s is gone", c.Key)
	}
	kd, err := l.Kinds.Get(k.Kind)
	if err != nil {
		return nil, nil, err
	}
	verifier, ok := kd.(kind.Verifier)
	if !ok {
		return nil, nil, nil
	}
	connection, err := l.ConnectionOf(k)
	if err != nil {
		return nil, nil, err
	}
	from, _ := k.Version(c.From)
	to, _ := k.Version(c.To)
	// Where the value is gone, the server has done it: only the rotation's record of it was lost.
	done := what == rotation.ActRetire && !from.State.Live() || what == rotation.ActUnstage && !to.State.Live()
	change := kind.Change{Key: k, From: from, To: to, Connection: connection, Cut: r.Compromised, Kept: k.Kept}
	if err := l.StillShared(r, k, what, change); err != nil && !done {
		return nil, nil, err
	}
	call := func(do doCall) serverCall {
		return serverCall{k.Name, connection.Name, do}
	}
	if what == rotation.ActStage {
		if err := l.CheckHosts(k, to.Value); err != nil {
			return nil, nil, fmt.Errorf("key %s: %w", k.Name, err)
		}
		if preflighter, ok := kd.(kind.Preflighter); ok {
			refuse := preflightCall{preflighter, change}.refuse
			checks = append(checks, call(func(ctx context.Context, _ servers, _ time.Duration) error { return refuse(ctx) }))
		}
	}
	server, ok := kd.(kind.Server)
	_, sessionless := kd.(kind.Sessionless)
	switch {
	case sessionless && what == rotation.ActSample:
	case !ok && what == rotation.ActStage:
		calls = append(calls, call(func(ctx context.Context, _ servers, _ time.Duration) error {
			return untrusted.Verify(ctx, verifier, change)
		}))
	case !ok:
	case !done:
		calls = append(calls, call(callFor(server, what, change, r.LookAgain(l.Now()))))
		fallthrough
	default:
		for _, number := range l.Leaked(r, k) {
			if change.From, _ = k.Version(number); what == rotation.ActRetire {
				calls = append(calls, call(callFor(server, what, change, 0)))
			}
		}
	}
	return checks, calls, nil
}

// callFor returns the call that an action makes to a server; again is for how long it looks for use before it takes a
// version away.
func callFor(server kind.Server, what rotation.Action, c kind.Change, again time.Duration) doCall {
	return func(ctx context.Context, e servers, long time.Duration) error {
		switch what {
		case rotation.ActStage:
			_, err := e.stageAt(ctx, server, c)
			return err
		case rotation.ActSample:
			return unused(ctx, server, c, long)
		case rotation.ActRetire:
			if !c.Cut {
				if err := unusedStill(ctx, server, c, again); err != nil {
					return err
				}
			}
			return untrusted.Retire(ctx, server, c)
		case rotation.ActUnstage:
			if !c.Cut { // the workloads that presented the new version have gone back; what they have still open at the server may not have
				back := c
				back.From, back.To = c.To, c.From
				if err := unusedStill(ctx, server, back, again); err != nil {
					return err
				}
			}
			return untrusted.Unstage(ctx, server, c)
		case rotation.NoAction, rotation.ActPromote, rotation.ActErase:
		}
		return nil
	}
}

// unused returns an error while the server says that From is in use, at once or at any moment for that long.
func unused(ctx context.Context, server kind.Server, c kind.Change, long time.Duration) error {
	if _, ok := server.(kind.Sessionless); ok {
		return nil
	}
	count, use, err := untrusted.InUse(ctx, server, c, long)
	if count > 0 && errors.As(err, new(kind.Unattributed)) {
		err = nil
	}
	if err == nil && count > 0 {
		err = inUse{fmt.Sprintf("%s: version %d is in use: %s", c.Key.Env, c.From.Number, use)}
	}
	return err
}

// unusedStill is unused once more, right before a version is taken away. Logins that are too short to see whose they were, or are
// not counted, do not hold that up: the samples that opened the way of a rotation have taken them into account, and the
// undeleted version that somebody ends can be undeleted again.
func unusedStill(ctx context.Context, server kind.Server, c kind.Change, long time.Duration) error {
	err := unused(ctx, server, c, long)
	if errors.As(err, new(kind.Unattributed)) {
		return nil
	}
	return err
}

// hasteDeadline is actionDeadline where others wait for the call that have nothing to do with its server.
const hasteDeadline = 15 * time.Second

// deadlineOf is how long a call of a rotation may take.
func deadlineOf(calls []serverCall, r rotation.Rotation, what rotation.Action) time.Duration {
	asked, several := map[string]bool{}, false
	for _, call := range calls {
		asked[call.key] = true
		several = several || call.connection != calls[0].connection
	}
	if r.Parts(what) && (several || len(asked) < len(r.Changes)) {
		return hasteDeadline
	}
	return actionDeadline
}

// callAll makes the calls of several keys one after the other, each in time. Where versions are taken away, a server that fails keeps none of
// the others from doing that. The error, a [keyFault], is of the first that has failed.
func (e servers) callAll(calls []serverCall, r rotation.Rotation) (fault error) {
	failed, deadline := map[string]bool{}, deadlineOf(calls, r, r.Action())
	for _, call := range calls {
		if failed[call.connection] {
			continue
		}
		ctx, cancel := context.WithTimeout(e.ctx, deadline)
		err := call.do(ctx, e, 0)
		slow := ctx.Err() != nil
		cancel()
		if err == nil {
			continue
		}
		if fault == nil {
			fault = keyFault{call.key, slow, err}
		}
		if what := r.Action(); what != rotation.ActRetire && what != rotation.ActUnstage {
			break
		}
		failed[call.connection] = call.connection != ""
	}
	return fault
}

// sampleAll samples the servers of several keys at the same time. The error is of all that have seen use, or a
// [keyFault] of the first that has failed.
func (e servers) sampleAll(calls []serverCall, r rotation.Rotation, long time.Duration) error {
	ctx, cancel := context.WithTimeout(e.ctx, deadlineOf(calls, r, rotation.ActSample))
	defer cancel()
	errs := make([]error, len(calls))
	var busy sync.WaitGroup
	for n, call := range calls {
		if long == 0 { // it takes a moment only
			errs[n] = call.do(ctx, e, 0)
			continue
		}
		busy.Go(func() { errs[n] = call.do(ctx, e, long) })
	}
	busy.Wait()
	var seen []string
	var short error
	for n, err := range errs {
		if use := (inUse{}); errors.As(err, &use) {
			seen = append(seen, use.text)
		} else if errors.As(err, new(kind.Unattributed)) {
			short = err
		} else if err != nil {
			return keyFault{calls[n].key, ctx.Err() != nil, err}
		}
	}
	if len(seen) > 0 {
		return inUse{strings.Join(seen, "; ")}
	}
	return short
}

// preflightCall is a change that its kind can check before it is made.
type preflightCall struct {
	kind   kind.Preflighter
	change kind.Change
}

// refuse returns an error that lists what would stop the change.
func (p preflightCall) refuse(ctx context.Context) error {
	blockers, _, err := untrusted.Preflight(ctx, p.kind, p.change)
	if err == nil && len(blockers) > 0 {
		err = blocked{untrusted.Text(strings.Join(blockers, "; "))}
	}
	return err
}

// preflightCalls returns the changes of a drafted rotation that can be checked. staged are its keys.
func (rs *records) preflightCalls(r rotation.Rotation, staged []key.Key) ([]preflightCall, error) {
	var calls []preflightCall
	for _, c := range r.Changes {
		n := slices.IndexFunc(staged, func(k key.Key) bool { return k.Name == c.Key })
		k := staged[n]
		preflighter, ok := rs.KindOf(k).(kind.Preflighter)
		if !ok {
			continue
		}
		connection, err := rs.ConnectionOf(k)
		if err != nil {
			return nil, rotation.Refusef("%w", err)
		}
		change := kind.Change{Key: k, Connection: connection, Cut: r.Compromised, Kept: k.Kept}
		change.From, _ = k.Version(c.From)
		change.To, _ = k.Version(c.To)
		calls = append(calls, preflightCall{preflighter, change})
	}
	return calls, nil
}

// preflight checks changes at their servers, all at the same time. A check that fails is a blocker, too.
func preflight(ctx context.Context, calls []preflightCall) (blockers, notes []remark) {
	ctx, cancel := context.WithTimeout(ctx, planDeadline)
	defer cancel()
	found := make([]struct{ blockers, notes []string }, len(calls))
	var group sync.WaitGroup
	for n, call := range calls {
		group.Go(func() {
			b, also, err := untrusted.Preflight(ctx, call.kind, call.change)
			if err != nil {
				b = append(b, err.Error())
			}
			found[n].blockers, found[n].notes = b, also
		})
	}
	group.Wait()
	for n, call := range calls {
		for _, text := range found[n].blockers {
			blockers = append(blockers, remark{call.change.Key.Env, text})
		}
		for _, text := range found[n].notes {
			notes = append(notes, remark{call.change.Key.Env, text})
		}
	}
	return blockers, notes
}

func checkConnection(ctx context.Context, connector kind.Connector, c kind.Connection) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, connectionDeadline)
	defer cancel()
	notes, err := untrusted.CheckConnection(ctx, connector, c)
	return append(notes, kind.OpenHosts(c)...), err
}

// tryRows is how many rows of a column the engine opens to try a witness.
const tryRows = 3

// witnessTry is a short look at the rows of a key by the connection that is its witness. A rotation needs the witness when
// there is no way back any more, so that a fault has to show before its first change.
type witnessTry struct {
	env        string
	looker     kind.RowLooker
	connection kind.Connection
	look       kind.RowLook
	version    int
	counted    counted // by an instance, of the current version; zero: by none
}

// witnessTries returns a try of each key whose witness is a connection.
func (s *state) witnessTries(names []string) (all []witnessTry) {
	m, unlock := s.memory.Lock()
	defer unlock()
	for _, name := range names {
		k := m.Keys[name]
		current, ok := k.Current()
		if !ok || len(k.Protects) == 0 || !rotation.ByConnection(k.Witness) {
			continue
		}
		looker, connection, err := m.Looker(k.Witness)
		if err != nil { // refused on write, and the connection cannot be deleted
			continue
		}
		// Before a rotation, rows may be under undeleted versions, too, as after a revert.
		others := m.OtherValues(rotation.Rotation{State: rotation.Reverting}, rotation.Change{Key: name, Protects: k.Protects})
		t := witnessTry{k.Env, looker, connection, kind.RowLook{Columns: k.Protects, Value: current.Value, Others: others, Most: tryRows}, current.Number, counted{}}
		if last := m.counted[name]; last.report.ID == catalog.CountID(k, current.Number) && last.report.Error == "" {
			t.counted = last
		}
		all = append(all, t)
	}
	return all
}

// fault returns why the engine could not be a witness now; nil: it could.
func (t witnessTry) fault(ctx context.Context) error {
	report, err := untrusted.LookAtRows(ctx, t.looker, t.connection, t.look)
	if err != nil {
		return fmt.Errorf("the engine cannot look at the rows by connection %s, its witness: %w", t.connection.Name, err)
	}
	if there := t.counted.report.Place; there != nil && report.Place != nil {
		if how := report.Place.Differs(*there); how != "" {
			return fmt.Errorf("%s, where connection %s, its witness, leads to and where %s has counted the rows; mend the database URL of the one that is wrong", how, t.connection.Name, t.counted.instance)
		}
	}
	total, open := 0, 0
	for _, c := range report.Columns {
		total, open = total+c.Total, open+c.Rotated+c.Other
	}
	if total > 0 && open == 0 {
		return fmt.Errorf("none of the %d rows that the engine has tried by connection %s, its witness, opens under version %d; does its url lead to the database of the rows?", total, t.connection.Name, t.version)
	}
	return nil
}

// try tries witnesses.
func (s *state) try(ctx context.Context, tries []witnessTry) (faults []remark) {
	ctx, cancel := context.WithTimeout(ctx, planDeadline)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	for _, t := range tries {
		if err := t.fault(ctx); err != nil {
			faults = append(faults, remark{t.env, err.Error()})
		}
	}
	return faults
}

// blind tries the witnesses of all keys, and says what is wrong, by the keys' environment names. Connections are tried at the same time:
// one that hangs keeps no other from being tried.
func (s *state) blind(ctx context.Context) map[string]string {
	by := map[string][]witnessTry{} // connection
	for _, t := range s.witnessTries(s.KeyNames()) {
		by[t.connection.Name] = append(by[t.connection.Name], t)
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	faults := map[string]string{}
	for _, tries := range by {
		group.Go(func() {
			found := s.try(ctx, tries)
			mu.Lock()
			defer mu.Unlock()
			for _, fault := range found {
				faults[fault.env] = fault.text
			}
		})
	}
	group.Wait()
	return faults
}

// TryWitness tries the witness of a key, and returns what is wrong with it.
func (s *state) TryWitness(ctx context.Context, name string) []string {
	return summed(s.try(ctx, s.witnessTries([]string{name})))
}
