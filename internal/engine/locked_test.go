// SPDX-License-Identifier: Apache-2.0

package engine

import "testing"

// What was done under the writer lock cannot be done with it any more once it is released.
func TestLockedEndsWithTheLock(t *testing.T) {
	l, release := newHarness(t).engine.acquire()
	release()
	defer func() {
		if recover() == nil {
			t.Error("it can be used")
		}
	}()
	_ = l.Now()
}
