// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Receipt is what a rotation keeps of how it went, for those who look at it when it has ended. It has version numbers and
// names, and no value.
type Receipt struct {
	Gates     []GateTime `json:"gates,omitempty"`     // that have held it back, in the order in which they first did
	Uses      []Use      `json:"uses,omitempty"`      // of old versions that were seen
	Cuts      []Cut      `json:"cuts,omitempty"`      // gates that were not waited for
	Snapshots []Snapshot `json:"snapshots,omitempty"` // of the instances, as each step ended that gave them something else

	// Noted is when the gates were last looked at, as far as Gates has it.
	Noted time.Time `json:"noted,omitzero"`
}

// GateTime is for how long a gate has held a rotation back in one step.
type GateTime struct {
	State  State         `json:"state"`
	Step   Step          `json:"step,omitempty"`
	Gate   string        `json:"gate"`
	Held   time.Duration `json:"held"`
	Last   time.Time     `json:"last"`   // when it last did
	Reason string        `json:"reason"` // why, as it last did
}

// Use is a use of an old version that was seen at a server, a pool or a proxy.
type Use struct {
	Text  string    `json:"text"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Times int       `json:"times"` // how often somebody looked and saw it
}

// Cut is a gate that a compromised rotation has not waited for any longer.
type Cut struct {
	State  State     `json:"state"`
	Step   Step      `json:"step,omitempty"`
	Gate   string    `json:"gate"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Names  Names     `json:"names,omitzero"` // of the instances for which it did not hold
}

// Snapshot is what instances held of a rotation's keys when a step had ended.
type Snapshot struct {
	State   State     `json:"state"`
	Step    Step      `json:"step,omitempty"`
	At      time.Time `json:"at"`
	Holders []Holders `json:"holders,omitempty"`
	Empty   []string  `json:"empty,omitempty"` // workloads without live instances
}

// Holders are the instances of a workload that held the same, as was known by the same proof.
type Holders struct {
	Workload string                   `json:"workload"`
	Keys     map[string]workload.Held `json:"keys"` // by name: what they were last known to run with
	Proof    Proof                    `json:"proof"`
	Grade    workload.Proof           `json:"grade,omitempty"` // of reports: how sidecars knew that their workloads use it
	Names    Names                    `json:"names"`
}

// Proof is how the engine knows that an instance holds what it should.
type Proof string

// The proofs.
const (
	ProofReport Proof = "report" // its sidecar has reported the bundle as loaded
	ProofLease  Proof = "lease"  // it was given the bundle, and reads without a name, so that it never reports
	ProofNone   Proof = "none"   // it was cut: what it holds is what it had before
)

// Names are instances by their ids, sorted: all, or a sample with a digest over all.
type Names struct {
	Count  int    `json:"count"`
	List   []Name `json:"list,omitempty"`
	Digest string `json:"digest,omitempty"` // where List lacks some: hex SHA-256 of a line for each instance
}

// Name is one of them, and when it has proved what it holds.
type Name struct {
	ID string    `json:"id"`
	At time.Time `json:"at,omitzero"`
}

// Bounds of a receipt.
const (
	maxReceipt     = 128 << 10 // bytes, encoded: with the stages of 3000 instances, a record stays within what storage takes
	maxReceiptText = 512       // bytes of a reason, and of a use
	allProved      = 50        // so many of those that have proved what they hold are listed; of more, a sample
	sampledNames   = 20
	firstUses      = 4 // that stay
	maxUses        = 12
)

// line is an instance in a digest.
func (n Name) line() string {
	if n.At.IsZero() {
		return n.ID + "\n"
	}
	return n.ID + " " + n.At.UTC().Format(time.RFC3339Nano) + "\n"
}

// sampled returns the names with so many of them listed, spread over all, and a digest over all.
func (n Names) sampled(most int) Names {
	if len(n.List) <= most {
		return n
	}
	if n.Digest == "" {
		sum := sha256.New()
		for _, name := range n.List {
			_, _ = sum.Write([]byte(name.line()))
		}
		n.Digest = hex.EncodeToString(sum.Sum(nil))
	}
	few := make([]Name, 0, most)
	for i := range most {
		few = append(few, n.List[i*len(n.List)/most])
	}
	n.List = few
	return n
}

// String names the first three.
func (n Names) String() string {
	list := firstThree{n: n.Count}
	for _, name := range n.List[:min(3, len(n.List))] {
		list.words = append(list.words, name.ID)
	}
	return list.String()
}

// Digest is the hex SHA-256 of the receipt as it is stored, and what that is of.
func (r Receipt) Digest() (sum string, stored []byte) {
	stored, _ = encode(r) // times, texts and numbers alone
	hash := sha256.Sum256(stored)
	return hex.EncodeToString(hash[:]), stored
}

