// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// A value that rows may need is erased when two witnesses have each opened every row without it. One may lie, or look at
// another database. A witness is an instance that re-encrypts, or the engine itself by a connection of the key's.

// WitnessNone is what a key's witness says instead of a connection where one instance's word is enough.
const WitnessNone = "none"

// MaxWitnesses is how many witnesses of a key's rows a rotation keeps.
const MaxWitnesses = 16

// independent reports whether a lie of one witness says nothing of the other: another login speaks, or the engine itself.
// A client that logs in as one entity twice has two logins: these are only as independent as the entity's credentials are.
func independent(a, b Evidence) bool {
	if a.Connection != "" || b.Connection != "" {
		return a.Connection == "" || b.Connection == ""
	}
	return a.Instance != b.Instance && a.Login.Known() && b.Login.Known() && !a.Login.Same(b.Login)
}

// Witness is who a witness is, for people.
func (e Evidence) Witness() string {
	if e.Connection != "" {
		return "the engine by connection " + e.Connection
	}
	return e.Instance
}

// ByConnection reports whether a key's witness is a connection.
func ByConnection(witness string) bool { return witness != "" && witness != WitnessNone }

// Witnessed returns the rotation with the evidence of a witness instead of that witness's earlier evidence.
func (r Rotation) Witnessed(c Change, e Evidence) Rotation {
	r = r.Clone()
	id := r.WorkID(c)
	all := slices.DeleteFunc(slices.Clone(r.Witnesses[id]), func(old Evidence) bool {
		return old.Instance == e.Instance && old.Connection == e.Connection || e.Connection == "" && old.Login.Same(e.Login)
	})
	if len(all) >= MaxWitnesses { // a login more than are ever asked; the engine's own word stays
		all = withoutWeakest(all)
	}
	r.Witnesses[id] = append(all, e)
	return r
}

// SaidAlready reports whether a witness has said the same before.
func (r Rotation) SaidAlready(c Change, e Evidence) bool {
	return slices.ContainsFunc(r.Witnesses[r.WorkID(c)], func(old Evidence) bool {
		return old.Instance == e.Instance && old.Login == e.Login && old.Report.Done == e.Report.Done && old.Report.Error == e.Report.Error &&
			slices.Equal(old.Report.Columns, e.Report.Columns) && (old.Report.Place == nil) == (e.Report.Place == nil) &&
			(e.Report.Place == nil || old.Report.Place.Equal(*e.Report.Place))
	})
}

// checkWitnesses wants two independent witnesses who have each opened every row under the version that stays, in the database
// where rows were re-encrypted.
func checkWitnesses(r Rotation, c Change, f Facts) []string {
	if reason := RowsLeft(r, c); reason != "" {
		return []string{reason}
	}
	v := r.verdict(c, f, f.Witness[c.Key])
	if len(v.good) > 0 && r.oneWitness(c, f) != "" {
		return nil
	}
	if v.agree {
		return nil
	}
	id := r.WorkID(c)
	var reasons []string
	switch {
	case len(v.good) == 0 && len(v.faults) == 0 && f.Looks[id] == (Look{}):
		reasons = append(reasons, waiting(c, r.at().phase, f.Progress[id]))
	case len(v.placed()) == 0:
		reasons = append(reasons, fmt.Sprintf("%s: no witness has opened every row under version %d yet", c.Env, r.Staying(c)))
	case v.apart != "":
		reasons = append(reasons, fmt.Sprintf("%s: the witnesses of its rows have looked at different databases: %s; mend the database URL of the one that looks at the wrong one (reencrypt block of its sidecar, or the connection)", c.Env, v.apart))
	case ByConnection(f.Witness[c.Key]) && !r.LookedBy(c, f.Witness[c.Key], f.Revisions[f.Witness[c.Key]]):
		reasons = append(reasons, fmt.Sprintf("%s: version %d goes when the engine has opened all rows itself, too, by connection %s", c.Env, r.Leaving(c), f.Witness[c.Key]))
	default:
		reasons = append(reasons, fmt.Sprintf("%s: %s; version %d goes when a second, independent witness has opened them, too", c.Env, v.alone(), r.Leaving(c)))
	}
	reasons = append(reasons, v.faults...)
	reasons = append(reasons, r.lookFault(f.Witness[c.Key], f.Looks[id])...)
	if len(v.good) > 0 {
		reasons = append(reasons, secondWitness(r, c, f.Witness[c.Key]))
	}
	return reasons
}

// WitnessesOf are those who have checked the rows of a change last, in the step where the rotation is or was.
func (r Rotation) WitnessesOf(c Change) (newest []Evidence) {
	for _, all := range r.Witnesses {
		if len(all) > 0 && strings.HasPrefix(all[0].Report.ID, r.ID+"/"+c.Key+"/") && (len(newest) == 0 || all[len(all)-1].At.After(newest[len(newest)-1].At)) {
			newest = all
		}
	}
	return newest
}

