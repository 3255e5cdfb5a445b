// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// planDeadline bounds how long a plan waits for servers.
const planDeadline = 15 * time.Second

// blocked is what an operator has to mend before anything is changed. It is looked at again soon, since the operator waits
// for that.
type blocked struct{ text string }

func (b blocked) Error() string { return b.text }

// lookBlocked is the longest time between two looks at what blocks a rotation.
const lookBlocked = 15 * time.Second

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

// remark is what a plan says of a key.
type remark struct{ env, text string }

// localPort is that of our end of a connection, another one with each.
var localPort = regexp.MustCompile(`:\d+->`)

// summed returns remarks in their order, each text once, with all keys that it is said of: an inspection and a preflight find
// the same, and so do those of keys that share a connection.
func summed(lists ...[]remark) (all []string) {
	var order []string
	envs, first := map[string][]string{}, map[string]string{}
	for _, r := range slices.Concat(lists...) {
		same := localPort.ReplaceAllString(r.text, "->")
		if _, said := first[same]; !said {
			order, first[same] = append(order, same), r.text
		}
		if !slices.Contains(envs[same], r.env) {
			envs[same] = append(envs[same], r.env)
		}
	}
	for _, same := range order {
		all = append(all, strings.Join(envs[same], ", ")+": "+first[same])
	}
	return all
}