// recorded returns the rotation with what its receipt says of the step that it leaves.
func (r Rotation) recorded(f Facts, results []GateResult) Rotation {
	receipt := r.Receipt.clone()
	for _, g := range results {
		if g.Holds && g.Reason != "" {
			cut := Cut{State: r.State, Step: r.Step, Gate: g.Name, At: f.Now.UTC().Round(0), Reason: kind.CutText(g.Reason, maxReceiptText), Names: r.cutNames(gate(g.Name), f)}
			receipt.Cuts = replaced(receipt.Cuts, cut, func(o Cut) bool { return o.State == r.State && o.Step == r.Step && o.Gate == g.Name })
		}
	}
	if slices.Contains(r.at().gates, gateLoaded) {
		snapshot := r.snapshot(f)
		receipt.Snapshots = replaced(receipt.Snapshots, snapshot, func(o Snapshot) bool { return o.State == r.State && o.Step == r.Step })
	}
	if r.at().samples {
		for _, use := range r.sighted(f) {
			receipt.Uses = withSighting(receipt.Uses, use)
		}
	}
	r.Receipt = receipt.bounded()
	return r
}

// replaced returns a list with one at its end in place of that which is the same.
func replaced[T any](all []T, one T, same func(T) bool) []T {
	return append(slices.DeleteFunc(all, same), one)
}

func (r Receipt) clone() Receipt {
	r.Gates, r.Uses, r.Cuts, r.Snapshots = slices.Clone(r.Gates), slices.Clone(r.Uses), slices.Clone(r.Cuts), slices.Clone(r.Snapshots)
	return r
}

// cutNames returns the instances for which a gate does not hold.
func (r Rotation) cutNames(g gate, f Facts) (names Names) {
	for _, w := range f.Workloads {
		all := r.wants(w.Workload)
		for _, i := range w.Instances {
			out := g == gateLoaded && !arrived(r, i, all) || g == gateProof && arrived(r, i, all) && !proves(w.Workload, i) || g == gateHealthy && !i.Anonymous && !i.Healthy ||
				g == gateUnused && slices.ContainsFunc(r.Changes, func(c Change) bool { return i.MayPresent(c.Key, c.From) })
			if out {
				names.List = append(names.List, Name{ID: i.Name()})
			}
		}
	}
	names.Count = len(names.List)
	return names
}

// snapshot is what the instances hold where the rotation is.
func (r Rotation) snapshot(f Facts) Snapshot {
	s := Snapshot{State: r.State, Step: r.Step, At: f.Now.UTC().Round(0), Empty: f.empty()}
	for _, w := range f.Workloads {
		of, wants := map[string]int{}, r.wants(w.Workload)
		for _, i := range w.Instances {
			held, proof, at := r.proven(i, wants)
			grade := workload.Proof("")
			if proof == ProofReport {
				grade = i.Proof
			}
			group := string(proof) + string(grade) + fmt.Sprint(held) // maps are printed sorted
			n, ok := of[group]
			if !ok {
				n, of[group] = len(s.Holders), len(s.Holders)
				s.Holders = append(s.Holders, Holders{Workload: w.Name, Keys: held, Proof: proof, Grade: grade})
			}
			names := &s.Holders[n].Names
			names.Count++
			names.List = append(names.List, Name{ID: i.ID, At: at})
		}
	}
	for n, h := range s.Holders {
		if h.Proof != ProofNone && h.Names.Count > allProved {
			s.Holders[n].Names = h.Names.sampled(sampledNames)
		}
	}
	return s
}

// proven returns what an instance holds of the rotation's keys, how that is known, and since when.
func (r Rotation) proven(i workload.Instance, wants wants) (held map[string]workload.Held, proof Proof, at time.Time) {
	held = map[string]workload.Held{}
	running := i.Running()
	for _, c := range r.Changes {
		if h, ok := running.Keys[c.Key]; ok {
			held[c.Key] = h
		}
	}
	switch {
	case !arrived(r, i, wants):
		return held, ProofNone, time.Time{}
	case i.Anonymous:
		return held, ProofLease, i.Issued.At.UTC().Round(0)
	}
	return held, ProofReport, i.Proven.UTC().Round(0)
}

// byClient stands before the client in the text of what a proxy has seen.
const byClient = ", last by a client at "

