// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"hash/maphash"
	"sync"
)

// Names are one lock a name, more or less: names may share one.
type Names struct{ of [64]sync.Mutex }

var seed = maphash.MakeSeed()

// Lock takes a name's lock, and returns what releases it.
func (l *Names) Lock(name string) func() {
	m := &l.of[maphash.String(seed, name)%uint64(len(l.of))]
	m.Lock()
	return m.Unlock
}

// Await waits for the holders of locks.
func (l *Names) Await() {
	for n := range l.of {
		l.of[n].Lock()
		l.of[n].Unlock() //nolint:staticcheck // to have waited is all
	}
}
