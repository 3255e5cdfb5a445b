// SPDX-License-Identifier: Apache-2.0

package status

import (
	"net/http"
	"time"
)

// AwaitMost is how long /await lets wait; who is not content asks again.
const AwaitMost = 3 * time.Second

// abandonedLook is the time between two looks at who waits. A kubelet that is started again takes longer to look at its pods.
const abandonedLook = 20 * time.Millisecond

// waiters are those who hold others back until the state is ready. The board's lock is theirs.
type waiters struct {
	now  int       // how many ask at this moment
	last time.Time // when the last of those before has had its answer
	left bool      // it has gone without one
}

// await answers as /status does, once the state is ready, or after AwaitMost.
func (b *Board) await(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.waiters.now++
	b.mu.Unlock()
	left := false
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.waiters.now--
		b.waiters.last, b.waiters.left = time.Now(), left
	}()
	enough := time.NewTimer(AwaitMost)
	defer enough.Stop()
	select {
	case <-b.ready:
	case <-enough.C:
	case <-r.Context().Done():
		left = true
		return
	}
	b.answer(w, r)
}

// Ready is closed once the state is.
func (b *Board) Ready() <-chan struct{} { return b.ready }

// Abandoned is closed if nobody waits for the state to be ready any more, though it is not: when nobody has come to wait within
// first, when the one who waited has gone, or has had an answer and not asked again.
func (b *Board) Abandoned(first, again time.Duration, end <-chan struct{}) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		ticker := time.NewTicker(abandonedLook)
		defer ticker.Stop()
		for begun := time.Now(); ; {
			select {
			case <-end:
				return
			case <-b.ready:
				return
			case <-ticker.C:
			}
			b.mu.Lock()
			w := b.waiters
			b.mu.Unlock()
			switch {
			case w.now > 0:
			case w.left, w.last.IsZero() && time.Since(begun) > first, !w.last.IsZero() && time.Since(w.last) > again:
				close(gone)
				return
			}
		}
	}()
	return gone
}
