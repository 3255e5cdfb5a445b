// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// The record of an instance that has lapsed is that of the instance as its lease ended, under another path. It is stored before that of
// the instance is removed, and removed after the instance is stored again. Killed in between, both are there: the instance lives, and
// Begin removes the other one.

// noteLapsed stores that the lease of an instance has ended, if its process may run on. Its caller has the lock of the instance.
func (s *state) noteLapsed(ctx context.Context, i workload.Instance) error {
	if i.Leaving.IsZero() {
		return nil
	}
	i.Leaving.Until = s.Now().UTC()
	return s.put(ctx, pathLapsed+i.Name(), i)
}

// forgetLapsed removes the records of instances that do not count as lapsed any more.
func (s *state) forgetLapsed(ctx context.Context, workloadName string, ids ...string) error {
	for _, id := range ids {
		if err := s.remove(ctx, pathLapsed+workloadName+"/"+id); err != nil {
			return err
		}
	}
	return nil
}

// settleLapsed forgets that an instance has lapsed, since its process is known to have ended.
func (s *state) settleLapsed(ctx context.Context, workloadName, id string) error {
	defer s.instances.Lock(workloadName + "/" + id)()
	if !get(s, func(m *memory) bool { return m.fleets[workloadName].HasLapsed(id) }) {
		return nil
	}
	if err := s.forgetLapsed(ctx, workloadName, id); err != nil {
		return err
	}
	s.lock(func(m *memory) { m.fleets[workloadName].Settle(id) })
	return nil
}

// loadLapsed reads which instances have lapsed. A damaged record is forgotten: it is no reason to refuse the mount.
func (l *locked) loadLapsed(ctx context.Context) error {
	return l.eachLapsed(ctx, func(name string, ids []string) error {
		return l.each(ctx, pathLapsed+name+"/", func(data []byte) error {
			i, err := workload.DecodeInstance(data)
			if err != nil {
				l.Observer.Fault("the record of an instance that has lapsed could not be read, and is forgotten", err)
				return nil
			}
			l.lock(func(m *memory) {
				if f := m.fleets[i.Workload]; f != nil {
					f.Lapse(i, i.Leaving.Until)
				}
			})
			return nil
		})
	})
}

// tidyLapsed removes the records that say nothing any more.
func (l *locked) tidyLapsed(ctx context.Context) error {
	return l.eachLapsed(ctx, func(name string, ids []string) error {
		l.lock(func(m *memory) { ids = slices.DeleteFunc(ids, m.fleets[name].HasLapsed) })
		return l.forgetLapsed(ctx, name, ids...)
	})
}

// eachLapsed calls do with the names of all records, by workload.
func (l *locked) eachLapsed(ctx context.Context, do func(name string, ids []string) error) error {
	names, err := l.Store.List(ctx, pathLapsed)
	if err != nil {
		return fmt.Errorf("listing %s: %w", pathLapsed, err)
	}
	for _, name := range names {
		name = strings.TrimSuffix(name, "/")
		ids, err := l.Store.List(ctx, pathLapsed+name+"/")
		if err != nil {
			return fmt.Errorf("listing %s%s: %w", pathLapsed, name, err)
		}
		if err := do(name, ids); err != nil {
			return err
		}
	}
	return nil
}
