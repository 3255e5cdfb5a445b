// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"sync"
	"testing"
)

// Whatever the way in, one at a time has the value.
func TestOneAtATime(t *testing.T) {
	const each = 1000
	counter := New(new(int))
	var names Names
	byName := 0
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for range each {
				if n%2 == 0 {
					value, unlock := counter.Lock()
					*value++
					unlock()
				} else {
					counter.Do(func(value *int) { *value++ })
				}
				unlock := names.Lock("a")
				byName++
				unlock()
			}
		})
	}
	all.Wait()
	names.Await()
	counter.Do(func(value *int) {
		if *value != 8*each || byName != 8*each {
			t.Errorf("%d and %d, want %d", *value, byName, 8*each)
		}
	})
}
