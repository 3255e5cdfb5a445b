// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Request asks for a rotation. What is left empty is as the keys' policies say.
type Request struct {
	Keys    []string
	All     bool      // all keys that can be rotated, in place of Keys
	Value   key.Value // the new value, of one key; empty: made by its kind
	Reason  string
	By      rotation.Actor
	Trigger rotation.Trigger

	OnFailure   string         // pause or revert
	Confirm     string         // auto or manual
	ConfirmBy   string         // any or other
	Deadline    time.Duration  // of a step
	Compromised bool           // cut what holds it back beyond the deadline
	Retain      *time.Duration // of the versions that it retires; nil: as the keys say
	Upgrade     bool           // bring rows of other keys in the same columns under the new version

	id, follows string          // of a rotation that follows another: its own, and that of the other
	whole       *rotation.Whole // what a request for all keys comes to, of its main rotation

	// Of a request for all keys:
	silent []string          // connections that do not answer
	blind  map[string]string // what is wrong with the witnesses of keys, by environment name
}

// longestReason is how long a reason may be: it is stored with the rotation and in its journal entries.
const longestReason = 1024

// CheckReason refuses a reason that is too long to be kept.
func CheckReason(reason string) error {
	if len(reason) > longestReason {
		return rotation.Refusef("reason is %d bytes long, and at most %d are kept; shorten it, or give the number of a ticket", len(reason), longestReason)
	}
	return nil
}

// check refuses what no rotation can be asked for.
func (q Request) check() error {
	switch {
	case q.All && !q.Value.Empty():
		return rotation.Refusef("keys=all: value is for one key; use key=NAME")
	case q.All && q.Upgrade:
		return rotation.Refusef("keys=all: upgrade is for a key that protects rows; use key=NAME")
	case q.All && len(q.Keys) > 0:
		return rotation.Refusef("keys=all stands for every key; leave out %s", strings.Join(q.Keys, ", "))
	case len(q.Keys) == 0 && !q.All:
		return rotation.Refusef("no key is named; use key=NAME, keys=NAME,NAME or keys=all")
	case !q.Value.Empty() && len(q.Keys) != 1:
		return rotation.Refusef("value is for one key, and %d are named; rotate them one by one", len(q.Keys))
	case q.OnFailure != "" && q.OnFailure != rotation.FailurePause && q.OnFailure != rotation.FailureRevert:
		return rotation.Refusef("on_failure %q is not known; use pause or revert", q.OnFailure)
	case q.Confirm != "" && q.Confirm != rotation.ConfirmAuto && q.Confirm != rotation.ConfirmManual:
		return rotation.Refusef("confirm %q is not known; use auto or manual", q.Confirm)
	case q.ConfirmBy != "" && q.ConfirmBy != rotation.ConfirmByAny && q.ConfirmBy != rotation.ConfirmByOther:
		return rotation.Refusef("confirm_by %q is not known; use any or other", q.ConfirmBy)
	case len(q.Reason) > longestReason:
		return CheckReason(q.Reason)
	case q.Retain != nil && *q.Retain < 0:
		return rotation.Refusef("retain %s is negative; use 0s to erase the value of the old version at once", duration.Text(*q.Retain))
	case q.Deadline < 0:
		return rotation.Refusef("deadline %s is negative; leave it out for the keys' own", duration.Text(q.Deadline))
	}
	named := map[string]bool{}
	for _, name := range q.Keys {
		if named[name] {
			return rotation.Refusef("key %s is named twice", name)
		}
		named[name] = true
	}
	return nil
}

