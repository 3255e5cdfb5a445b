// SPDX-License-Identifier: Apache-2.0

package machine

import "time"

// sent is a request to Vault, with what the agent knew when it was sent.
type sent struct {
	one      Do
	state    State
	secret   int
	ends     Moment
	event    Event // its result; empty: it is not served yet
	bundleOf       // of a read that was served
	read     int   // the secret of that read
}

// reported is what the engine was sent last and has taken, as the agent knows.
type reported struct {
	loaded  string
	healthy bool
}

// expects are the states in which a request is under way.
var expects = map[Do]Request{
	Login: LoggingIn, RenewToken: Renewing, ReadBundle: Reading, SendReport: Reporting, ExtendLease: Extending, ReadNew: ReadingNew,
}

func (w *world) asked(one Do) sent {
	if one == SendReport || one == ReportFailure {
		w.checkReport()
	}
	return sent{one: one, state: w.s, secret: w.secret}
}

// alone: the instance is given up, and another configuration adopted, when no request is under way.
func (w *world) alone(one Do) {
	if w.request != nil {
		w.violate("%s beside a request, %s", one, w.request.one)
	}
}

// send sends a request. Vault serves it at once, and its result is late; or it is late itself.
func (w *world) send(one Do) {
	switch {
	case w.request != nil:
		w.violate("there are two requests: %s while %s is under way", one, w.request.one)
		return
	case w.watch != Never:
		w.violate("there is a watch beside %s", one)
	case one == ReadNew && w.s.Life != Moving:
		w.violate("another instance's bundle is read: %+v", w.s)
	}
	r := w.asked(one)
	if w.request = &r; w.one(2) {
		r.event = w.answer(&r)
	}
	r.ends = w.now + w.between(0, 30*time.Millisecond)
	if w.mishaps(8) { // Vault is silent
		r.ends = w.now + w.between(0, 30*time.Second)
	}
}

// cancel drops the request that is under way. It may be served all the same.
func (w *world) cancel() {
	if r := w.request; r != nil && r.event.Kind == "" && w.one(2) {
		w.answer(r)
	}
	w.request = nil
}

// ended is the result of the request that was under way.
func (w *world) ended() Event {
	r := w.request
	if w.s.Request != expects[r.one] {
		w.violate("%s has a result that nobody waits for: %+v", r.one, w.s)
	}
	if r.event.Kind == "" {
		r.event = w.answer(r)
	}
	w.request = nil
	switch r.event.Kind {
	case BundleRead:
		w.secret, w.held = r.read, r.bundleOf
	case Reported:
		w.reported = reported{r.state.Loaded, r.state.Verdict == Healthy}
	default:
	}
	r.event.Of = r.one
	return r.event
}

// answer is what comes of a request. It may be lost, and so may its answer after it was served.
func (w *world) answer(r *sent) Event {
	failed := Event{Kind: Unavailable}
	switch r.one {
	case ExtendLease:
		failed.Kind = ExtendFailed
	case Leave, ReportFailure, ReportLeaving:
		failed.Kind = LeaveFailed
	case ReadNew:
		return w.readNew()
	default:
	}
	switch {
	case w.engine.down, w.mishaps(30):
		return failed
	case w.engine.denies && failed.Kind == Unavailable:
		return Event{Kind: Denied}
	case w.mishaps(60) && failed.Kind == Unavailable:
		return Event{Kind: Refused, RetryAfter: w.between(0, 5*time.Second)}
	}
	e := w.serve(r)
	if w.mishaps(30) && !e.Kind.Failed() {
		return failed
	}
	return e
}

// readNew asks for the bundle of the instance that the next configuration names.
func (w *world) readNew() Event {
	switch {
	case w.engine.down, w.mishaps(10):
		return Event{Kind: NewUnavailable, RetryAfter: w.between(0, 5*time.Second)}
	case w.engine.denies, w.mishaps(5):
		return Event{Kind: NewRefused}
	}
	return Event{Kind: NewRead}
}

// serve serves a request.
func (w *world) serve(r *sent) Event {
	switch r.one {
	case Login:
		e := Event{Kind: LoggedIn, TTL: w.between(20*time.Second, 10*time.Minute), Renewal: Renewable}
		if w.one(3) {
			e.Renewal = Fixed
		}
		if w.one(10) {
			e.TTL = 0
		}
		return e
	case RenewToken:
		return Event{Kind: Renewed, TTL: w.between(5*time.Second, 10*time.Minute)}
	case ReadBundle:
		if w.engine.old && r.state.Writes == WritesAllowed {
			return Event{Kind: NoWrite}
		}
		w.engine.secret++
		r.read, r.bundleOf = w.engine.secret, w.engine.bundleOf
		return Event{Kind: BundleRead, Held: Held{w.engine.etag, w.engine.content}, Lease: w.between(30*time.Second, 5*time.Minute)}
	case Leave:
		if w.s.Life != Leaving {
			w.violate("the instance is given up while the process lives: %+v", w.s)
		}
		if w.beside && w.s.Settings.OnStop == HoldOnStop {
			w.violate("the instance is given up beside a workload that runs: %+v", w.s)
		}
		return Event{Kind: Left}
	case ReportLeaving:
		if w.s.Life != Holding || !w.beside {
			w.violate("the instance is left beside no workload: %+v", w.s)
		}
		return Event{Kind: Left}
	default:
	}
	if r.secret != w.engine.secret { // another read has taken its place, of which the answer was lost
		switch r.one {
		case ExtendLease:
			return Event{Kind: ExtendFailed}
		case ReportFailure:
			return Event{Kind: LeaveFailed}
		default:
			return Event{Kind: Refused}
		}
	}
	if r.one != ExtendLease {
		w.engine.heard, w.engine.heardHealthy = r.state.Loaded, r.state.Verdict == Healthy
	}
	if r.one == ReportFailure {
		return Event{Kind: Left}
	}
	e := Event{Kind: Reported, Etag: w.engine.etag, Lease: w.between(30*time.Second, 5*time.Minute)}
	if r.one == ExtendLease {
		e.Kind = Extended
	}
	if w.one(10) { // an engine that does not extend leases
		e.Lease = 0
	}
	return e
}
