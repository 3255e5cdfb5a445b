// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Whole is what a request for all keys has come to, beside the rotation that keeps it.
type Whole struct {
	With    []With    `json:"with,omitempty"`
	LeftOut []LeftOut `json:"left_out,omitempty"`
	More    int       `json:"more,omitempty"` // keys that are left out and not listed
}

// With is another rotation of the same request: one that it has started or escalated, or that had nothing to be changed of.
type With struct {
	ID   string `json:"id"` // empty in a plan: it does not exist yet
	Text string `json:"text"`
}

// LeftOut is a key that a request for all keys does not rotate.
type LeftOut struct {
	Key    string `json:"key"`
	Reason string `json:"reason"` // with the command that helps
}

// Bounds of what a rotation keeps of a request for all keys.
const (
	maxLeftOut   = 100
	maxWithText  = 100 // of which there is a text; the ids of all are kept
	maxWholeText = 512
)

// Leave notes that a key is left out.
func (w *Whole) Leave(name, reason string) {
	if len(w.LeftOut) == maxLeftOut {
		w.More++
		return
	}
	w.LeftOut = append(w.LeftOut, LeftOut{name, kind.CutText(reason, maxWholeText)})
}

// Join notes another rotation of the request.
func (w *Whole) Join(id, text string) {
	if len(w.With) >= maxWithText {
		text = "see its record"
	}
	w.With = append(w.With, With{id, kind.CutText(text, maxWholeText)})
}

// LeftOutText names the keys that are left out; empty: none is.
func (w *Whole) LeftOutText() string {
	if w == nil || len(w.LeftOut) == 0 {
		return ""
	}
	list := firstThree{n: len(w.LeftOut) + w.More}
	for _, left := range w.LeftOut[:min(3, len(w.LeftOut))] {
		list.words = append(list.words, left.Key)
	}
	return fmt.Sprintf("keys=all leaves out %s", list)
}

// WithText names the other rotations of the request; empty: there is none.
func (w *Whole) WithText() string {
	if w == nil || len(w.With) == 0 {
		return ""
	}
	var ids firstThree
	for _, with := range w.With {
		if with.ID != "" {
			ids.add(func() string { return with.ID })
		}
	}
	var parts []string
	if ids.n > 0 {
		parts = append(parts, "keys=all is also about "+ids.String())
	}
	switch planned := len(w.With) - ids.n; {
	case planned == 1:
		parts = append(parts, "keys=all starts one more rotation beside this one")
	case planned > 1:
		parts = append(parts, fmt.Sprintf("keys=all starts %d more rotations beside this one", planned))
	}
	return strings.Join(parts, "; ")
}
