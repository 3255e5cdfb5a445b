// SPDX-License-Identifier: Apache-2.0

package machine

// description is a region in words, for docs/agent.md and for tests.
type description struct {
	name, about string
	start       string // the state of a process that starts
	states      []string
	rows        []described
}

type described struct {
	from []string // none: any
	on   []Kind
	when string
	to   string // empty: the state stays
	do   []string
}

func (r region[T]) describe() description {
	first := Start(Settings{}, NoReload, 0)
	d := description{name: r.name, about: r.about, start: string(*r.of(&first))}
	for _, state := range r.states {
		d.states = append(d.states, string(state))
	}
	for _, row := range r.rows {
		one := described{on: row.on, when: row.when.name, to: string(row.to)}
		for _, state := range row.from {
			one.from = append(one.from, string(state))
		}
		for _, a := range row.do {
			one.do = append(one.do, a.name)
		}
		d.rows = append(d.rows, one)
	}
	return d
}
