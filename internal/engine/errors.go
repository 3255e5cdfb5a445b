// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// inUse is what keeps an old version alive at its server. It is no failure: it is looked at again soon.
type inUse struct{ text string }

func (u inUse) Error() string { return u.text }

// blocked is what an operator has to mend before anything is changed. It is looked at again soon, since the operator waits
// for that.
type blocked struct{ text string }

func (b blocked) Error() string { return b.text }

// keyFault is why what an action asks of the server of a key has failed.
type keyFault struct {
	key  string
	slow bool // it has not answered in time
	err  error
}

func (f keyFault) Error() string { return f.err.Error() }

func (f keyFault) Unwrap() error { return f.err }

// tryAgain is a refusal that says nothing of the key: something else is at its server at this moment.
type tryAgain struct{ text string }

func (t tryAgain) Error() string { return t.text }

func (t tryAgain) Unwrap() error { return rotation.Refusef("%s", t.text) }

// Passing reports whether a refusal of Reconcile will soon be over by itself.
func Passing(err error) bool { return errors.As(err, new(tryAgain)) }

// lookAgain is the longest time between two looks at what still uses a version.
const lookAgain = 5 * time.Second

// lookBlocked is the longest time between two looks at what blocks a rotation.
const lookBlocked = 15 * time.Second

// retryAfter is when an action is tried again.
func retryAfter(attempts int, fault error) time.Duration {
	if use := (inUse{}); errors.As(fault, &use) {
		return min(schedule.Backoff(attempts), lookAgain)
	}
	if b := (blocked{}); errors.As(fault, &b) {
		if attempts >= schedule.OrphanAfter {
			return schedule.MaxBackoff
		}
		return min(schedule.Backoff(attempts), lookBlocked)
	}
	return schedule.Backoff(attempts)
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

// maxHolders is how many instances an answer names.
const maxHolders = 10

// someOf joins names, of which it leaves out all but the first.
func someOf(names []string) string {
	text := strings.Join(names[:min(len(names), maxHolders)], ", ")
	if more := len(names) - maxHolders; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
