// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var instanceForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)

// anonymous begins the ids of readers that gave none.
const anonymous = "lease-"

// target is what an instance should hold now, the work asked of it, and their etag. mu is held.
func (e *Engine) target(w workload.Workload, i workload.Instance) (map[string]workload.Held, []workload.Work, string) {
	held := map[string]workload.Held{}
	var work []workload.Work
	for name, role := range w.Keys {
		if r := e.rotationOf(name); r != nil {
			held[name] = r.Held(w, i)[name]
			if task, ok := e.workOf(*r, name, w, role, i); ok {
				work = append(work, task)
			}
			continue
		}
		current, ok := e.keys[name].Current()
		if !ok {
			continue // no version yet: not part of any bundle
		}
		held[name] = heldAt(role, Change{To: current.Number}, atNew)
	}
	slices.SortFunc(work, func(a, b workload.Work) int { return strings.Compare(a.ID, b.ID) })
	identity := func(name string) string { return e.keys[name].Created.Format(time.RFC3339Nano) }
	return held, work, workload.EtagOf(e.fingerprints, w.Name, held, work, identity)
}

// workOf is what the rotation of a key asks of an instance. mu is held.
func (e *Engine) workOf(r Rotation, keyName string, w workload.Workload, role workload.Role, i workload.Instance) (workload.Work, bool) {
	change, ok := r.Change(keyName)
	if !ok || !w.Reencrypts || !role.Verifies || i.Anonymous {
		return workload.Work{}, false
	}
	task, ok := r.WorkFor(change)
	if !ok {
		return workload.Work{}, false
	}
	for _, other := range e.keys {
		if other.Name == keyName {
			continue
		}
		for _, c := range other.Protects {
			if o := (workload.Other{Env: other.Env, Layout: c.Layout}); sharesColumn(c, change.Protects) && !slices.Contains(task.Others, o) {
				task.Others = append(task.Others, o)
			}
		}
	}
	slices.SortFunc(task.Others, func(a, b workload.Other) int { return strings.Compare(a.Env, b.Env) })
	return task, true
}

func sharesColumn(c key.Column, columns []key.Column) bool {
	return slices.ContainsFunc(columns, func(o key.Column) bool { return o.String() == c.String() })
}

// Reading is what a read of creds/ gives.
type Reading struct {
	Bundle   workload.Bundle
	Instance string
	Secret   key.Value // proves reports of this instance until its next read
	Epoch    string    // names this read in Renew and Revoke
	TTL      time.Duration
	Missing  []string // environment names of keys that have no version yet
}

