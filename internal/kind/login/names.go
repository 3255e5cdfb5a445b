// SPDX-License-Identifier: Apache-2.0

package login

import (
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// SuffixLength is how many bytes a suffix has.
const SuffixLength = len("_a")

// Names says how a kind names the logins of a key.
type Names struct {
	Limit    int      // bytes of a name with its suffix
	Suffixes []string // one of each login, in the order in which they take turns: _a, _b, …
	Legacy   int      // bytes of a name of a release before marks, without its suffix
}

// Of returns the logins of a key, in the order in which they take turns. With the option username they are that name with the
// suffixes. Otherwise they begin with the key's name, with '_' for '-' and '.', and contain the mount's id. A hash of the
// key's name follows where the readable part alone could be another key's: it has been cut, or the key's name holds a '.' or
// '_'.
func (n Names) Of(k key.Key) []string {
	base := k.Options[kind.OptionUsername]
	if base == "" {
		base = baseOf(k, n.Limit-SuffixLength)
	}
	return suffixed(base, n.Suffixes)
}

func suffixed(base string, suffixes []string) []string {
	all := make([]string, 0, len(suffixes))
	for _, suffix := range suffixes {
		all = append(all, base+suffix)
	}
	return all
}

func baseOf(k key.Key, limit int) string {
	readable, tail := plain(k.Name), ""
	if k.Mount != "" {
		tail = "_" + k.Mount
	}
	if strings.ContainsAny(k.Name, "._") || len(readable)+len(tail) > limit {
		tail += "_" + key.ShortHash(k.Name)
	}
	return readable[:max(0, min(len(readable), limit-len(tail)))] + tail
}

func plain(name string) string { return strings.NewReplacer("-", "_", ".", "_").Replace(name) }

// Pair returns the two logins of a key as releases before marks named them: by the key alone, cut where they were too long.
func (n Names) Pair(k key.Key) []string {
	base := k.Options[kind.OptionUsername]
	if base == "" {
		base = plain(k.Name)
		base = base[:min(len(base), n.Legacy)]
	}
	return suffixed(base, n.Suffixes[:2])
}

// Siblings returns the logins of the key that take turns with one, itself among them; false where it is none of them.
func (n Names) Siblings(k key.Key, login string) ([]string, bool) {
	for _, names := range [][]string{n.Of(k), n.Pair(k)} {
		if slices.Contains(names, login) {
			return names, true
		}
	}
	return nil, false
}

// Ours reports whether a login has the name of one of the key's. Whether it is the key's, its mark says.
func (n Names) Ours(k key.Key, login string) bool {
	_, ok := n.Siblings(k, login)
	return ok
}

// ArePair reports whether two logins are those that releases before marks made.
func (n Names) ArePair(k key.Key, one, other string) bool {
	pair := n.Pair(k)
	return one != other && slices.Contains(pair, one) && slices.Contains(pair, other)
}

// Next returns the login that is so many turns after another, and never that itself.
func (n Names) Next(k key.Key, login string, turns int) string {
	names := n.Of(k)
	at := slices.Index(names, login)
	if next := names[(at+turns)%len(names)]; next != login {
		return next
	}
	return names[(at+1)%len(names)]
}