// checkFourEyes refuses a request that would do without the confirmation that the keys' policies want, or whose caller could
// not be distinguished from the user who confirms.
func checkFourEyes(r rotation.Rotation, request Request) error {
	if r.ConfirmBy == rotation.ConfirmByOther {
		switch {
		case request.ConfirmBy == rotation.ConfirmByAny:
			return rotation.Refusef("confirm_by=any: the policy of %s says confirm_by=other, which a rotation cannot loosen; leave it out", r.EnvNames())
		case request.Confirm == rotation.ConfirmAuto:
			return rotation.Refusef("confirm=auto: the policy of %s says confirm_by=other, so that another user has to confirm each rotation; leave it out", r.EnvNames())
		}
	}
	if request.ConfirmBy == rotation.ConfirmByOther && request.Confirm == rotation.ConfirmAuto {
		return rotation.Refusef("confirm_by=other asks for another user's confirmation, and confirm=auto for none; leave one of them out")
	}
	wanted := r.ConfirmBy == rotation.ConfirmByOther || request.ConfirmBy == rotation.ConfirmByOther
	if wanted && !request.Trigger.Automatic() && request.By.Entity == "" {
		return rotation.Refusef("rotations of %s need another user's confirmation (confirm_by=other), and your token has no entity, so that nobody could be distinguished from you; %s", r.EnvNames(), rotation.LoginHint)
	}
	return nil
}

// Gap is a time during which requests may be refused, since a workload verifies against one value at a time.
type Gap struct {
	Workload string
	Key      string
	Env      string
	Waves    int           // that have to pass while some present the new value and some verify the old
	Expected time.Duration // at most, by the longest of earlier rotations; 0: not known
}

func (g Gap) String() string {
	long := "for as long as the step takes"
	if g.Expected > 0 {
		long = fmt.Sprintf("for at most about %s, the longest of earlier rotations", duration.Text(g.Expected.Round(100*time.Millisecond)))
	}
	return fmt.Sprintf(
		"%s verifies %s against one value at a time (single_value): while those that present it and those that verify it switch, in %d waves, requests will be refused %s; run the sidecar's proxy before it, and take it out of single_value, to have no gap",
		g.Workload, g.Env, g.Waves, long,
	)
}

// gaps are those of workloads that verify against one value at a time.
func (l *locked) gaps(r rotation.Rotation) []Gap {
	n := len(rotation.SwitchWaves(r, l.facts(r)))
	var all []Gap
	for _, c := range r.Changes {
		for _, name := range slices.Sorted(maps.Keys(l.Workloads)) {
			if l.Workloads[name].Keys[c.Key].Single {
				all = append(all, Gap{Workload: name, Key: c.Key, Env: c.Env, Waves: n})
			}
		}
	}
	return all
}

// unwitnessed says which keys of a rotation have no two witnesses, where the key names no connection.
func unwitnessed(r rotation.Rotation, f rotation.Facts) (all []string) {
	for _, c := range r.Changes {
		if len(c.Protects) == 0 || rotation.ByConnection(f.Witness[c.Key]) {
			continue
		}
		if _, missing := rotation.WitnessNote(c, f); missing != "" {
			all = append(all, c.Env+": "+missing)
		}
	}
	return all
}

// undeletedLogins say, where a compromised key is rotated, what becomes of older versions of it that log in.
func (l *locked) undeletedLogins(r rotation.Rotation) (all []remark) {
	for _, c := range r.Changes {
		k := l.Keys[c.Key]
		for _, number := range l.Leaked(r, k) {
			all = append(all, remark{c.Env, fmt.Sprintf("version %d is undeleted, and logs in until this rotation retires version %d: that ends it, too, with its sessions, and erases it; to end it now: vault write hyvve/keys/%s/retire version=%d force=true", number, c.From, k.Name, number)})
		}
	}
	return all
}

// clashes says why a rotation would take a login away from a key that it does not rotate. staged are its keys with their new
// versions.
func (rs *records) clashes(r rotation.Rotation, staged []key.Key) []string {
	all := rs.changing(r)
	for n := range r.Changes {
		all = append(all, rs.clashesOf(r, staged, n)...)
	}
	return all
}

