// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"container/heap"
	"time"
)

// Start is a time at which a key may be due.
type Start struct {
	At  time.Time
	Key string
}

// Agenda is the starts to come, the soonest first. An entry of heap that does not agree with times is void.
type Agenda struct {
	heap  starts
	times map[string]time.Time // by key
}

// NewAgenda returns one on which nothing is planned.
func NewAgenda() Agenda { return Agenda{times: map[string]time.Time{}} }

// At is when a key is planned; zero: it is not.
func (a *Agenda) At(name string) time.Time { return a.times[name] }

// starts is a heap.
type starts []Start

func (s starts) Len() int { return len(s) }

func (s starts) Less(i, j int) bool { return s[i].At.Before(s[j].At) }

func (s starts) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

func (s *starts) Push(x any) { *s = append(*s, x.(Start)) }

func (s *starts) Pop() any {
	last := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return last
}

// Set replaces what is planned of a key; zero: nothing.
func (a *Agenda) Set(name string, at time.Time) {
	if at.IsZero() {
		delete(a.times, name)
		return
	}
	if a.times[name].Equal(at) {
		return
	}
	a.times[name] = at
	heap.Push(&a.heap, Start{at, name})
}

// Next returns the soonest start that counts.
func (a *Agenda) Next() (Start, bool) {
	for len(a.heap) > 0 {
		first := a.heap[0]
		if at, ok := a.times[first.Key]; ok && at.Equal(first.At) {
			return first, true
		}
		heap.Pop(&a.heap)
	}
	return Start{}, false
}