// verdict is what the witnesses of a key's rows come to.
type verdict struct {
	good   []Evidence // have opened every row, and say where
	agree  bool       // two of them are independent, in the database where rows were re-encrypted
	apart  string     // how the places of two differ
	faults []string   // why others do not count
}

// verdict weighs what witnesses have said in the rotation's step. That rows are left is not weighed: see rowsLeft.
//
// Where the key names a connection, the engine has to be one of the two: then not even two instances together can lie. What it has
// seen by a connection that was changed since does not count.
func (r Rotation) verdict(c Change, f Facts, connection string) (v verdict) {
	for _, e := range r.Witnesses[r.WorkID(c)] {
		switch {
		case f.outdated(e):
		case e.Report.Error != "" || !e.Report.Done:
			v.faults = append(v.faults, fmt.Sprintf("%s: check by %s failed: %s", c.Env, e.Witness(), e.Report.Error))
		case len(e.Report.Columns) < len(c.Protects):
			v.faults = append(v.faults, fmt.Sprintf("%s: %s says that it has checked the rows, and counts %d of %d columns; update its sidecar", c.Env, e.Witness(), len(e.Report.Columns), len(c.Protects)))
		default:
			v.good = append(v.good, e)
		}
	}
	reencrypted, known := r.reencryptedAt(c)
	for n, a := range v.good {
		if a.Report.Place == nil || !a.Report.Place.Covers(c.Protects) {
			v.faults = append(v.faults, fmt.Sprintf("%s: %s does not say which database it has looked at, and is no witness; update its sidecar", c.Env, a.Witness()))
			continue
		}
		if how := a.Report.Place.Differs(reencrypted.at); known && how != "" {
			v.apart = fmt.Sprintf("%s, where %s has checked and %s has re-encrypted", how, a.Witness(), reencrypted.by)
			continue
		}
		for _, b := range v.good[:n] {
			if b.Report.Place == nil || !independent(a, b) || ByConnection(connection) && a.Connection != connection && b.Connection != connection || known && b.Report.Place.Differs(reencrypted.at) != "" {
				continue
			}
			if how := a.Report.Place.Differs(*b.Report.Place); how != "" {
				v.apart = fmt.Sprintf("%s, by %s and %s", how, a.Witness(), b.Witness())
			} else {
				v.agree = v.agree || b.Report.Place.Covers(c.Protects)
			}
		}
	}
	return v
}

// placed are those who say where they have looked.
func (v verdict) placed() (all []Evidence) {
	for _, e := range v.good {
		if e.Report.Place != nil {
			all = append(all, e)
		}
	}
	return all
}

// alone says who has opened all rows, where they are not two.
func (v verdict) alone() string {
	var names []string
	for _, e := range v.placed() {
		names = append(names, e.Witness())
	}
	text := strings.Join(names[:min(3, len(names))], ", ")
	if len(names) > 1 {
		return text + " have opened all rows, and are one witness: they have the same login, or none that is known"
	}
	return text + " has opened all rows, and is one witness"
}

// seenAt is where somebody has re-encrypted.
type seenAt struct {
	at workload.Place
	by string
}

// reencryptedAt is the database of the newest report on re-encryption that names one.
func (r Rotation) reencryptedAt(c Change) (seen seenAt, ok bool) {
	var newest time.Time
	check := r.WorkID(c)
	for id, e := range r.Work {
		if id != check && strings.HasPrefix(id, r.ID+"/"+c.Key+"/") && e.Report.Place != nil && e.Report.Done && e.At.After(newest) {
			seen, newest, ok = seenAt{*e.Report.Place, e.Instance}, e.At, true
		}
	}
	return seen, ok
}

// oneWitness says why one witness is enough for a key's rows; empty: it is not.
func (r Rotation) oneWitness(c Change, f Facts) string {
	switch {
	case r.OneWitness != "":
		return "accepted by " + r.OneWitness
	case f.Witness[c.Key] == WitnessNone:
		return "witness=none"
	}
	return ""
}

// secondWitness says how there can be another witness.
func secondWitness(r Rotation, c Change, connection string) string {
	var ways []string
	if !ByConnection(connection) {
		ways = append(ways,
			fmt.Sprintf("let the engine look itself: vault write hyvve/keys/%s witness=CONNECTION (of kind postgres, to that database, which may SELECT the columns)", c.Key),
			"start another instance that re-encrypts, with a login of its own")
	}
	ways = append(ways,
		fmt.Sprintf("take the responsibility for one witness: vault write hyvve/rotations/%s/accept-witness reason=…", r.ID))
	return strings.Join(ways, "; or ")
}