// sighted are the uses of old versions that proxies of instances have seen. Times is how often since the proxy's start.
func (r Rotation) sighted(f Facts) (uses []Use) {
	for _, w := range f.Workloads {
		for _, i := range w.Instances {
			for _, seen := range i.Sightings {
				for _, c := range r.Changes {
					if seen.Env == c.Env && seen.Version == c.From && seen.Last.After(r.Created) && len(uses) < maxUses {
						text := fmt.Sprintf("%s: version %d of %s was presented to its proxy, last by a client at %s", i.Name(), c.From, c.Env, seen.From)
						uses = append(uses, Use{Text: kind.Line(text, maxReceiptText), First: seen.Last.UTC().Round(0), Last: seen.Last.UTC().Round(0), Times: seen.Count})
					}
				}
			}
		}
	}
	return uses
}

// withUse returns uses with another one: the first ones, and the newest.
func withUse(all []Use, use Use) []Use {
	all = slices.Clone(all)
	if n := slices.IndexFunc(all, func(o Use) bool { return o.Text == use.Text }); n >= 0 {
		all[n].Last, all[n].Times = use.Last, all[n].Times+use.Times
		return all
	}
	if all = append(all, use); len(all) > maxUses {
		all = slices.Delete(all, firstUses, firstUses+1)
	}
	return all
}

// withSighting is withUse for what a proxy has seen, less what is known of it from earlier steps.
func withSighting(all []Use, use Use) []Use {
	proxy, _, _ := strings.Cut(use.Text, byClient)
	known := 0
	for _, o := range all {
		if of, _, ok := strings.Cut(o.Text, byClient); ok && of == proxy {
			if known += o.Times; !use.Last.After(o.Last) {
				return all
			}
		}
	}
	if use.Times > known { // if not, the proxy has counted from its start again
		use.Times -= known
	}
	return withUse(all, use)
}

// bounded returns the receipt in its bounds. Names that were cut are listed longest, and of those the ones of the newest step.
func (r Receipt) bounded() Receipt {
	size := encodedSize(r)
	shorten := func(names *Names) {
		for _, most := range []int{2000, 1000, 500, sampledNames, 3, 0} {
			if size > maxReceipt && len(names.List) > most {
				size -= encodedSize(names)
				*names = names.sampled(most)
				size += encodedSize(names)
			}
		}
	}
	if size <= maxReceipt {
		return r
	}
	for n := range r.Cuts {
		shorten(&r.Cuts[n].Names)
	}
	for n := range r.Snapshots {
		r.Snapshots[n].Holders = slices.Clone(r.Snapshots[n].Holders)
		for m := range r.Snapshots[n].Holders {
			shorten(&r.Snapshots[n].Holders[m].Names)
		}
	}
	for len(r.Snapshots) > 1 && encodedSize(r) > maxReceipt { // of very many kinds of holders
		r.Snapshots = r.Snapshots[1:]
	}
	return r
}

// WasCut reports whether the rotation has gone on without waiting for something.
func (r Rotation) WasCut() bool { return len(r.Receipt.Cuts) > 0 }

// LeftBehind are the instances that were cut when the rotation last gave instances something else: by workload, with what
// they held.
func (r Rotation) LeftBehind() (all []Holders) {
	if len(r.Receipt.Snapshots) == 0 {
		return nil
	}
	for _, h := range r.Receipt.Snapshots[len(r.Receipt.Snapshots)-1].Holders {
		if h.Proof == ProofNone {
			all = append(all, h)
		}
	}
	return all
}

// CutText says in a line what was cut; empty: nothing was.
func (r Rotation) CutText() string {
	if !r.WasCut() {
		return ""
	}
	var gates, names []string
	for _, c := range r.Receipt.Cuts {
		gates = append(gates, fmt.Sprintf("%s of %s", c.Gate, strings.TrimSpace(string(c.State)+" "+string(c.Step))))
	}
	for _, h := range r.LeftBehind() {
		names = append(names, h.Workload+": "+h.Names.String())
	}
	text := fmt.Sprintf("rotation %s did not wait for: %s", r.ID, strings.Join(gates, ", "))
	if len(names) > 0 {
		text += "; without proof were left: " + strings.Join(names, "; ")
	}
	if use := r.lastUse(); use != "" {
		text += "; the old version was last seen in use: " + use
	}
	return text
}

// lastUse says who was seen with an old version while the gate observed was cut; empty: it was not, or nobody was.
func (r Rotation) lastUse() string {
	if len(r.Receipt.Uses) == 0 || !slices.ContainsFunc(r.Receipt.Cuts, func(c Cut) bool { return c.Gate == string(gateObserved) }) {
		return ""
	}
	last := slices.MaxFunc(r.Receipt.Uses, func(a, b Use) int { return a.Last.Compare(b.Last) })
	return fmt.Sprintf("%s (%s)", last.Text, Stamp(last.Last))
}
