// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// KeepText says what becomes of the value that leaves; empty where the facts do not say.
func (r Rotation) KeepText(c Change, f Facts) string {
	keep, ok := f.Keeps[c.Key]
	if !ok || r.Finished() {
		return ""
	}
	asked := ""
	if r.Retain != nil {
		asked = fmt.Sprintf(" (retain=%s of this rotation)", *r.Retain)
	}
	if keep == 0 {
		return fmt.Sprintf("the value of version %d is erased at the end, and not retained%s: it cannot be brought back", r.Leaving(c), asked)
	}
	return fmt.Sprintf("the value of version %d is retained for %s after its end, in no bundle%s", r.Leaving(c), keep, asked)
}

// lossNote tells a user who confirms which values cannot be brought back, or for a shorter or longer time than the keys say.
func (r Rotation) lossNote(f Facts) string {
	var all []string
	for _, c := range r.Changes {
		if keep, ok := f.Keeps[c.Key]; ok && (keep == 0 || r.Retain != nil) {
			all = append(all, c.Env+": "+r.KeepText(c, f))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}

// RetentionTexts returns, by key, what becomes of the value that a rotation replaces.
func (r Rotation) RetentionTexts(f Facts) map[string]string {
	texts := map[string]string{}
	for _, c := range r.Changes {
		if text := cmp.Or(r.Ends[c.Key], r.KeepText(c, f)); text != "" {
			texts[c.Key] = text
		}
	}
	return texts
}

// entering returns the timeline's text for entering a step, with what becomes of the values that are replaced.
func (r Rotation) entering(to step, f Facts) string {
	var all []string
	for _, c := range r.Changes {
		switch {
		case to.name == StepErase && r.KeepText(c, f) != "":
			all = append(all, c.Env+": "+r.KeepText(c, f))
		case (to.state == Done || to.state == Reverted) && r.Ends[c.Key] != "":
			all = append(all, c.Env+": "+r.Ends[c.Key])
		}
	}
	return strings.Join(append([]string{to.enter}, all...), "; ")
}

// EndText says what has become of the values that left.
func (r Rotation) EndText(k key.Key, c Change) string {
	numbers := []int{r.Leaving(c)}
	if r.State == Retiring {
		numbers = append(numbers, c.Also...)
	}
	var all []string
	for _, number := range numbers {
		if v, ok := k.Version(number); ok && v.State == key.Retained {
			all = append(all, fmt.Sprintf("the value of version %d is retained until %s", number, Stamp(v.Until)))
		} else {
			all = append(all, fmt.Sprintf("the value of version %d is erased", number))
		}
	}
	return strings.Join(all, ", ")
}