// AcceptWitness returns the rotation with the word of one witness accepted for its rows.
func AcceptWitness(r Rotation, f Facts, by Actor, reason string) (Rotation, error) {
	switch {
	case r.Finished():
		return r, Refusef("rotation %s is %s; there is nothing to accept any more", r.ID, r.State)
	case r.at().phase != workload.PhaseCheck || !r.protects():
		return r, Refusef("rotation %s is at %s %s; a witness is accepted where rows are checked before a value is erased, and only there", r.ID, r.State, r.Step)
	case r.OneWitness != "":
		return r, Refusef("rotation %s has one witness accepted already, by %s", r.ID, r.OneWitness)
	}
	if r.ConfirmBy == ConfirmByOther {
		if err := r.mayConfirm(by); err != nil {
			return r, err
		}
	}
	for _, c := range r.Changes {
		if len(c.Protects) == 0 || !r.Presented() {
			continue
		}
		if left := RowsLeft(r, c); left != "" {
			return r, Refusef("%s; these rows would be lost: nothing was accepted", left)
		}
		if len(r.verdict(c, f, "").good) == 0 {
			return r, Refusef("%s: no witness has opened every row yet; there is none to accept", c.Env)
		}
	}
	if len(CheckRows(r, f)) == 0 {
		return r, Refusef("rotation %s has the witnesses that it needs; there is nothing to accept", r.ID)
	}
	if strings.TrimSpace(reason) == "" {
		return r, Refusef("reason is empty; say why the word of one witness is enough, as in: vault write hyvve/rotations/%s/accept-witness reason=\"one pod, and I have counted\"", r.ID)
	}
	r = r.told(f.Now, said("one witness of the rows is accepted: "+r.accepted(f), reason, by))
	r.OneWitness = by.Name
	return r, nil
}

// accepted names the witnesses that there are.
func (r Rotation) accepted(f Facts) string {
	var all []string
	for _, c := range r.Changes {
		for _, e := range r.verdict(c, f, "").good {
			all = append(all, fmt.Sprintf("%s for %s", e.Witness(), c.Env))
		}
	}
	return strings.Join(all, ", ")
}

// WitnessNote says before a rotation who its witnesses would be, in words for a plan; missing: what it would wait for.
func WitnessNote(c Change, f Facts) (note, missing string) {
	connection := f.Witness[c.Key]
	if connection == WitnessNone {
		return "one instance alone says whether rows still need the version that goes (witness=none): if it errs or lies, its value is erased and they are lost", ""
	}
	var all []Evidence
	for _, w := range f.Workloads {
		for _, i := range w.Instances {
			if w.Reencrypts && w.Keys[c.Key].AcceptsBoth() && !i.Anonymous {
				all = append(all, Evidence{Instance: i.Name(), Login: i.Login})
			}
		}
	}
	if connection != "" {
		all = append([]Evidence{{Connection: connection}}, all...)
	}
	for n, a := range all {
		for _, b := range all[:n] {
			if !independent(a, b) || ByConnection(connection) && b.Connection == "" {
				continue
			}
			note = fmt.Sprintf("before a value is erased, two witnesses open every row: %s and %s, for example", b.Witness(), a.Witness())
			if connection == "" && a.Login.Entity != "" && a.Login.SameEntity(b.Login) {
				note += "; all that re-encrypt log in as one entity, so that one client with its credentials can be both: witness=CONNECTION is stronger"
			}
			return note, ""
		}
	}
	text := "two independent witnesses must open every row before a value is erased, and there is " + haveWitness(all)
	if ByConnection(connection) {
		return "", text + "; start an instance that re-encrypts"
	}
	return "", fmt.Sprintf("%s; let the engine look itself: vault write hyvve/keys/%s witness=CONNECTION; or start another instance that re-encrypts, with a login of its own; or, if the word of one instance is enough: vault write hyvve/keys/%s witness=none", text, c.Key, c.Key)
}

// haveWitness names the one witness that there is, and says why others are not another.
func haveWitness(all []Evidence) string {
	if len(all) == 0 {
		return "none now"
	}
	first, text := all[0], ""
	var same, unknown firstThree
	for _, e := range all {
		switch {
		case e.Connection == "" && !e.Login.Known():
			unknown.add(e.Witness)
		case e.Witness() != first.Witness():
			same.add(e.Witness)
		}
	}
	if same.n > 0 {
		text += "; with the same token logs in: " + same.String()
	}
	if unknown.n > 0 {
		text += "; of an unknown login, until it reads again: " + unknown.String()
	}
	return first.Witness() + " alone now" + text
}

