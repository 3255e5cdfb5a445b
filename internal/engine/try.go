// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// tryRows is how many rows of a column the engine opens to try a witness.
const tryRows = 3

// witnessTry is a short look at the rows of a key by the connection that is its witness. A rotation needs the witness when
// there is no way back any more, so that a fault has to show before its first change.
type witnessTry struct {
	env        string
	looker     kind.RowLooker
	connection kind.Connection
	look       kind.RowLook
	version    int
	counted    counted // by an instance, of the current version; zero: by none
}

// witnessTries returns a try of each key whose witness is a connection.
func (s *state) witnessTries(names []string) (all []witnessTry) {
	m, unlock := s.memory.Lock()
	defer unlock()
	for _, name := range names {
		k := m.Keys[name]
		current, ok := k.Current()
		if !ok || len(k.Protects) == 0 || !rotation.ByConnection(k.Witness) {
			continue
		}
		looker, connection, err := m.Looker(k.Witness)
		if err != nil { // refused on write, and the connection cannot be deleted
			continue
		}
		// Before a rotation, rows may be under undeleted versions, too, as after a revert.
		others := m.OtherValues(rotation.Rotation{State: rotation.Reverting}, rotation.Change{Key: name, Protects: k.Protects})
		t := witnessTry{k.Env, looker, connection, kind.RowLook{Columns: k.Protects, Value: current.Value, Others: others, Most: tryRows}, current.Number, counted{}}
		if last := m.counted[name]; last.report.ID == catalog.CountID(k, current.Number) && last.report.Error == "" {
			t.counted = last
		}
		all = append(all, t)
	}
	return all
}

// fault returns why the engine could not be a witness now; nil: it could.
func (t witnessTry) fault(ctx context.Context) error {
	report, err := untrusted.LookAtRows(ctx, t.looker, t.connection, t.look)
	if err != nil {
		return fmt.Errorf("the engine cannot look at the rows by connection %s, its witness: %w", t.connection.Name, err)
	}
	if there := t.counted.report.Place; there != nil && report.Place != nil {
		if how := report.Place.Differs(*there); how != "" {
			return fmt.Errorf("%s, where connection %s, its witness, leads to and where %s has counted the rows; mend the database URL of the one that is wrong", how, t.connection.Name, t.counted.instance)
		}
	}
	total, open := 0, 0
	for _, c := range report.Columns {
		total, open = total+c.Total, open+c.Rotated+c.Other
	}
	if total > 0 && open == 0 {
		return fmt.Errorf("none of the %d rows that the engine has tried by connection %s, its witness, opens under version %d; does its url lead to the database of the rows?", total, t.connection.Name, t.version)
	}
	return nil
}

// try tries witnesses.
func (s *state) try(ctx context.Context, tries []witnessTry) (faults []remark) {
	ctx, cancel := context.WithTimeout(ctx, planDeadline)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	for _, t := range tries {
		if err := t.fault(ctx); err != nil {
			faults = append(faults, remark{t.env, err.Error()})
		}
	}
	return faults
}

// TryWitness tries the witness of a key, and returns what is wrong with it.
func (s *state) TryWitness(ctx context.Context, name string) []string {
	return summed(s.try(ctx, s.witnessTries([]string{name})))
}
