// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Report is what an instance says of itself.
type Report struct {
	Workload string
	Instance string
	Secret   key.Value      // of its newest read
	Etag     string         // of the bundle that its workload has loaded; empty if none
	Proof    workload.Proof // how it knows that the workload has
	Healthy  bool
	Reason   string // why not
	Last     bool   // the process ends now: the next one may use the name at once, whatever its login
	Work     []workload.WorkReport

	Sightings []workload.Sighting // of old versions, by its proxy
	Trips     []workload.Trip     // retired versions that were presented to its proxy
}

// Report takes evidence. It is believed only with the secret of the instance's newest read. The etag that the instance
// should have is returned.
func (e *Engine) Report(ctx context.Context, report Report) (string, error) {
	if err := e.down(); err != nil {
		return "", err
	}
	var err error
	if report.Work, err = untrusted.CheckWork(report.Work); err != nil {
		return "", err
	}
	w, i, err := e.believed(ctx, report)
	if err != nil {
		return "", err
	}
	e.takeTrips(w, i, report.Trips)
	if work := e.takeCounts(w, i, report.Work); len(work) > 0 {
		if err := e.update(func(l *locked) error { return l.takeWork(ctx, w, i, work) }); err != nil {
			return "", err
		}
	}
	etag, _, err := e.etagNow(w.Name, i.ID)
	return etag, err
}

// believed checks who reports, and stores what changed of the instance; when it was last seen is kept in memory alone.
func (s *state) believed(ctx context.Context, report Report) (w workload.Workload, i workload.Instance, err error) {
	defer s.instances.Lock(report.Workload + "/" + report.Instance)()
	s.lock(func(m *memory) { w, i, err = m.reporter(report.Workload, report.Instance, report.Secret) })
	if err == nil {
		err = stillReports(i)
	}
	if err != nil {
		return w, i, err
	}
	before := i
	i.Healthy, i.Reason, i.Seen = report.Healthy, untrusted.Reason(report.Reason), s.Now().UTC()
	i.Judged = i.Seen
	if report.Healthy {
		i.Reason = ""
	}
	proves := report.Etag == i.Issued.Etag && !i.AllProved()
	if proves {
		i = i.Proved(i.Seen)
	}
	if report.Etag == i.Issued.Etag { // what it says of another bundle is no news of this one
		i.Proof = report.Proof
	}
	used := untrusted.News(before.Sightings, report.Sightings)
	if used {
		i.Sightings = report.Sightings
	}
	news := used || proves || i.Proof != before.Proof || i.Healthy != before.Healthy || i.Reason != before.Reason || before.Judged.IsZero()
	if news {
		if err := s.put(ctx, pathInstances+i.Name(), i); err != nil {
			return w, i, err
		}
	}
	s.lock(func(m *memory) { m.fleets[i.Workload].Reported(i, report.Last) })
	if news {
		s.nudge()
	}
	return w, i, nil
}

// takeCounts keeps the counts of rows among reports, in memory alone, and returns the other reports.
func (s *state) takeCounts(w workload.Workload, i workload.Instance, reports []workload.WorkReport) (others []workload.WorkReport) {
	for _, report := range reports {
		rest, ok := strings.CutPrefix(report.ID, workload.CountPrefix)
		if !ok {
			others = append(others, report)
			continue
		}
		name, _, _ := strings.Cut(rest, "/")
		if !w.Reencrypts || !w.Keys[name].AcceptsBoth() {
			continue
		}
		report.Error = untrusted.Reason(report.Error)
		s.lock(func(m *memory) {
			if current, ok := m.Keys[name].Current(); ok && report.ID == catalog.CountID(m.Keys[name], current.Number) { // others are late
				m.counted[name] = counted{report, s.Now().UTC(), i.Name()}
			}
		})
	}
	return others
}

// takeWork stores evidence of work that the rotation asks for now; other reports are late and say nothing of it.
func (l *locked) takeWork(ctx context.Context, w workload.Workload, i workload.Instance, reports []workload.WorkReport) error {
	for _, report := range reports {
		id, _, _ := strings.Cut(report.ID, "/")
		r, ok := l.active[id]
		if !ok || !w.Reencrypts || l.erased(r) {
			continue
		}
		for _, c := range r.Changes {
			if report.ID != r.WorkID(c) || len(c.Protects) == 0 || !w.Keys[c.Key].AcceptsBoth() {
				continue
			}
			if rotation.RowsLeft(r, c) != "" { // it goes back for them; that somebody else has seen none is no answer to that
				continue
			}
			if !report.Done && report.Error == "" {
				l.lock(func(m *memory) { m.progress[report.ID] = report })
				continue
			}
			report.Error, report.Columns = untrusted.Reason(report.Error), untrusted.AskedColumns(report.Columns, c.Protects)
			report.Place = untrusted.AskedTables(report.Place, c.Protects)
			report = rotation.BoundedLook(report, r.Phase(), l.Keys[c.Key].IgnoreColumns)
			evidence := rotation.Evidence{Report: report, At: l.Now().UTC(), Instance: i.Name(), Login: i.Login}
			if r.SaidAlready(c, evidence) {
				continue
			}
			next := r.Clone()
			next.Work[report.ID] = evidence
			if r.Phase() == workload.PhaseCheck {
				next = next.Witnessed(c, evidence)
			}
			next = next.Bounded()
			l.lock(func(m *memory) { delete(m.progress, report.ID) })
			if err := l.save(ctx, next); err != nil {
				return err
			}
			r = next
			l.nudge()
		}
	}
	return nil
}
