// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// lineTime is how lines show moments: to the second.
const lineTime = "2006-01-02T15:04:05Z"

func (t Time) inLine() string { return t.UTC().Format(lineTime) }

func (v KeyVersion) line() string {
	text := fmt.Sprintf("version %d: %s", v.Version, v.State)
	if !v.Until.IsZero() {
		text += " until " + v.Until.inLine()
	}
	text += ", made " + v.Created.inLine()
	if v.CreatedBy != "" {
		text += " by " + v.CreatedBy
	}
	if v.Rotation != "" {
		text += " in rotation " + v.Rotation
	}
	return text + ", fingerprint " + v.Fingerprint
}

func (k PresetKey) line() string {
	text := k.Kind + " " + k.Env
	for _, name := range slices.Sorted(maps.Keys(k.Options)) {
		text += ", " + name + " " + k.Options[name]
	}
	if len(k.Protects) > 0 {
		text += ", protects " + strings.Join(k.Protects, " and ")
	}
	if k.RotationPeriod > 0 {
		text += fmt.Sprintf(", rotation_period %v", Plain(k)["rotation_period"])
	}
	return text + definedText(k.Defined)
}

func (w PresetWorkload) line() string {
	text := "keys " + strings.Join(w.Keys, ", ")
	if len(w.After) > 0 {
		text += "; after " + strings.Join(w.After, ", ")
	}
	if w.Reencrypts {
		text += "; re-encrypts"
	}
	if w.RequireProof != "" {
		text += "; require_proof " + w.RequireProof
	}
	return text + definedText(w.Defined)
}

func definedText(defined bool) string {
	if defined {
		return "; defined"
	}
	return "; not defined"
}

func (k EntryKey) line() string {
	text := k.Key
	switch {
	case k.From > 0 && k.To > 0:
		text += fmt.Sprintf(" %d -> %d", k.From, k.To)
	case k.From+k.To > 0:
		text += fmt.Sprintf(" version %d", k.From+k.To)
	}
	if k.Fingerprint != "" {
		text += ", fingerprint " + k.Fingerprint
	}
	return text
}

func (c EntryChange) line() string {
	return c.Field + ": " + cmp.Or(c.From, "nothing") + " -> " + cmp.Or(c.To, "nothing")
}

// line says an entry without its hashes.
func (n Entry) line() string {
	text := fmt.Sprintf("%s %s %s", n.ID, n.Time.inLine(), n.What)
	for _, k := range n.Keys {
		k.Fingerprint = ""
		text += ", key " + k.line()
	}
	for _, of := range []struct{ name, value string }{
		{"rotation", n.Rotation}, {"workload", n.Workload}, {"connection", n.Connection}, {"by", n.By},
	} {
		if of.value != "" {
			text += ", " + of.name + " " + of.value
		}
	}
	for _, c := range n.Changes {
		text += "; " + c.line()
	}
	for _, of := range []struct{ name, value string }{{"reason", n.Reason}, {"REFUSED", n.Refused}, {"FAILED", n.Failed}} {
		if of.value != "" {
			text += "; " + of.name + ": " + of.value
		}
	}
	return text
}