// Look is how the engine's own look at the rows of a key goes, while there is no result. It is not stored: after a restart it
// begins again.
type Look struct {
	Running  bool
	Attempts int // that failed
	RetryAt  time.Time
	Fault    string // why the last one failed
}

// lookFault says what keeps the engine from being a witness.
func (r Rotation) lookFault(connection string, l Look) []string {
	switch {
	case l.Fault != "":
		return []string{fmt.Sprintf("the engine's own look by connection %s failed %d times, next try at %s: %s%s", connection, l.Attempts, Stamp(l.RetryAt), l.Fault, r.retryHint())}
	case l.Running:
		return []string{fmt.Sprintf("the engine's own look by connection %s is under way", connection)}
	}
	return nil
}

// LookedBy reports whether the engine has looked by a connection, as it is now, in the rotation's step.
func (r Rotation) LookedBy(c Change, connection string, revision uint64) bool {
	return slices.ContainsFunc(r.Witnesses[r.WorkID(c)], func(e Evidence) bool { return e.Connection == connection && e.Revision == revision })
}

// outdated reports whether the engine has looked by a connection that was changed since: it may have led to another database.
func (f Facts) outdated(e Evidence) bool {
	return e.Connection != "" && e.Revision != f.Revisions[e.Connection]
}

// LookFailing reports whether the engine's last look at rows has failed.
func (f Facts) LookFailing() bool {
	for _, l := range f.Looks {
		if l.Fault != "" && !l.Running {
			return true
		}
	}
	return false
}

// Four eyes: with confirm_by=other, the user who started a rotation cannot confirm it. Vault's entity identifies a user. A token
// without an entity could be anybody's, so it can neither start nor confirm such a rotation.

// LoginHint says how to get an entity.
const LoginHint = "log in with an auth method that knows you, such as userpass, oidc or approle; root tokens, and tokens made by them, have no entity"

// mayConfirm refuses a user who may be the one who started the rotation.
func (r Rotation) mayConfirm(by Actor) error {
	switch {
	case by.Entity == "":
		return Refusef("rotation %s needs another user's confirmation (confirm_by=other), and your token has no entity, so that you could be anybody; %s", r.ID, LoginHint)
	case by.Entity != r.NotBy:
		return nil
	case r.ChangedBy != nil:
		return Refusef("rotation %s was escalated or tuned by you (entity %s), and another user has to confirm it (confirm_by=other)", r.ID, by.Entity)
	case !r.Trigger.Automatic():
		return Refusef("rotation %s was started by you (entity %s), and another user has to confirm it (confirm_by=other)", r.ID, by.Entity)
	}
	return Refusef("rotation %s started by itself, by a policy that you wrote last (entity %s), and another user has to confirm it (confirm_by=other)", r.ID, by.Entity)
}

// FourEyesNote says what confirm_by=other means for a rotation, empty where it does not apply.
func (r Rotation) FourEyesNote() string {
	switch {
	case r.ConfirmBy != ConfirmByOther:
		return ""
	case r.Compromised:
		return "another user has to confirm before the old version ends, although it is compromised (confirm_by=other); until then it is valid beside the new one, which is presented at once"
	}
	return "another user than the one who starts it has to confirm before the old version ends (confirm_by=other)"
}

// starter says who started the rotation, or whose policy did, or who has escalated or tuned it since.
func (r Rotation) starter() string {
	if r.ChangedBy != nil {
		return r.ChangedBy.String()
	}
	if !r.Trigger.Automatic() || r.NotBy == "" {
		return Actor{r.By, r.Entity}.String()
	}
	return fmt.Sprintf("%s, by the policy of entity %s", r.By, r.NotBy)
}

const (
	// SightingAge is how long a version counts as used after a request presented it. Sidecars report sightings every two
	// seconds while there are new ones, of which one in SightingStep is stored: a version must not have been seen for 10 s
	// at least.
	SightingAge = 15 * time.Second
	// SightingStep is the time in which one sighting is stored.
	SightingStep = 5 * time.Second
)

// Sighted says in words where the old version of a change was seen lately; empty: nowhere.
func Sighted(w WorkloadFact, c Change, now time.Time) string {
	var all firstThree
	for _, i := range w.Instances {
		for _, s := range i.Sightings {
			if ago := now.Sub(s.Last); s.Env == c.Env && (s.Version == c.From || slices.Contains(c.Also, s.Version)) && ago < SightingAge {
				all.add(func() string {
					return fmt.Sprintf("%s has seen version %d of %s %s ago, from %s", i.ID, s.Version, s.Env, duration.Text(max(ago, 0).Round(time.Second)), s.From)
				})
			}
		}
	}
	return all.String()
}
