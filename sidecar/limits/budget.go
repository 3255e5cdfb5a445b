// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"container/list"
	"context"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
)

// patience is how long a request waits for those that were cut in its favor.
const patience = 5 * time.Second

// Budget bounds the sum of what requests hold, in any unit: bytes, or the requests themselves.
type Budget struct{ account *guard.Guarded[account] }

// account is what is held of a budget.
type account struct {
	most     int64
	held     int64
	cuttable int64         // the part of held whose clients are still to do something
	leaving  int64         // the part of held whose requests were cut and have not ended yet
	wanted   int64         // by those who wait
	waits    list.List     // of *Share that are cuttable, the one that has been so longest first
	returned chan struct{} // closed when some of the budget is given back; nil: nobody waits
}

// NewBudget returns a budget of most units.
func NewBudget(most int64) *Budget { return &Budget{guard.New(&account{most: most})} }

// Share is what one request holds of a budget. A request without any has a nil share, with which all methods do nothing.
type Share struct {
	account *guard.Guarded[account] // under whose lock is the rest
	units   int64
	cut     func()
	place   *list.Element // in waits; nil: its client has done its part
	gone    bool
}

// Take returns a share. If the budget does not suffice, requests that wait for their clients are cut, the longest wait first, and
// Take waits until they have ended, for five seconds at most. It reports whether that made enough room; if it cannot, nobody is cut.
// cut must make the request end, and must not block. It may be called before Take has returned.
func (b *Budget) Take(ctx context.Context, units int64, cut func()) (*Share, bool) {
	s := &Share{account: b.account, units: units, cut: cut}
	a, unlock := b.account.Lock()
	switch {
	case a.held+a.wanted+units <= a.most:
		a.admit(s)
		unlock()
		return s, true
	case !a.clear(units):
		unlock()
		return nil, false
	}
	a.wanted += units
	unlock()
	if b.await(ctx, s) {
		return s, true
	}
	return nil, false
}

// admit adds a share, which may be cut.
func (a *account) admit(s *Share) {
	a.held += s.units
	a.wait(s)
}

// clear cuts as many requests as are in the way of so many units more.
func (a *account) clear(units int64) bool {
	over := a.held + a.wanted + units - a.most
	if over > a.leaving+a.cuttable {
		return false
	}
	for a.leaving < over {
		victim := a.waits.Front().Value.(*Share)
		a.keep(victim)
		victim.gone = true
		a.leaving += victim.units
		victim.cut()
	}
	return true
}

// await waits until there is room for a share that is wanted, and admits it.
func (b *Budget) await(ctx context.Context, s *Share) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		a, unlock := b.account.Lock()
		fits := a.held+s.units <= a.most
		if fits || ctx.Err() != nil {
			a.wanted -= s.units
			if fits {
				a.admit(s)
			}
			unlock()
			return fits
		}
		if a.returned == nil {
			a.returned = make(chan struct{})
		}
		returned := a.returned
		unlock()
		select {
		case <-returned:
		case <-ctx.Done():
		}
	}
}

// Held returns how much of the budget is taken.
func (b *Budget) Held() (held int64) {
	b.account.Do(func(a *account) { held = a.held })
	return held
}

// wait lets a share be cut from now on.
func (a *account) wait(s *Share) {
	s.place = a.waits.PushBack(s)
	a.cuttable += s.units
}

// keep lets a share be cut no more.
func (a *account) keep(s *Share) {
	if s.place == nil {
		return
	}
	a.waits.Remove(s.place)
	a.cuttable -= s.units
	s.place = nil
}

// take takes units back from a share.
func (a *account) take(s *Share, units int64) {
	s.units -= units
	a.held -= units
	if s.gone {
		a.leaving -= units
	}
	if a.returned != nil && units > 0 {
		close(a.returned)
		a.returned = nil
	}
}

// Keep protects the request from being cut: its client has done its part. It reports whether it was not cut before.
func (s *Share) Keep() bool {
	if s == nil {
		return true
	}
	a, unlock := s.account.Lock()
	defer unlock()
	a.keep(s)
	return !s.gone
}

// Wait ends that protection, since the request waits for its client again, and gives back all but some units.
func (s *Share) Wait(units int64) {
	if s == nil {
		return
	}
	a, unlock := s.account.Lock()
	defer unlock()
	if s.gone || s.place != nil {
		return
	}
	a.take(s, max(0, s.units-units))
	a.wait(s)
}

// Cut reports whether the request was cut.
func (s *Share) Cut() (cut bool) {
	if s == nil {
		return false
	}
	s.account.Do(func(*account) { cut = s.gone })
	return cut
}

// Return returns to the budget what the request held. Call it when the request has ended or holds nothing any more.
func (s *Share) Return() {
	if s == nil {
		return
	}
	a, unlock := s.account.Lock()
	defer unlock()
	a.keep(s)
	a.take(s, s.units)
}
