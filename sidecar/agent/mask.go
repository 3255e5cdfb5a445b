// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// mask hides every value of this bundle and of the one before in a text, the longest first: one may be part of another.
func (a *Agent) mask(text string) string {
	var all []string
	for _, b := range []client.Bundle{a.bundle, a.before} {
		for _, v := range b.Values {
			all = append(all, v.Reveal())
		}
		for _, list := range b.Accepts {
			for _, v := range list {
				all = append(all, v.Reveal())
			}
		}
	}
	for _, v := range all {
		all = append(all, lines(v)...)
	}
	slices.SortFunc(all, func(x, y string) int { return len(y) - len(x) })
	for _, v := range all {
		if v != "" {
			text = strings.ReplaceAll(text, v, "[redacted]")
		}
	}
	return text
}

// lines are those of a value that has several. An error may quote one of them.
func lines(value string) (all []string) {
	for line := range strings.SplitSeq(value, "\n") {
		if len(line) >= valueLeast && len(line) < len(value) {
			all = append(all, line)
		}
	}
	return all
}
