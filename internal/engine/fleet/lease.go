// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

const (
	// leaseSlack is for how long beyond its lease an instance is kept that Vault has not revoked: it is Vault that ends
	// leases, and this is for those of which it never knew.
	leaseSlack = 30 * time.Second
	// rereadTime is what a reader without a name has for reading again after its lease was cut short by a version's life.
	rereadTime = 10 * time.Second
	// claimTime is what a login that was refused a name has for coming back once it is free: its back-off is at most 15 s.
	claimTime = 30 * time.Second
	// ReturnTime is what instances have for coming back to an engine that has just started: their back-off is at most 15 s.
	ReturnTime = time.Minute
)

// Load adds an instance that was read from storage. Of its lease is known only how long it may last at most. It may end at any
// moment, and that says nothing of its instance, which has [ReturnTime] to be heard of, and so has the next sidecar of one that stops.
func (f *Fleet) Load(i workload.Instance, ttl, takeover time.Duration) {
	f.Put(i)
	now, full := f.uptime(), max(i.TTL, ttl)
	f.leases[i.ID] = lease{
		full: now + full, gone: now + full + leaseSlack,
		heard: now + max(ReturnTime-takeover, 0), heartbeat: i.Heartbeat || i.Loaded != nil || !i.Judged.IsZero(),
	}
	if !i.Leaving.IsZero() { // its read is the newest one: a later one would have cleared that, and have been stored
		f.Leaving(i.ID, max(full, ReturnTime))
	}
}

// Leaving notes that the sidecar of an instance has stopped, and that the instance counts for a full lease from now on: no longer,
// and no shorter if Vault's lease ends before. The next sidecar may have the name at once.
func (f *Fleet) Leaving(id string, full time.Duration) {
	now, l := f.uptime(), f.leases[id]
	l.sure, l.released, l.reported, l.heard = true, true, now+full, min(l.heard, now)
	l.gone = l.reported
	f.leases[id] = l
}

// Renew begins a new lease of an instance. full is how long it would last if no version's life cut it short. What reports have
// extended stays extended.
func (f *Fleet) Renew(id string, given, full time.Duration, heartbeat bool) {
	now, last := f.uptime(), f.leases[id]
	f.leases[id] = lease{
		sure: true, given: now + given, full: now + full, gone: max(now+full+leaseSlack, last.reported), heard: now,
		heartbeat: heartbeat || last.heartbeat, reported: last.reported,
	}
}

// Extend notes that the reports of an instance have extended its lease.
func (f *Fleet) Extend(id string, full time.Duration) {
	l := f.leases[id]
	l.reported = f.uptime() + full
	l.gone = max(l.gone, l.reported)
	f.leases[id] = l
}

// Sure reports whether an instance's Epoch is known to be that of its newest read.
func (f *Fleet) Sure(id string) bool { return f.leases[id].sure }

// Watching notes that an instance watches: that is no proof of which lease is its newest, but of life.
func (f *Fleet) Watching(id string) {
	if l := f.leases[id]; !l.sure {
		l.gone = max(l.gone, f.uptime()+ReturnTime)
		f.leases[id] = l
	}
}

// Heard takes the word of an instance's read that it is live: the newest one is known from then on. It reports whether it
// is that of the newest read.
func (f *Fleet) Heard(i workload.Instance, epoch string) (workload.Instance, bool) {
	if parseRead(epoch).after(parseRead(i.Epoch)) { // given in an earlier life, which did not store it
		i.Epoch = epoch
		f.by[i.ID] = i
	} else if epoch != i.Epoch {
		return i, false
	}
	l := f.leases[i.ID]
	l.sure, l.heard = true, f.uptime()
	f.leases[i.ID] = l
	return i, true
}

// Alive notes a sign of life that only the instance can give.
func (f *Fleet) Alive(id string) {
	l := f.leases[id]
	l.heard, l.heartbeat, l.released = f.uptime(), true, !f.by[id].Leaving.IsZero()
	f.leases[id] = l
	if c := f.conflicts[id]; c != nil {
		c.heard = true
	}
}

// Reported replaces an instance by what its report has changed. last: the report said that it ends.
func (f *Fleet) Reported(i workload.Instance, last bool) {
	now, ok := f.Get(i.ID)
	if !ok {
		return
	}
	i.Epoch = now.Epoch // a renewal may have told of a newer one
	f.by[i.ID] = i
	l := f.leases[i.ID]
	l.released = last
	f.leases[i.ID] = l
}

// Seen notes when an instance was last seen.
func (f *Fleet) Seen(i workload.Instance, at time.Time) {
	i.Seen = at
	f.by[i.ID] = i
}

// Gone returns the instances whose leases must have ended although nobody said so: those of reads that Vault never made a lease
// of, since it was killed in between.
func (f *Fleet) Gone() (gone []workload.Instance) {
	for _, id := range f.ids {
		if f.IsGone(id) {
			gone = append(gone, f.by[id])
		}
	}
	return gone
}

// IsGone reports whether the lease of an instance must have ended.
func (f *Fleet) IsGone(id string) bool { return f.leases[id].gone < f.uptime() }

// Revoke reports whether an instance is to be removed, since Vault has ended the lease of one of its reads. Otherwise it notes
// until when the instance still counts.
func (f *Fleet) Revoke(i workload.Instance, read string) bool {
	now, l := f.uptime(), f.leases[i.ID]
	switch {
	case !l.sure && i.Anonymous:
		return false
	case !l.sure:
		l.gone = min(l.gone, now+ReturnTime)
	case i.Epoch != read:
		return false
	case l.reported > now:
		l.gone = l.reported
	case l.full > now && l.given < l.full && l.given <= now+time.Second: // ran out; revoked by hand it ends before
		l.gone = l.full
		if i.Anonymous {
			l.gone = min(l.full, now+rereadTime)
		}
	case l.claimed > now:
		l.gone = l.claimed
	default:
		return true
	}
	l.gone = max(l.gone, l.claimed)
	f.leases[i.ID] = l
	return false
}

// answered notes that the secret of the newest read has come back.
func (f *Fleet) answered(id string) {
	l := f.leases[id]
	l.used = true
	f.leases[id] = l
}
