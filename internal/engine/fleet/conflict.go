// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"time"
)

// Two processes may use the name of one instance. A report then proves what one of them has loaded, and nothing of the other. It is
// found by what no single process does, each of them more than once:
//
//   - another login is refused the name, and the instance's own is heard of between that and the next time;
//   - reports come with the secret of an older read although that of the newest one was used already;
//   - watches end each other.
//
// It is kept in memory alone, and found again after a restart.

const (
	conflictAge    = 2 * time.Minute // without another sign, they are two no longer: a sidecar waits 15 s at most before it tries again
	conflictWithin = time.Minute     // signs further apart are of single processes that have lost a connection, or their memory
	conflictSigns  = 2               // reports with an older secret
	conflictWatch  = 3               // watches that were ended; each lost connection may end one
)

// add counts a sign, and reports whether there were enough of them within a while.
func (s *signs) add(now time.Duration, enough int) bool {
	if s.n == 0 || now-s.first > conflictWithin {
		s.n, s.first = 0, now
	}
	s.n++
	return s.n >= enough
}

// conflictOf returns what is known of an instance, which is there.
func (f *Fleet) conflictOf(id string) *conflict {
	c := f.conflicts[id]
	if c == nil {
		c = &conflict{}
		f.conflicts[id] = c
	}
	return c
}

// refusedName notes that another login was refused the name of an instance.
func (f *Fleet) refusedName(id, own, other string, at time.Time) {
	c, now := f.conflictOf(id), f.uptime()
	if c.refused > 0 && c.heard && now-c.refused <= conflictWithin {
		f.found(c, at, fmt.Sprintf("login %s has it, and login %s asks for it", own, other))
	}
	c.refused, c.heard = now, false
}

// oldSecret notes a report of an instance with the secret of an older read than the newest one, which was used.
func (f *Fleet) oldSecret(id, login string, at time.Time) {
	if c := f.conflictOf(id); c.reports.add(f.uptime(), conflictSigns) {
		f.found(c, at, fmt.Sprintf("login %s reads and reports under it by turns from two places", login))
	}
}

// WatchEnded notes that a watch of an instance was ended by a newer one.
func (f *Fleet) WatchEnded(id string, at time.Time) {
	if i, ok := f.Get(id); ok {
		if c := f.conflictOf(id); c.watches.add(f.uptime(), conflictWatch) {
			f.found(c, at, fmt.Sprintf("login %s watches under it from two places", i.Login.Name))
		}
	}
}

func (f *Fleet) found(c *conflict, at time.Time, how string) {
	c.at, c.last, c.text = f.uptime(), at, how
}

// Conflict says that two processes use the name of an instance, and what to do; empty: nothing shows that.
func (f *Fleet) Conflict(id string) string {
	if f == nil || f.conflicts[id] == nil {
		return ""
	}
	c := f.conflicts[id]
	if c.at == 0 || f.uptime()-c.at > conflictAge {
		return ""
	}
	return fmt.Sprintf("two processes use the name %s: %s (last at %s); a report proves nothing of the other one; give each its own instance=", id, c.text, c.last.UTC().Format(time.RFC3339))
}

// Conflicts returns the conflicts of all instances, in the order of their names.
func (f *Fleet) Conflicts() (all []string) {
	if f == nil || len(f.conflicts) == 0 {
		return nil
	}
	for _, id := range f.ids {
		if text := f.Conflict(id); text != "" {
			all = append(all, text)
		}
	}
	return all
}
