// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ProofEmpty stands in place of a proof where a workload had no live instance.
const ProofEmpty = "empty"

func stepText(state, step string) string { return strings.TrimSpace(state + " " + step) }

func (p Proof) line() string {
	text := fmt.Sprintf("at the end of %s, %s: ", stepText(p.State, p.Step), p.Time.inLine())
	if p.Proof == ProofEmpty {
		return text + fmt.Sprintf("no instance of %s was live, so that nothing is proved there", p.Workload)
	}
	names := make([]string, 0, len(p.Instances))
	for _, i := range p.Instances {
		name := i.Instance
		if !i.Time.IsZero() {
			name += " (" + i.Time.inLine() + ")"
		}
		names = append(names, name)
	}
	text += fmt.Sprintf("%d of %s, proof %s, %s: %s", p.Count, p.Workload, strings.TrimSpace(p.Proof+" "+p.Grade), holdsText(p.Holds), strings.Join(names, ", "))
	if p.Digest != "" {
		text += " and others; SHA-256 over all: " + p.Digest
	}
	return text
}

// holdsText is what instances held, in words.
func holdsText(held map[string]Held) string {
	if len(held) == 0 {
		return "nothing of these keys"
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(held)) {
		all = append(all, strings.TrimSpace(name+" "+held[name].line()))
	}
	return strings.Join(all, "; ")
}

func (c Cut) line() string {
	text := fmt.Sprintf("%s: %s of %s: %s", c.Time.inLine(), c.Gate, stepText(c.State, c.Step), c.Reason)
	if c.Count > 0 {
		text += fmt.Sprintf("; %d instances: %s", c.Count, strings.Join(c.Instances, ", "))
	}
	if c.Digest != "" {
		text += " and others; SHA-256 over all: " + c.Digest
	}
	return text
}

func (o LockedOut) line() string {
	return fmt.Sprintf("%s/%s, which %s; %s", o.Workload, o.Instance, o.Text, o.Remedy)
}
