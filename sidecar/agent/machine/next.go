// SPDX-License-Identifier: Apache-2.0

package machine

import "slices"

// Next is the machine. It returns the state after an event, and the effects to perform in their order, of which at most the
// last has a result in any case; others have one where they fail. Where there is no result, the machine waits for news or
// for the timer that [Timers.First] returns.
func Next(s State, e Event) (State, []Effect) {
	next := s
	for t, kind := range elapsed {
		if e.Kind == kind {
			next.Timers[t] = Never
		}
	}
	var effects []Effect
	for _, r := range regions {
		effects = append(effects, r.step(&s, &next, e)...)
	}
	return due(next, e.At, effects)
}

// Begin returns the first effects of a process that starts.
func Begin(s State, at Moment) (State, []Effect) { return due(s, at, nil) }

// due adds the effects that the rules say.
func due(s State, at Moment, effects []Effect) (State, []Effect) {
	for again := true; again; {
		again = false
		for _, r := range rules {
			if !r.when(s) {
				continue
			}
			for _, one := range r.do(s) {
				effects = append(effects, Effect{Do: one})
			}
			if r.then != nil {
				r.then(&s, at)
			}
			again = r.silent
			break
		}
	}
	return s, effects
}

// step takes an event.
func (r region[T]) step(before, next *State, e Event) (effects []Effect) {
	n := r.find(before, e)
	if n < 0 {
		return nil
	}
	row := r.rows[n]
	if row.to != "" {
		*r.of(next) = row.to
	}
	for _, a := range row.do {
		effects = append(effects, a.do(next, e)...)
	}
	return effects
}

// find returns which row counts for an event; -1 where none does.
func (r region[T]) find(s *State, e Event) int {
	at := *r.of(s)
	return slices.IndexFunc(r.rows, func(row row[T]) bool { return row.matches(at, e.Kind) && row.when.holds(*s, e) })
}

func (r row[T]) matches(at T, kind Kind) bool {
	return slices.Contains(r.on, kind) && (len(r.from) == 0 || slices.Contains(r.from, at))
}