// clashesOf is clashes of one of its keys.
func (rs *records) clashesOf(r rotation.Rotation, staged []key.Key, n int) (all []string) {
	k, c := staged[n], r.Changes[n]
	from, _ := k.Version(c.From)
	to, _ := k.Version(c.To)
	if with := rs.Sharers(k, from.Value, r.KeyNames()...); len(with) > 0 {
		all = append(all, fmt.Sprintf("%s: %s, which this rotation takes away at its end, is the login of %s, too: %s", c.Env, with[0].Login, catalog.KeysOf(with), rs.remedy(r, with)))
	}
	return append(all, rs.newClashes(r, staged, n, from, to)...)
}

// newClashes says why the login of a new version is not free.
func (rs *records) newClashes(r rotation.Rotation, staged []key.Key, n int, from, to key.Version) []string {
	k := staged[n]
	if clash := rs.UndeletedClash(r.Changes[n], k, from, to); clash != "" {
		return []string{clash}
	}
	mine, ok := rs.LoginOf(k, to.Value)
	if old, had := rs.LoginOf(k, from.Value); !ok || had && old.Shares(mine) { // it keeps its login
		return nil
	}
	with := rs.Sharers(k, to.Value, r.KeyNames()...)
	for m, other := range staged {
		o, _ := other.Version(r.Changes[m].To)
		was, _ := other.Version(r.Changes[m].From)
		for _, v := range []key.Version{o, was} {
			if theirs, ok := rs.LoginOf(other, v.Value); ok && m != n && theirs.Shares(mine) {
				with = append(with, catalog.Sharing{Key: other.Name, Version: v, Login: mine.Name})
				break
			}
		}
	}
	if len(with) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: %s, the login of the new version, is that of %s; give key %s a login of its own, with username= of hyvve/keys/%s", r.Changes[n].Env, mine.Name, catalog.KeysOf(with), k.Name, k.Name)}
}

// remedy says how to rotate keys that share a login.
func (rs *records) remedy(r rotation.Rotation, with []catalog.Sharing) string {
	names := slices.Clone(r.KeyNames())
	for _, s := range with {
		if id := rs.rotating[s.Key]; id != "" {
			return fmt.Sprintf("wait until rotation %s of key %s has ended, or revert it with: vault write -f hyvve/rotations/%s/revert", id, s.Key, id)
		}
		names = append(names, s.Key)
	}
	return fmt.Sprintf("rotate them together, with keys=%s, or make one key of them, with urls= for the further names", strings.Join(names, ","))
}

// shared says that a value which is imported has the login of other keys. While one of these is being rotated that login is
// about to go, so that the value is refused.
func (rs *records) shared(k key.Key, v key.Value) (warnings []string, err error) {
	for _, s := range rs.Sharers(k, v) {
		if id := rs.rotating[s.Key]; id != "" {
			return nil, rotation.Refusef("key %s: the value logs in as %s, as key %s does, which rotation %s gives another login; wait until that has ended and import the value which is current then, or revert it with: vault write -f hyvve/rotations/%s/revert", k.Name, s.Login, s.Key, id, id)
		}
		warnings = append(warnings, fmt.Sprintf("key %s logs in as %s, as key %s does: neither can be rotated alone; rotate them together, with keys=%s,%s, or make one key of them, with urls= for the further names", k.Name, s.Login, s.Key, k.Name, s.Key))
	}
	return warnings, nil
}