// Read gives an instance its bundle and makes it, or keeps it, a live instance. A newer read supersedes an older one.
func (e *Engine) Read(ctx context.Context, workloadName, id string) (Reading, error) {
	epoch, err := e.random(8)
	if err != nil {
		return Reading{}, err
	}
	secret, err := e.random(secretBytes)
	if err != nil {
		return Reading{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	w, ok := e.workloads[workloadName]
	if !ok {
		return Reading{}, unknownWorkload(workloadName)
	}
	i, err := e.reader(w, id, epoch)
	if err != nil {
		return Reading{}, err
	}
	now := e.Now().UTC()
	held, work, etag := e.target(w, i)
	i.Epoch, i.Seen = epoch, now
	i.SecretHash = e.secretHash(i, secret)
	i.Issued = workload.Holding{Etag: etag, At: now, Keys: held}
	bundle, err := workload.Fill(i.Issued, work, func(name string) (key.Key, bool) { k, ok := e.keys[name]; return k, ok })
	if err != nil {
		return Reading{}, fmt.Errorf("bundle of %s: %w", i.Name(), err)
	}
	if err := e.put(ctx, pathInstances+i.Name(), i); err != nil {
		return Reading{}, err
	}
	e.instances[i.Name()] = i
	e.nudge()
	reading := Reading{Bundle: bundle, Instance: i.ID, Secret: key.NewValue(secret), Epoch: epoch, TTL: e.ttl(held, now)}
	for _, name := range w.KeyNames() {
		if _, ok := held[name]; !ok {
			reading.Missing = append(reading.Missing, e.keys[name].Env)
		}
	}
	return reading, nil
}

// reader gives the instance that reads. mu is held.
func (e *Engine) reader(w workload.Workload, id, epoch string) (workload.Instance, error) {
	if id == "" {
		return workload.Instance{Workload: w.Name, ID: anonymous + epoch, Anonymous: true}, nil
	}
	if !instanceForm.MatchString(id) {
		return workload.Instance{}, Refusef("instance %q is not allowed; use letters, digits, '-', '_' and '.', at most 128, such as a pod's name", id)
	}
	if strings.HasPrefix(id, anonymous) {
		return workload.Instance{}, Refusef("instance %q begins with %q, which stands for readers without a name; use another one", id, anonymous)
	}
	if i, ok := e.instances[w.Name+"/"+id]; ok {
		return i, nil
	}
	return workload.Instance{Workload: w.Name, ID: id}, nil
}

func unknownWorkload(name string) error {
	return Refusef("workload %q is not known; list the workloads with: vault list hyvve/workloads", name)
}

func (e *Engine) secretHash(i workload.Instance, secret string) string {
	return e.fingerprints.Sum("instance-secret", i.Name(), secret)
}

// ttl is how long a lease on these versions lasts: the configured time, and never beyond the life of a version. A
// version that is overdue has no life left to go by: its rotation will refuse the renewal. mu is held.
func (e *Engine) ttl(held map[string]workload.Held, now time.Time) time.Duration {
	ttl := e.config.LeaseTTL
	for name := range held {
		expires := e.keys[name].Expires()
		if expires.IsZero() || e.rotationOf(name) != nil {
			continue
		}
		if left := expires.Sub(now); left > 0 {
			ttl = min(ttl, max(left, time.Second))
		}
	}
	return ttl
}

// Renew tells for how long a lease may go on, and refuses once its instance should hold another bundle.
func (e *Engine) Renew(workloadName, id, epoch string) (time.Duration, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i, ok := e.instances[workloadName+"/"+id]
	w, known := e.workloads[workloadName]
	if !ok || !known || i.Epoch != epoch {
		return 0, Refusef("the lease of %s/%s is superseded by a newer read, or its instance was removed; read hyvve/creds/%s again", workloadName, id, workloadName)
	}
	if _, _, etag := e.target(w, i); etag != i.Issued.Etag {
		return 0, Refusef("%s should hold another bundle by now; read hyvve/creds/%s again", i.Name(), workloadName)
	}
	return e.ttl(i.Issued.Keys, e.Now()), nil
}

// Revoke removes the instance whose newest read opened that lease. The lease of an older read removes nothing.
func (e *Engine) Revoke(ctx context.Context, workloadName, id, epoch string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	i, ok := e.instances[workloadName+"/"+id]
	if !ok || i.Epoch != epoch {
		return nil
	}
	if err := e.removeInstance(ctx, i); err != nil {
		return err
	}
	e.broadcast()
	return nil
}

func (e *Engine) removeInstance(ctx context.Context, i workload.Instance) error {
	if err := e.Store.Delete(ctx, pathInstances+i.Name()); err != nil {
		return fmt.Errorf("removing instance %s: %w", i.Name(), err)
	}
	delete(e.instances, i.Name())
	return nil
}

// Watch returns when the instance's etag is no longer the given one, or after wait, with the etag of now; an empty one
// says that the instance is not known and should read its bundle.
func (e *Engine) Watch(ctx context.Context, workloadName, id, etag string, wait time.Duration) (string, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		now, changed, err := e.etagNow(workloadName, id)
		if err != nil || now != etag {
			return now, err
		}
		select {
		case <-changed:
		case <-timer.C:
			return now, nil
		case <-ctx.Done():
			return now, nil
		case <-e.ctx.Done():
			return now, nil
		}
	}
}

func (e *Engine) etagNow(workloadName, id string) (string, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w, ok := e.workloads[workloadName]
	if !ok {
		return "", nil, unknownWorkload(workloadName)
	}
	i, ok := e.instances[workloadName+"/"+id]
	if !ok {
		return "", e.changed, nil
	}
	_, _, etag := e.target(w, i)
	return etag, e.changed, nil
}

// Report is what an instance says of itself.
type Report struct {
	Workload string
	Instance string
	Secret   key.Value // of its newest read
	Etag     string    // of the bundle that its workload has loaded; empty if none
	Healthy  bool
	Reason   string // why not
	Work     []workload.WorkReport
}

// maxReason bounds what an instance may have us store, in bytes.
const maxReason = 1024

// Report takes evidence. It is believed only with the secret of the instance's newest read. The etag that the instance
// should have is returned.
func (e *Engine) Report(ctx context.Context, report Report) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w, ok := e.workloads[report.Workload]
	if !ok {
		return "", unknownWorkload(report.Workload)
	}
	i, ok := e.instances[report.Workload+"/"+report.Instance]
	if !ok || i.Anonymous {
		return "", Refusef("instance %q of workload %s is not known; read hyvve/creds/%s with instance= first", report.Instance, w.Name, w.Name)
	}
	if subtle.ConstantTimeCompare([]byte(e.secretHash(i, report.Secret.Reveal())), []byte(i.SecretHash)) != 1 {
		return "", Refusef("instance_secret of %s is not that of its newest read; read hyvve/creds/%s again", i.Name(), w.Name)
	}
	if len(report.Reason) > maxReason {
		report.Reason = strings.ToValidUTF8(report.Reason[:maxReason], "") + " …"
	}
	if err := e.takeHealth(ctx, i, report); err != nil {
		return "", err
	}
	if err := e.takeWork(ctx, w, i, report.Work); err != nil {
		return "", err
	}
	_, _, etag := e.target(w, e.instances[i.Name()])
	return etag, nil
}

