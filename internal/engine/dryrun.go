// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// DefinitionPlan is what writing a definition would change, and whom that is about.
type DefinitionPlan struct {
	Changes  []rotation.EntryChange
	Affected []string // in words
}

// PlanWorkload is PutWorkload without its effect. What that would refuse is refused.
func (e *Engine) PlanWorkload(w workload.Workload, drop bool) (DefinitionPlan, error) {
	l, release := e.acquire()
	defer release()
	old := l.Workloads[w.Name]
	w, waiting, err := l.checkWorkload(w, drop)
	if err != nil {
		return DefinitionPlan{}, err
	}
	p := DefinitionPlan{Changes: catalog.WorkloadChanges(old, w), Affected: []string{}}
	if w.Before != nil && !maps.Equal(old.Keys, w.Keys) {
		atATime, err := w.AtATime(len(l.Instances(w.Name)))
		if err != nil {
			return p, err
		}
		p.Affected = append(p.Affected, fmt.Sprintf("%d live instances would load other files, at most %d at a time: %s", len(waiting), atATime, someOf(slices.Sorted(maps.Keys(waiting)))))
	}
	if text := l.provesLess(w); text != "" && !old.RequireProof.AtLeast(w.RequireProof) {
		p.Affected = append(p.Affected, text)
	}
	return p, nil
}

// provesLess says which live instances of a workload prove less than it requires, so that rotations would wait for them.
func (s *state) provesLess(w workload.Workload) string {
	return rotation.ProvesLess(rotation.WorkloadFact{Workload: w, Instances: s.Instances(w.Name)})
}

// Unproved is how many live instances of a workload prove less than it requires.
func (s *state) Unproved(name string) int {
	w, _ := s.Workload(name)
	return rotation.Unproved(rotation.WorkloadFact{Workload: w, Instances: s.Instances(name)})
}

// ProvesLess says which live instances of a workload prove less than it requires, and what to do; empty: none.
func (s *state) ProvesLess(name string) string {
	w, _ := s.Workload(name)
	return s.provesLess(w)
}

// PlanKey is PutKey without its effect.
func (e *Engine) PlanKey(d catalog.Definition, by rotation.Actor) (DefinitionPlan, error) {
	l, release := e.acquire()
	defer release()
	k, _, changes, err := l.checkKey(d, by)
	if err != nil {
		return DefinitionPlan{}, err
	}
	p := DefinitionPlan{Changes: changes, Affected: []string{}}
	for _, name := range slices.Sorted(maps.Keys(l.Workloads)) {
		if l.Workloads[name].Uses(k.Name) {
			p.Affected = append(p.Affected, fmt.Sprintf("workload %s uses the key, with %d live instances", name, len(l.Instances(name))))
		}
	}
	return p, nil
}

// PlanConnection is PutConnection without its effect. The server is asked, if verify is set.
func (e *Engine) PlanConnection(ctx context.Context, written kind.Connection, verify bool) (DefinitionPlan, []string, error) {
	old, c, changes, err := e.prepareConnection(ctx, written, verify)
	if err != nil {
		return DefinitionPlan{}, nil, err
	}
	l, release := e.acquire()
	defer release()
	if err := l.ConnectionEndsUndeleted(c, old); err != nil {
		return DefinitionPlan{}, nil, err
	}
	p := DefinitionPlan{Changes: changes, Affected: []string{}}
	for _, name := range slices.Sorted(maps.Keys(l.Keys)) {
		if k := l.Keys[name]; k.Options[kind.OptionConnection] == c.Name || k.Witness == c.Name {
			p.Affected = append(p.Affected, "key "+name+" uses the connection")
		}
	}
	return p, c.Notes, nil
}