// start checks a request, stores the new values, then the rotation. Killed in between, a staged value is left that no
// rotation knows; the next start of that key aborts it.
func (l *locked) start(ctx context.Context, request Request) (string, error) {
	r, staged, err := l.draft(request)
	if err != nil {
		return "", err
	}
	if clashes := l.clashes(r, staged); len(clashes) > 0 {
		return "", rotation.Refusef("%s; nothing was changed", strings.Join(clashes, "; "))
	}
	f := l.facts(r)
	if narrow := rotation.CheckMultiline(r, f); len(narrow) > 0 {
		return "", rotation.Refusef("%s; nothing was changed", strings.Join(narrow, "; "))
	}
	if missing := unwitnessed(r, f); len(missing) > 0 && !r.Compromised {
		return "", rotation.Refusef("%s; nothing was changed", strings.Join(missing, "; "))
	}
	if r.Compromised {
		if err := l.endChanges(ctx, r); err != nil {
			return "", err
		}
	}
	for _, k := range staged {
		if err := l.putKey(ctx, k); err != nil {
			return "", err
		}
		l.lock(func(m *memory) { m.Keys[k.Name] = k })
	}
	text := fmt.Sprintf("%s: values stored", r.EnvNames())
	if r.Follows != "" {
		text += "; this follows rotation " + r.Follows
	}
	for _, more := range []string{r.Whole.LeftOutText(), r.Whole.WithText()} {
		if more != "" {
			text += "; " + more
		}
	}
	r.Timeline = []rotation.Event{{At: r.Created, State: rotation.Planned, Text: text}}
	if err := l.settle(ctx, r); err != nil {
		return r.ID, err
	}
	return r.ID, l.started(ctx, r)
}

// draft returns a rotation that nobody knows of yet, and its keys with their new versions staged.
func (l *locked) draft(request Request) (rotation.Rotation, []key.Key, error) {
	id, err := l.NewID()
	if err != nil {
		return rotation.Rotation{}, nil, err
	}
	now := l.Now().UTC()
	r := rotation.Rotation{
		ID: cmp.Or(request.id, id), Follows: request.follows, Trigger: request.Trigger, Reason: request.Reason, By: request.By.Name, Entity: request.By.Entity,
		Created: now, State: rotation.Planned, Since: now, Clock: now, Stages: map[string]rotation.Stage{}, Reached: []string{}, Compromised: request.Compromised, Upgrade: request.Upgrade, Retain: request.Retain,
		All: request.All, Whole: request.whole,
	}
	var staged []key.Key
	for _, name := range request.Keys {
		k, c, err := l.stage(r, name, request)
		if err != nil {
			return rotation.Rotation{}, nil, err
		}
		r.Changes = append(r.Changes, c)
		staged = append(staged, k)
		r = mergePolicy(r, l.Defaults.Effective(k.Policy))
	}
	if err := l.CheckUpgrade(r); err != nil {
		return rotation.Rotation{}, nil, err
	}
	if err := checkFourEyes(r, request); err != nil {
		return rotation.Rotation{}, nil, err
	}
	r = applyOverrides(r, request, l.Defaults)
	r.NotBy = l.NotBy(r)
	if r.Trigger.Automatic() {
		if err := l.Defaults.CheckPolicyBy(l.Keys[r.Changes[0].Key]); err != nil {
			return rotation.Rotation{}, nil, rotation.Refusef("%w", err)
		}
	}
	return rotation.Pinned(r, l.facts(r)), staged, nil
}

// mergePolicy returns a rotation with the more careful of its own settings and those of a key's policy.
func mergePolicy(r rotation.Rotation, p key.Policy) rotation.Rotation {
	r.Soak, r.Observe = max(r.Soak, p.Soak), max(r.Observe, p.Observe)
	r.Confirm = r.Confirm || p.Confirm == rotation.ConfirmManual
	if r.ConfirmBy == "" || p.ConfirmBy == rotation.ConfirmByOther {
		r.ConfirmBy = p.ConfirmBy
	}
	if r.Deadline == 0 || p.Deadline > 0 && p.Deadline < r.Deadline {
		r.Deadline = p.Deadline
	}
	if r.OnFailure == "" || p.OnFailure == rotation.FailurePause {
		r.OnFailure = p.OnFailure
	}
	return r
}

// settings are what a request may set, by the names that an operator writes it with.
func settings(r rotation.Rotation) catalog.Fields {
	confirm := rotation.ConfirmAuto
	if r.Confirm {
		confirm = rotation.ConfirmManual
	}
	return catalog.Fields{
		"on_failure": r.OnFailure, "confirm": confirm, "confirm_by": r.ConfirmBy, "deadline": duration.Text(r.Deadline), "soak": duration.Text(r.Soak), "observe": duration.Text(r.Observe),
	}
}

