// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Request asks for a rotation.
type Request struct {
	Keys    []string
	Value   key.Value // the new value, of one key; empty: made by its kind
	Reason  string
	By      string
	Trigger Trigger
}

// Rotate starts a rotation and moves it on as far as it goes at once.
func (e *Engine) Rotate(ctx context.Context, request Request) (View, []string, error) {
	var warnings []string
	if !request.Value.Empty() {
		if len(request.Keys) != 1 {
			return View{}, nil, Refusef("value is for one key, and %d are named; rotate them one by one", len(request.Keys))
		}
		var err error
		if warnings, err = e.CheckValue(request.Keys[0], request.Value); err != nil {
			return View{}, nil, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := e.start(ctx, request)
	if err != nil {
		return View{}, nil, err
	}
	if err := e.advance(ctx, id); err != nil {
		e.Observer.Fault("rotation "+id+" could not be moved on", err)
	}
	view, _, err := e.view(ctx, id)
	return view, warnings, err
}

// start checks a request, stores the new values, then the rotation. Killed in between, a staged value is left that no
// rotation knows; the next start of that key takes its number. mu is held.
func (e *Engine) start(ctx context.Context, request Request) (string, error) {
	if len(request.Keys) == 0 {
		return "", Refusef("no key is named; use key=NAME or keys=NAME,NAME")
	}
	id, err := e.newID()
	if err != nil {
		return "", err
	}
	r := Rotation{
		ID: id, Trigger: request.Trigger, Reason: request.Reason, By: request.By, Created: e.Now().UTC(),
		State: Planned, Since: e.Now().UTC(), Positions: map[string]int{},
	}
	var staged []key.Key
	for _, name := range request.Keys {
		k, c, err := e.stage(r, name, request)
		if err != nil {
			return "", err
		}
		if _, twice := r.Change(name); twice {
			return "", Refusef("key %s is named twice", name)
		}
		r.Changes = append(r.Changes, c)
		r.Soak = max(r.Soak, e.soak(k))
		staged = append(staged, k)
	}
	for _, k := range staged {
		if err := e.put(ctx, pathKeys+k.Name, k); err != nil {
			return "", err
		}
		e.keys[k.Name] = k
	}
	for _, f := range e.facts(r).Workloads {
		for _, i := range f.Instances {
			if !i.Anonymous {
				r.Positions[i.Name()] = atOld
			}
		}
	}
	r.Timeline = []Event{{At: r.Created, State: Planned, Text: fmt.Sprintf("%s: values stored", r.names()), By: r.By}}
	return id, e.save(ctx, r, 0)
}

// stage gives the key with its new version staged, without storing it. mu is held.
func (e *Engine) stage(r Rotation, name string, request Request) (key.Key, Change, error) {
	k, ok := e.keys[name]
	if !ok {
		return key.Key{}, Change{}, e.unknownKey(name)
	}
	if running := e.rotationOf(name); running != nil {
		return key.Key{}, Change{}, Refusef("key %s is being rotated by %s (%s); wait until it has ended, or revert it with: vault write -f hyvve/rotations/%s/revert", name, running.ID, running.State, running.ID)
	}
	current, ok := k.Current()
	if !ok {
		return key.Key{}, Change{}, Refusef("key %s has no version yet; import the value in use with: vault write hyvve/keys/%s value=-  (or generate=true for a new one)", name, name)
	}
	if err := e.checkParticipants(k); err != nil {
		return key.Key{}, Change{}, err
	}
	value := request.Value
	if value.Empty() {
		var err error
		if value, err = e.generate(k); err != nil {
			return key.Key{}, Change{}, err
		}
	}
	if value.Equal(current.Value) {
		return key.Key{}, Change{}, Refusef("value of key %s is the current one already; give another, or none to have one made", name)
	}
	k = e.withoutOrphans(k)
	version := key.Version{
		Number: k.NextNumber(), Value: value, Created: r.Created, CreatedBy: request.By, Rotation: r.ID,
		Fingerprint: e.fingerprints.Of(name, value),
	}
	k, err := k.WithStaged(version)
	if err != nil {
		return key.Key{}, Change{}, err
	}
	return k, Change{Key: name, Env: k.Env, From: current.Number, To: version.Number, Protects: k.Protects}, nil
}

// checkParticipants refuses a rotation that nobody would carry out. mu is held.
func (e *Engine) checkParticipants(k key.Key) error {
	used, reencrypts := false, false
	for _, w := range e.workloads {
		role, ok := w.Keys[k.Name]
		used = used || ok
		reencrypts = reencrypts || w.Reencrypts && role.Verifies
	}
	if !used {
		return Refusef("no workload uses key %s, so that nobody would take up a new version; add it to a workload with hyvve/workloads/:name", k.Name)
	}
	if len(k.Protects) > 0 && !reencrypts {
		return Refusef("key %s protects rows, and no workload that verifies it has reencrypts=true, so that nobody would re-encrypt them; set it on one that reaches the database", k.Name)
	}
	return nil
}

// withoutOrphans aborts staged versions that no rotation knows: a crash left them before anybody was told. mu is held.
func (e *Engine) withoutOrphans(k key.Key) key.Key {
	current, _ := k.Current()
	for _, v := range k.Versions {
		if v.State != key.Staged {
			continue
		}
		if aborted, err := k.Reverted(current.Number, v.Number); err == nil {
			k = aborted
		}
	}
	return k
}

func (e *Engine) soak(k key.Key) time.Duration {
	if k.Policy.Soak == InheritSoak {
		return e.config.Soak
	}
	return k.Policy.Soak
}

// rotationOf gives the running rotation of a key, nil if there is none. mu is held.
func (e *Engine) rotationOf(keyName string) *Rotation {
	for _, r := range e.active {
		if _, ok := r.Change(keyName); ok {
			return &r
		}
	}
	return nil
}

// Revert sends a rotation on its way back.
func (e *Engine) Revert(ctx context.Context, id, by, reason string) (View, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r, err := e.rotation(ctx, id)
	if err != nil {
		return View{}, err
	}
	reverted, err := Revert(r, e.facts(r), by, reason)
	if err != nil {
		return View{}, err
	}
	if err := e.save(ctx, reverted, len(r.Timeline)); err != nil {
		return View{}, err
	}
	if err := e.advance(ctx, id); err != nil {
		e.Observer.Fault("rotation "+id+" could not be moved on", err)
	}
	view, _, err := e.view(ctx, id)
	return view, err
}

// rotation gives a running or ended rotation. mu is held.
func (e *Engine) rotation(ctx context.Context, id string) (Rotation, error) {
	if r, ok := e.active[id]; ok {
		return r, nil
	}
	data, err := e.Store.Get(ctx, pathRotations+id)
	if err != nil {
		return Rotation{}, fmt.Errorf("reading rotation %s: %w", id, err)
	}
	if data == nil {
		return Rotation{}, Refusef("rotation %q is not known; list the rotations with: vault list hyvve/rotations", id)
	}
	return Decode(data)
}

// RotationIDs lists all rotations, oldest first.
func (e *Engine) RotationIDs(ctx context.Context) ([]string, error) {
	ended, err := e.Store.List(ctx, pathRotations)
	if err != nil {
		return nil, fmt.Errorf("listing rotations: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := slices.AppendSeq(ended, maps.Keys(e.active))
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// InstanceView is an instance in a rotation.
type InstanceView struct {
	Instance workload.Instance
	Position int  // how far it was let go: 0 old, 1 accepts both, 2 presents new, 3 new only
	Loaded   bool // whether it runs with what it should hold
}

// View is a rotation as people look at it.
type View struct {
	Rotation
	Gates     []GateResult
	Instances []InstanceView
	Progress  map[string]workload.WorkReport
	Changed   <-chan struct{} // closed when there may be news
}

// Waits joins the reasons that hold it back.
func (v View) Waits() string {
	var reasons []string
	for _, g := range v.Gates {
		if !g.Holds {
			reasons = append(reasons, g.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

// View gives a running or ended rotation as it stands now.
func (e *Engine) View(ctx context.Context, id string) (View, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	view, _, err := e.view(ctx, id)
	return view, err
}

func (e *Engine) view(ctx context.Context, id string) (View, Facts, error) {
	r, err := e.rotation(ctx, id)
	if err != nil {
		return View{}, Facts{}, err
	}
	view := View{Rotation: r, Changed: e.changed, Progress: map[string]workload.WorkReport{}}
	for _, c := range r.Changes {
		if report, ok := e.progress[r.workID(c)]; ok {
			view.Progress[c.Key] = report
		} else if report, ok := r.lastRows(c); ok {
			view.Progress[c.Key] = report
		}
	}
	if r.Finished() {
		return view, Facts{}, nil
	}
	f := e.facts(r)
	view.Gates, _ = gates(r, f)
	for _, w := range f.Workloads {
		for _, i := range w.Instances {
			position := r.at().target
			if !i.Anonymous {
				position = r.Position(i.Name())
			}
			view.Instances = append(view.Instances, InstanceView{i, position, holds(r, w.Workload, i, position)})
		}
	}
	return view, f, nil
}

// KeyStatus is a key at a glance.
type KeyStatus struct {
	Key      key.Key
	Rotation *Rotation // running, if any
	Waits    string    // what holds it back, or why an automatic rotation could not start
	Due      time.Time // of the next automatic rotation; zero: only when asked
}

// Status gives every key, sorted by name.
func (e *Engine) Status() []KeyStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []KeyStatus
	for _, name := range slices.Sorted(maps.Keys(e.keys)) {
		s := KeyStatus{Key: e.keys[name], Rotation: e.rotationOf(name), Due: e.due(e.keys[name]), Waits: e.starts[name].reason}
		if s.Rotation != nil {
			results, _ := gates(*s.Rotation, e.facts(*s.Rotation))
			s.Waits = View{Gates: results}.Waits()
		}
		all = append(all, s)
	}
	return all
}
