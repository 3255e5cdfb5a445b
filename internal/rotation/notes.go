// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Notes are what is seen of a running rotation between two of its records: for how long gates hold it back, and who uses an old
// version. The next record has them. Those that a crash loses are made good where a gate still does not hold.
type Notes struct {
	At    time.Time    // of the last look at the gates; zero: there was none
	Waits []GateResult // that did not hold then
	Times []GateTime
	Uses  []Use
}

// Looked returns the notes after a look at the gates of the rotation's step. What did not hold at the look before has held the
// rotation back until this one.
func (n Notes) Looked(r Rotation, results []GateResult, now time.Time) Notes {
	waits := slices.DeleteFunc(slices.Clone(results), func(g GateResult) bool { return g.Holds })
	if n.At.IsZero() { // since a restart
		n.At, n.Waits = r.noted(), waits
	}
	n = n.until(r, now)
	n.Waits = waits
	return n
}

// gateUnknown stands for the gates that held a rotation back while the engine was restarted, and held when it was back.
const gateUnknown = "unknown"

// noted returns until when the receipt has for how long the gates of the present step have held the rotation back.
func (r Rotation) noted() time.Time {
	if r.Receipt.Noted.After(r.Since) {
		return r.Receipt.Noted
	}
	return r.Since
}

// until adds the time since the last look.
func (n Notes) until(r Rotation, now time.Time) Notes {
	n.Times = slices.Clone(n.Times)
	passed := max(now.Sub(n.At), 0)
	for _, g := range n.Waits {
		n.Times = withTime(n.Times, GateTime{State: r.State, Step: r.Step, Gate: g.Name, Held: passed, Last: now.UTC().Round(0), Reason: kind.CutText(g.Reason, maxReceiptText)})
	}
	n.At = now
	return n
}

// Seen returns the notes with a use of an old version.
func (n Notes) Seen(text string, at time.Time) Notes {
	at = at.UTC().Round(0)
	n.Uses = withUse(n.Uses, Use{Text: kind.CutText(text, maxReceiptText), First: at, Last: at, Times: 1})
	return n
}

// Noting returns a rotation that is stored in place of before, with what was noted since, and the notes that stay.
func (r Rotation) Noting(before Rotation, n Notes, now time.Time) (Rotation, Notes) {
	if n.At.IsZero() && before.ID != "" {
		n.At, n.Waits = before.noted(), []GateResult{{Name: gateUnknown, Reason: "the engine was restarted; what held the rotation back meanwhile did so no longer"}}
	}
	if !n.At.IsZero() && now.After(n.At) {
		n = n.until(before, now)
	}
	receipt := r.Receipt.clone()
	for _, t := range n.Times {
		receipt.Gates = withTime(receipt.Gates, t)
	}
	for _, u := range n.Uses {
		receipt.Uses = withUse(receipt.Uses, u)
	}
	receipt.Noted = now.UTC().Round(0)
	r.Receipt = receipt.bounded()
	rest := Notes{At: now}
	if r.State == before.State && r.Step == before.Step {
		rest.Waits = n.Waits
	}
	return r, rest
}

// withTime returns times with one more, which is added to that of the same gate and step.
func withTime(all []GateTime, t GateTime) []GateTime {
	n := slices.IndexFunc(all, func(o GateTime) bool { return o.State == t.State && o.Step == t.Step && o.Gate == t.Gate })
	if n < 0 {
		return append(all, t)
	}
	all[n].Held, all[n].Last, all[n].Reason = all[n].Held+t.Held, t.Last, t.Reason
	return all
}