// takeHealth stores what changed of an instance; when it was last seen is kept in memory alone. mu is held.
func (e *Engine) takeHealth(ctx context.Context, i workload.Instance, report Report) error {
	before := i
	i.Healthy, i.Reason, i.Seen = report.Healthy, report.Reason, e.Now().UTC()
	if report.Healthy {
		i.Reason = ""
	}
	if report.Etag == i.Issued.Etag && (i.Loaded == nil || i.Loaded.Etag != report.Etag) {
		issued := i.Issued
		i.Loaded = &issued
	}
	if i.Healthy != before.Healthy || i.Reason != before.Reason || i.Loaded != before.Loaded {
		if err := e.put(ctx, pathInstances+i.Name(), i); err != nil {
			return err
		}
		e.nudge()
	}
	e.instances[i.Name()] = i
	return nil
}

// takeWork stores evidence of work that the rotation asks for now; other reports are late and say nothing of it.
// mu is held.
func (e *Engine) takeWork(ctx context.Context, w workload.Workload, i workload.Instance, reports []workload.WorkReport) error {
	for _, report := range reports {
		for _, r := range e.active {
			for _, c := range r.Changes {
				if !w.Reencrypts || !w.Keys[c.Key].Verifies || len(c.Protects) == 0 || report.ID != r.workID(c) {
					continue
				}
				if !report.Done && report.Error == "" {
					e.progress[report.ID] = report
					continue
				}
				if len(report.Error) > maxReason {
					report.Error = strings.ToValidUTF8(report.Error[:maxReason], "") + " …"
				}
				next := r.clone()
				next.Work[report.ID] = Evidence{Report: report, At: e.Now().UTC(), Instance: i.Name()}
				if err := e.save(ctx, next, len(next.Timeline)); err != nil {
					return err
				}
				r = next
				delete(e.progress, report.ID)
			}
		}
	}
	return nil
}
