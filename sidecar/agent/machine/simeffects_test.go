// SPDX-License-Identifier: Apache-2.0

package machine

import "time"

// perform performs an effect in the world. The process may be killed before it, and after it before it knows the result.
func (w *world) perform(effect Effect) (Event, bool) {
	if w.kills() {
		return Event{}, true
	}
	w.logf("  %s", effect.Do)
	if w.advance(w.between(0, 20*time.Millisecond)); w.mishaps(50) {
		w.advance(w.between(0, 5*time.Second))
	}
	e, ok := w.do(effect.Do)
	e.Of = effect.Do
	if w.kills() {
		return Event{}, true
	}
	return e, ok
}

func (w *world) kills() bool {
	if !w.mishaps(150) {
		return false
	}
	w.logf("killed")
	w.stats.kills++
	w.killed = true
	w.checkKilled()
	return true
}

func (w *world) do(one Do) (Event, bool) {
	switch one {
	case Login, RenewToken, ReadBundle, SendReport, ExtendLease, ReadNew:
		w.send(one)
	case CancelRequest:
		w.cancel()
	case Leave, ReportFailure, ReportLeaving:
		w.alone(one)
		r := w.asked(one)
		return w.answer(&r), true
	case Adopt:
		w.alone(one)
		if w.another {
			w.secret, w.former = 0, w.former || w.s.Holds()
		}
		w.looksItself(w.settings)
		return Event{Kind: Adopted, Settings: w.settings, Reload: w.noted()}, true
	case SaveSecret:
		if w.disk.full {
			return Event{Kind: NotSaved}, true
		}
		w.disk.secret = w.secret
		return Event{Kind: Saved}, true
	case LoadCopy:
		if w.disk.copy.content == 0 || w.mishaps(3) {
			return Event{Kind: CopyUnusable}, true
		}
		w.held = w.disk.copy
		return Event{Kind: CopyLoaded, Held: Held{w.held.etag, w.held.content}}, true
	case KeepCopy:
		return w.keepCopy()
	case FeedProxies:
		return Event{Kind: WriteFailed, Reason: "proxy"}, w.mishaps(12)
	case PrepareFiles:
		if w.disk.full {
			return Event{Kind: WriteFailed, Reason: "full"}, true
		}
		w.prepared = &preparation{w.held, w.disk.content != w.held.content}
	case NoteReload:
		if w.notes() && w.prepared != nil && w.prepared.changes {
			w.disk.note, w.acked = true, 0 // a process that is killed before it writes leaves a note for nothing
		}
	case Write:
		return w.write(), true
	case ReloadWorkload:
		return w.reload(), true
	case CheckWorkload:
		return w.check(), true
	case LookAtTargets, LookAtPods:
		return w.look(one), true
	case StartWatch:
		w.watch = w.now + 5*time.Second
		if w.engine.down || w.engine.denies || w.engine.etag != w.held.etag {
			w.watch = w.now
		}
	case CloseWatch:
		w.watch = Never
	case LeaveFormer:
		if w.s.Loaded == "" {
			w.violate("the former instance is given up before the workload has loaded the next one's bundle: %+v", w.s)
		}
		w.former = false
	case ClearNotes:
		w.disk.note, w.acked = false, w.signaled
	default:
	}
	return Event{}, false
}

// keepCopy stores the copy; where it cannot be stored, it is removed.
func (w *world) keepCopy() (Event, bool) {
	if w.s.Settings.Copies == WithoutCopy || w.s.Bundle == BundleCopy {
		return Event{}, false
	}
	w.disk.copy, w.copied = w.held, w.held
	if w.mishaps(20) {
		w.disk.copy = bundleOf{}
		return Event{Kind: WriteFailed, Reason: "copy"}, w.one(2)
	}
	return Event{}, false
}

// write puts files into their places, now and then not all of them.
func (w *world) write() Event {
	w.checkWrite()
	if w.prepared == nil {
		return Event{Kind: WriteFailed}
	}
	b, changed := w.prepared.bundleOf, w.prepared.changes
	w.prepared = nil
	if changed {
		w.disk.writes++
		w.since = w.now
		w.stats.writes++
		w.looksItself(w.s.Settings)
	}
	pending := NoReload
	if w.notes() && changed || w.pending() {
		pending = ReloadPending
	}
	if changed && w.mishaps(15) {
		w.disk.content = -1
		return Event{Kind: WriteFailed, Reason: "in part", Reload: pending, RetryAfter: w.between(0, time.Second)}
	}
	if w.applied = b; changed {
		w.disk.content = b.content
	}
	if w.disk.content == b.content {
		w.disk.written[b.content] = w.disk.writes
	}
	if w.s.Settings.LookEvery > 0 && w.mishaps(8) { // somebody changes it at once
		w.disk.content = -1
	}
	return Event{Kind: Wrote, Reload: pending}
}

// notes reports whether it is noted on the disk that a reload is pending. Some reloaders know it by themselves.
func (w *world) notes() bool { return w.s.Settings.Reloads == WithReload && !w.knows }

// pending reports whether such a reloader's workload has yet to read what is written.
func (w *world) pending() bool {
	return w.s.Settings.Reloads == WithReload && w.knows && w.workload.read < w.disk.writes
}

// looksItself lets a workload that nothing reloads read what was written.
func (w *world) looksItself(c Settings) {
	if c.Reloads == WithoutReload {
		w.workload.read = w.disk.writes
	}
}

