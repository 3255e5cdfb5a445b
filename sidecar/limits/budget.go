// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// patience is how long a request waits for those that were cut in its favor.
const patience = 5 * time.Second

// Budget bounds the sum of what requests hold, in any unit: bytes, or the requests themselves.
type Budget struct {
	most int64

	mu       sync.Mutex
	held     int64
	cuttable int64         // the part of held whose clients are still to do something
	leaving  int64         // the part of held whose requests were cut and have not ended yet
	wanted   int64         // by those who wait
	waits    list.List     // of *Share that are cuttable, the one that has been so longest first
	returned chan struct{} // closed when some of the budget is given back; nil: nobody waits
}

// NewBudget returns a budget of most units.
func NewBudget(most int64) *Budget { return &Budget{most: most} }

// Share is what one request holds of a budget. A request without any has a nil share, with which all methods do nothing.
type Share struct {
	budget *Budget
	units  int64
	cut    func()
	place  *list.Element // in waits; nil: its client has done its part
	gone   bool
}

// Take returns a share. If the budget does not suffice, requests that wait for their clients are cut, the longest wait first, and
// Take waits until they have ended, for five seconds at most. It reports whether that made enough room; if it cannot, nobody is cut.
// cut must make the request end, and must not block. It may be called before Take has returned.
func (b *Budget) Take(ctx context.Context, units int64, cut func()) (*Share, bool) {
	b.mu.Lock()
	if b.held+b.wanted+units > b.most {
		if !b.clear(units) || !b.await(ctx, units) {
			b.mu.Unlock()
			return nil, false
		}
	}
	defer b.mu.Unlock()
	s := &Share{budget: b, units: units, cut: cut}
	b.held += units
	s.wait()
	return s, true
}

// clear cuts as many requests as are in the way of so many units more. mu is held.
func (b *Budget) clear(units int64) bool {
	over := b.held + b.wanted + units - b.most
	if over > b.leaving+b.cuttable {
		return false
	}
	for b.leaving < over {
		victim := b.waits.Front().Value.(*Share)
		victim.keep()
		victim.gone = true
		b.leaving += victim.units
		victim.cut()
	}
	return true
}

// await waits until there is room. mu is held, but not meanwhile.
func (b *Budget) await(ctx context.Context, units int64) bool {
	b.wanted += units
	defer func() { b.wanted -= units }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for b.held+units > b.most {
		if b.returned == nil {
			b.returned = make(chan struct{})
		}
		returned := b.returned
		b.mu.Unlock()
		select {
		case <-returned:
		case <-ctx.Done():
		}
		b.mu.Lock()
		if ctx.Err() != nil {
			return b.held+units <= b.most
		}
	}
	return true
}

// Held returns how much of the budget is taken.
func (b *Budget) Held() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// wait lets the share be cut from now on. The budget's mu is held.
func (s *Share) wait() {
	s.place = s.budget.waits.PushBack(s)
	s.budget.cuttable += s.units
}

// keep lets the share be cut no more. The budget's mu is held.
func (s *Share) keep() {
	if s.place == nil {
		return
	}
	s.budget.waits.Remove(s.place)
	s.budget.cuttable -= s.units
	s.place = nil
}

// give returns units to the budget. The budget's mu is held.
func (s *Share) give(units int64) {
	s.units -= units
	s.budget.held -= units
	if s.gone {
		s.budget.leaving -= units
	}
	if s.budget.returned != nil && units > 0 {
		close(s.budget.returned)
		s.budget.returned = nil
	}
}

// Keep protects the request from being cut: its client has done its part. It reports whether it was not cut before.
func (s *Share) Keep() bool {
	if s == nil {
		return true
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.keep()
	return !s.gone
}

// Wait ends that protection, since the request waits for its client again, and gives back all but some units.
func (s *Share) Wait(units int64) {
	if s == nil {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if s.gone || s.place != nil {
		return
	}
	s.give(max(0, s.units-units))
	s.wait()
}

// Cut reports whether the request was cut.
func (s *Share) Cut() bool {
	if s == nil {
		return false
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.gone
}

// Return returns to the budget what the request held. Call it when the request has ended or holds nothing any more.
func (s *Share) Return() {
	if s == nil {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.keep()
	s.give(s.units)
}
