// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// AwaitMost is how long /await lets wait at most; who is not content asks again.
const AwaitMost = 3 * time.Second

// heldLook is the time between two looks at who waits. A kubelet that is started again takes longer to look at its pods.
const heldLook = 20 * time.Millisecond

// ErrAbandoned means that the process that held the workload back is gone. It may come back and take the sidecar for ready.
var ErrAbandoned = errors.New("nobody waits any more for what the workload needs to start, and it is not in place")

// waiters are those who hold others back until the state is ready. The board's lock is theirs.
type waiters struct {
	now  int       // how many ask at this moment
	last time.Time // when the last of those before has had its answer
	left bool      // it has gone without one
}

// await answers as /status does, once the state is ready, or after the duration of the query's "for".
func (b *Board) await(w http.ResponseWriter, r *http.Request) {
	most := AwaitMost
	if text := r.URL.Query().Get("for"); text != "" {
		wanted, err := time.ParseDuration(text)
		if err != nil {
			http.Error(w, "for: write a duration, such as 500ms", http.StatusBadRequest)
			return
		}
		most = min(wanted, AwaitMost)
	}
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
	enough := time.NewTimer(most)
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

// Held waits until the state is ready. It ends with ErrAbandoned when nobody waits for that at /await any more: when nobody has come
// within first, when the one who waited has gone, or has had an answer and not asked again for so long; and with that of ctx.
func (b *Board) Held(ctx context.Context, first, again time.Duration) error {
	ticker := time.NewTicker(heldLook)
	defer ticker.Stop()
	for begun := time.Now(); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.ready:
			return nil
		case <-ticker.C:
		}
		b.mu.Lock()
		w := b.waiters
		b.mu.Unlock()
		switch {
		case w.now > 0:
		case w.left, w.last.IsZero() && time.Since(begun) > first, !w.last.IsZero() && time.Since(w.last) > again:
			return ErrAbandoned
		}
	}
}