// applyOverrides returns a rotation with what was asked for in the place of what the policies say, and a note of it.
func applyOverrides(r rotation.Rotation, request Request, c catalog.Config) rotation.Rotation {
	policy := settings(r)
	if request.OnFailure != "" {
		r.OnFailure = request.OnFailure
	}
	if request.Confirm != "" {
		r.Confirm = request.Confirm == rotation.ConfirmManual
	}
	if request.ConfirmBy != "" {
		r.ConfirmBy = request.ConfirmBy
	}
	if request.Compromised {
		r.Soak, r.Observe, r.Deadline, r.Confirm = 0, 0, c.CutAfter, request.Confirm == rotation.ConfirmManual
	}
	if request.Deadline != 0 {
		r.Deadline = request.Deadline
	}
	r.Confirm = r.Confirm || r.ConfirmBy == rotation.ConfirmByOther
	r.Asked = policy.Changes(settings(r))
	for _, asked := range []struct {
		so          bool
		field, text string
	}{{request.All, "keys", "all"}, {request.Compromised, "compromised", "true"}, {request.Upgrade, "upgrade", "true"}, {!request.Value.Empty(), "value", catalog.SecretGiven}} {
		if asked.so {
			r.Asked = append(r.Asked, rotation.EntryChange{Field: asked.field, To: asked.text})
		}
	}
	if request.Retain != nil {
		r.Asked = append(r.Asked, rotation.EntryChange{Field: "retain", To: request.Retain.String()})
	}
	return r
}

// stage returns the key with its new version staged, without storing it.
func (l *locked) stage(r rotation.Rotation, name string, request Request) (key.Key, rotation.Change, error) {
	k, ok := l.Keys[name]
	if !ok {
		return key.Key{}, rotation.Change{}, l.UnknownKey(name)
	}
	if running, ok := l.active[l.rotating[name]]; ok {
		err := l.underWay(name, running)
		if !running.Compromised {
			err = rotation.Refusef("%w; if the old version has leaked: vault write -f hyvve/rotations/%s/compromised", err, running.ID)
		}
		return key.Key{}, rotation.Change{}, err
	}
	current, ok := k.Current()
	if !ok {
		return key.Key{}, rotation.Change{}, rotation.Refusef("key %s has no version yet; import the value in use with: vault write hyvve/keys/%s value=-  (or generate=true for a new one)", name, name)
	}
	if err := l.CheckParticipants(k); err != nil {
		return key.Key{}, rotation.Change{}, err
	}
	value := request.Value
	if value.Empty() {
		var err error
		if value, err = l.Generate(k, current.Value); err != nil {
			return key.Key{}, rotation.Change{}, err
		}
	}
	if value.Equal(current.Value) {
		return key.Key{}, rotation.Change{}, rotation.Refusef("value of key %s is the current one already; give another, or none to have one made", name)
	}
	k = catalog.WithoutOrphans(k)
	version := key.Version{
		Number: k.NextNumber(), Value: value, Created: r.Created, CreatedBy: request.By.String(), Rotation: r.ID,
		Fingerprint: l.Fingerprints.Of(name, value),
	}
	k, err := k.WithStaged(version)
	if err != nil {
		return key.Key{}, rotation.Change{}, err
	}
	if err := l.CheckChange(k, current, version); err != nil {
		return key.Key{}, rotation.Change{}, err
	}
	if err := l.CheckHosts(k, value); err != nil {
		return key.Key{}, rotation.Change{}, rotation.Refusef("key %s: %w; nothing was changed", name, err)
	}
	return k, rotation.Change{Key: name, Env: k.Env, From: current.Number, To: version.Number, Protects: k.Protects, MultiLine: value.MultiLine(), Also: l.AlsoAccepted(k)}, nil
}