// reload tells the workload. One that was started after the files were written is not told.
func (w *world) reload() Event {
	switch {
	case !w.knows && w.workload.running && w.since != Never && w.workload.started > w.since:
		w.signaled = w.disk.writes
		return Event{Kind: Reloaded}
	case !w.workload.running:
		return Event{Kind: NotRunning, Reason: "it does not run"}
	}
	w.checkSignal()
	w.stats.signals++
	w.advance(w.between(0, time.Second))
	if w.workload.deaf {
		if w.one(3) { // it has taken place all the same
			w.workload.read = w.disk.writes
		}
		return Event{Kind: ReloadFailed, Reason: "deaf"}
	}
	w.workload.read, w.signaled = w.disk.writes, w.disk.writes
	return Event{Kind: Reloaded}
}

func (w *world) check() Event {
	switch {
	case w.s.Settings.Checks == WithoutChecks:
	case w.workload.ill && w.one(3):
		return Event{Kind: CheckDisproved, Reason: "a counter grows"}
	case w.workload.ill, !w.workload.running, w.mishaps(20):
		return Event{Kind: CheckFailed, Reason: []string{"ill", "very ill"}[w.rng.IntN(2)]}
	}
	return Event{Kind: CheckPassed, Proof: "health"}
}

func (w *world) look(one Do) Event {
	switch {
	case w.disk.content != w.applied.content:
		return Event{Kind: Drifted}
	case one == LookAtPods && w.pending():
		return Event{Kind: PodsBehind}
	}
	return Event{Kind: Intact}
}

// checkReport: what is reported as loaded is loaded. A workload that looks at its files by itself has loaded what they hold.
func (w *world) checkReport() {
	w.stats.reports++
	if (w.s.Loaded == "") != (w.s.Proof == "") {
		w.violate("%q is reported as loaded, with the proof %q", w.s.Loaded, w.s.Proof)
	}
	if w.s.Loaded == "" || w.workload.read == unknown {
		return
	}
	written := w.disk.written[w.engine.contents[w.s.Loaded]]
	if written == 0 || w.s.Settings.Reloads == WithReload && w.workload.read < written {
		w.violate("%s is reported as loaded; it was write %d, and the workload has read write %d", w.s.Loaded, written, w.workload.read)
	}
}

// checkWrite: files are written with a bundle that stands complete beside them, of which a copy is kept, if one is, and whose
// secret was tried to be saved.
func (w *world) checkWrite() {
	switch {
	case !w.s.HasContent() || w.prepared == nil || w.prepared.etag != w.s.Held.Etag:
		w.violate("files are written without a bundle: %+v", w.s)
	case w.s.Bundle != BundleCopy && w.s.Settings.Copies == WithCopy && w.copied != w.held:
		w.violate("the copy is older than the files: %+v", w.disk.copy)
	case w.s.Bundle != BundleCopy && w.disk.secret != w.secret && w.s.Secret != SecretHomeless && w.s.Secret != SecretLost && w.s.Secret != SecretAgain:
		w.violate("a bundle is written before its secret is saved")
	}
}

// checkSignal: a workload that was signalled for a write is not signalled for it again.
func (w *world) checkSignal() {
	if w.acked >= w.disk.writes {
		w.violate("the workload is made to reload again for write %d; it has read write %d", w.disk.writes, w.workload.read)
	}
}

// checkKilled: what the workload has not read is noted on the disk.
func (w *world) checkKilled() {
	if w.notes() && w.workload.read < w.disk.writes && w.acked < w.disk.writes && !w.disk.note {
		w.violate("a reload is lost with the process: the workload has read write %d of %d", w.workload.read, w.disk.writes)
	}
}

// checkState: what the workload has not read is known, and there is a way to it.
func (w *world) checkState() {
	if w.s.Life != Running || w.s.Settings.Reloads != WithReload || w.s.Files == FilesBlank {
		return
	}
	if w.workload.read < w.disk.writes && w.workload.read != unknown && w.s.Reload == NoReload && w.applied.content != 0 {
		w.violate("a reload is lost: the workload has read write %d of %d; %+v", w.workload.read, w.disk.writes, w.s)
	}
}

// checkHeard: what is known of the workload is reported, or will be.
func (w *world) checkHeard() {
	s := w.s
	if s.Watch != WatchOpen || s.Report == ReportDue {
		return
	}
	switch {
	case s.Verdict == Healthy && s.Load == Loaded && w.reported != (reported{s.Loaded, true}), s.Verdict == Unhealthy && w.reported.healthy:
		w.violate("a report is lost: the engine was last sent %+v; %+v", w.reported, s)
	}
}

// checkWaiting: there is an end to each wait.
func (w *world) checkWaiting() {
	w.checkHeard()
	s := w.s
	set := func(t Timer) bool { return s.Timers[t] != Never }
	switch {
	case s.Vault != VaultOpen && !set(TimerPause):
		w.violate("no pause is set while Vault is %s", s.Vault)
	case s.Files == FilesFaulty && !set(TimerRetry), s.Files == FilesWritten && s.Reload == ReloadFaulty && !set(TimerRetry):
		w.violate("nothing is retried: %+v", s)
	case s.Files == FilesWritten && s.Reload == ReloadPending && s.Check == CheckOff:
		w.violate("a reload is pending, and no check is to come: %+v", s)
	case (s.Check == CheckWaiting) != set(TimerCheck):
		w.violate("the check is %s, and its timer is set: %v", s.Check, set(TimerCheck))
	case s.Load == Settling && s.Check != CheckWaiting:
		w.violate("the workload settles, and no check is to come: %+v", s)
	case s.Request == NoRequest && s.Vault == VaultOpen && s.Load != Settling && s.Watch != WatchOpen && !set(TimerRead) && !set(TimerWatch):
		w.violate("nothing is asked of Vault: %+v", s)
	}
}
