// SPDX-License-Identifier: Apache-2.0

package machine

// row is a transition: from one of some states, on one of some events, where a condition holds.
type row[T ~string] struct {
	from []T // none: any
	on   []Kind
	when cond // the zero value always holds
	to   T    // the zero value: the state stays
	do   []action
}

// region is a part of the state, and its transitions. Of the rows for an event the first one counts. An event without rows
// leaves the region as it is.
type region[T ~string] struct {
	name   string
	about  string
	states []T
	of     func(s *State) *T
	rows   []row[T]
}

func from[T ~string](states ...T) []T { return states }
func on(kinds ...Kind) []Kind         { return kinds }
func do(actions ...action) []action   { return actions }

// part is a region of any type.
type part interface {
	step(before, next *State, e Event) []Effect
}

// regions are all regions, in the order in which an event passes them. Conditions look at the state before the event.
var regions = []part{life, token, vault, request, writes, bundle, recovery, secret, lease, former, work, files, load, verdict, reload, check, report, watch, look}

var life = region[Life]{
	"life", "the process and its configuration",
	[]Life{Running, Adopting, Moving, Arriving, Holding, Leaving, Failing, Ended},
	func(s *State) *Life { return &s.Life },
	[]row[Life]{
		{from(Running, Adopting, Moving), on(WorkloadGone), hasLease.and(notProved), Failing, nil},
		{from(Running, Adopting, Moving), on(Stop), hasLease.and(holdsOnStop), Holding, nil},
		{from(Running, Adopting, Moving), on(Stop, StopAfter, WorkloadGone), hasLease, Leaving, nil},
		{from(Running, Adopting, Moving, Arriving), on(Stop, StopAfter, WorkloadGone), always, Ended, nil},
		{from(Holding, Leaving, Failing, Ended), on(Stop, StopAfter, WorkloadGone), always, "", nil},
		{from(Running, Moving), on(Reconfigured), always, Adopting, nil},
		{from(Running), on(Renamed, MoveTime), hasLease, Moving, nil},
		{from(Running), on(Renamed, MoveTime), always, Arriving, nil},
		{nil, on(Reconfigured, Renamed, MoveTime), always, "", nil},
		{from(Moving), on(NewRead), always, Arriving, nil},
		{from(Moving), on(NewUnavailable), always, Running, do(moveLater)},
		{from(Moving), on(NewRefused), always, Running, do(moveNever)},
		{nil, on(NewRead, NewUnavailable, NewRefused), always, "", nil},
		{from(Leaving), on(Left), always, Ended, do(perform(DropSecret))},
		{from(Leaving), on(LeaveFailed), always, Ended, nil},
		{from(Holding, Failing), on(Left, LeaveFailed), always, Ended, nil},
		{nil, on(Left, LeaveFailed), always, "", nil},
		{from(Adopting, Arriving), on(Adopted), always, Running, do(useSettings)},
		{nil, on(Adopted), always, "", nil},
	},
}

var token = region[Token]{
	"token", "the login",
	[]Token{NoToken, TokenValid, TokenDue},
	func(s *State) *Token { return &s.Token },
	[]row[Token]{
		{nil, on(LoggedIn), always, TokenValid, do(keepToken)},
		{from(TokenValid), on(TokenTime), fixed, NoToken, nil},
		{from(TokenValid), on(TokenTime), always, TokenDue, nil},
		{nil, on(TokenTime), always, "", nil},
		{nil, on(Renewed), tooShort, NoToken, nil},
		{nil, on(Renewed), always, TokenValid, do(extendToken)},
		{nil, on(Unavailable), renewing.and(littleLeft), NoToken, do(perform(SayToken))},
		{nil, on(Unavailable), renewing, TokenValid, do(renewLater)},
		{nil, on(Unavailable), always, "", nil},
		{nil, on(Refused), renewing, NoToken, nil},
		{nil, on(Refused), always, "", nil},
		{nil, on(Denied, Adopted), always, NoToken, nil},
	},
}

var vault = region[Vault]{
	"vault", "requests to Vault",
	[]Vault{VaultOpen, VaultAway, VaultResting},
	func(s *State) *Vault { return &s.Vault },
	[]row[Vault]{
		{from(VaultAway, VaultResting), on(Unavailable, Refused, Denied), always, "", nil}, // of a request during which the token ended
		{nil, on(Unavailable), noSession, VaultAway, do(endSession)},
		{nil, on(Unavailable), renewing.and(littleLeft), VaultResting, do(endToken)},
		{nil, on(Unavailable), always, VaultAway, do(pauseRequests)},
		{nil, on(Refused), noSession, VaultResting, do(endSession)},
		{nil, on(Refused), renewing, VaultResting, do(endSession)},
		{nil, on(Refused), always, VaultResting, do(pauseRequests)},
		{nil, on(Denied), always, VaultResting, do(endSession)},
		{nil, on(Renewed), tooShort, VaultResting, do(endToken)},
		{nil, on(Renewed), always, "", nil},
		{nil, on(TokenTime), fixed, VaultResting, do(endToken)},
		{nil, on(TokenTime), always, "", nil},
		{nil, on(PauseOver), always, VaultOpen, nil},
		{nil, on(Adopted), always, VaultOpen, do(endPause)},
		{from(VaultOpen), on(Quiet, Changed, Superseded, WorkNews, Sighted), always, "", do(served)},
		{nil, on(Quiet, Changed, Superseded, WorkNews, Sighted), always, "", nil},
	},
}

var request = region[Request]{
	"request", "the request to Vault that is under way, of which there is at most one",
	[]Request{NoRequest, LoggingIn, Renewing, Reading, Reporting, Extending, ReadingNew},
	func(s *State) *Request { return &s.Request },
	[]row[Request]{
		{from(LoggingIn, Renewing, Reading, Reporting, Extending, ReadingNew), on(Stop, StopAfter, WorkloadGone, Reconfigured, Renamed), always, NoRequest, do(perform(CancelRequest))},
		{nil, on(Stop, StopAfter, WorkloadGone, Reconfigured, Renamed), always, "", nil},
		{nil, on(LoggedIn, Renewed, BundleRead, NoWrite, Reported, Extended, ExtendFailed, Unavailable, Refused, Denied), always, NoRequest, nil},
		{nil, on(NewRead, NewUnavailable, NewRefused), always, NoRequest, nil},
	},
}

var writes = region[Writes]{
	"writes", "what the policy allows on `creds/`",
	[]Writes{WritesAllowed, WritesDoubted, WritesDenied},
	func(s *State) *Writes { return &s.Writes },
	[]row[Writes]{
		{nil, on(LoggedIn), always, WritesAllowed, nil},
		{from(WritesAllowed), on(NoWrite), always, WritesDoubted, nil},
		{nil, on(NoWrite), always, "", nil},
		{from(WritesDoubted), on(BundleRead), always, WritesDenied, do(perform(SayNoWrite))},
		{nil, on(BundleRead), always, "", nil},
		{from(WritesDoubted), on(Unavailable, Refused, Denied), always, WritesAllowed, nil},
		{nil, on(Unavailable, Refused, Denied), always, "", nil},
	},
}

var bundle = region[Bundle]{
	"bundle", "what the instance should hold",
	[]Bundle{NoBundle, BundleAwaited, BundleCopy, BundleStale, BundleCurrent},
	func(s *State) *Bundle { return &s.Bundle },
	[]row[Bundle]{
		{from(BundleCopy), on(BundleRead), always, BundleCurrent, do(perform(SayBack), hold)},
		{nil, on(BundleRead), always, BundleCurrent, do(hold)},
		{from(NoBundle, BundleAwaited), on(CopyLoaded), always, BundleCopy, do(holdCopy)},
		{nil, on(CopyLoaded), always, "", nil},
		{from(NoBundle), on(Unavailable), copyDue, "", nil},
		{from(NoBundle), on(Unavailable, Refused, Denied, CopyUnusable), always, BundleAwaited, do(perform(SayWaiting))},
		{from(BundleCurrent), on(LoggedIn, Changed, ExtendFailed, Refused), always, BundleStale, do(readLater)},
		{from(BundleCurrent), on(Reported, Extended), outdated, BundleStale, do(readLater)},
		{nil, on(Adopted), another, NoBundle, do(forget)},
		{from(BundleCurrent), on(Adopted), always, BundleStale, nil},
		{nil, on(LoggedIn, Changed, ExtendFailed, Reported, Extended, Unavailable, Refused, Denied, CopyUnusable, Adopted), always, "", nil},
	},
}

var recovery = region[Recovery]{
	"recovery", "the last-good copy at a start",
	[]Recovery{RecoveryIdle, RecoveryDue},
	func(s *State) *Recovery { return &s.Recovery },
	[]row[Recovery]{
		{nil, on(Unavailable), copyDue, RecoveryDue, nil},
		{nil, on(Unavailable), always, "", nil},
		{nil, on(CopyLoaded, CopyUnusable, Adopted), always, RecoveryIdle, nil},
	},
}

var secret = region[Secret]{
	"secret", "the instance's secret, which the next process needs",
	[]Secret{NoSecret, SecretUnsaved, SecretHomeless, SecretAgain, SecretSaved, SecretLost},
	func(s *State) *Secret { return &s.Secret },
	[]row[Secret]{
		{nil, on(BundleRead), always, SecretUnsaved, nil},
		{nil, on(Saved), always, SecretSaved, nil},
		{from(SecretUnsaved), on(NotSaved), always, SecretHomeless, nil},
		{nil, on(NotSaved), always, SecretLost, do(perform(SaySecretLost))},
		{from(SecretHomeless), on(Wrote, WriteFailed), always, SecretAgain, nil},
		{nil, on(Wrote, WriteFailed), always, "", nil},
		{nil, on(Adopted), another, NoSecret, nil},
		{nil, on(Adopted), always, "", nil},
	},
}

var lease = region[Lease]{
	"lease", "the instance's lease",
	[]Lease{NoLease, LeaseHeld, LeaseDue},
	func(s *State) *Lease { return &s.Lease },
	[]row[Lease]{
		{nil, on(BundleRead), always, LeaseHeld, do(leaseTimer)},
		{from(LeaseHeld), on(LeaseTime), always, LeaseDue, nil},
		{nil, on(LeaseTime), always, "", nil},
		{from(LeaseDue), on(Reported, Extended), outdated.and(extends), LeaseHeld, do(leaseTimer)},
		{from(LeaseDue), on(Reported, Extended), outdated, LeaseHeld, nil},
		{from(LeaseDue), on(Reported, Extended), always, LeaseHeld, do(leaseTimer, notFutile, perform(ConfirmCopy))},
		{from(LeaseHeld), on(Reported, Extended), extends, "", do(leaseTimer)},
		{nil, on(Reported, Extended), always, "", nil},
		{nil, on(Adopted), another, NoLease, do(leaseOff)},
		{nil, on(Adopted), always, "", nil},
	},
}

var former = region[Former]{
	"former", "the instance of the configuration before, until the workload has loaded the bundle of the present one",
	[]Former{NoFormer, FormerHeld},
	func(s *State) *Former { return &s.Former },
	[]row[Former]{
		{nil, on(Adopted), another, FormerHeld, nil},
		{nil, on(Adopted), always, "", nil},
		{from(FormerHeld), on(CheckPassed), enough, NoFormer, do(perform(LeaveFormer))},
		{nil, on(CheckPassed), always, "", nil},
	},
}

var work = region[Work]{
	"work", "the re-encryption that the bundle asks for",
	[]Work{NoWork, WorkDue, WorkGiven},
	func(s *State) *Work { return &s.Work },
	[]row[Work]{
		{nil, on(BundleRead), always, WorkDue, nil},
		{nil, on(Adopted), always, NoWork, nil},
	},
}

var files = region[Files]{
	"files", "what is rendered",
	[]Files{FilesBlank, FilesDue, FilesWritten, FilesFaulty},
	func(s *State) *Files { return &s.Files },
	[]row[Files]{
		{from(FilesWritten), on(BundleRead), onHand, "", do(perform(ConfirmCopy))},
		{nil, on(BundleRead, CopyLoaded), always, FilesDue, nil},
		{from(FilesBlank), on(Unavailable, Refused, Denied), hasContent, FilesDue, nil},
		{nil, on(Unavailable, Refused, Denied), always, "", nil},
		{nil, on(Wrote), always, FilesWritten, nil},
		{nil, on(WriteFailed), always, FilesFaulty, do(countFault)},
		{from(FilesFaulty), on(RetryTime), always, FilesDue, nil},
		{nil, on(RetryTime), always, "", nil},
		{from(FilesWritten), on(Drifted), always, FilesDue, nil},
		{nil, on(Drifted), always, "", nil},
		{nil, on(Adopted), always, FilesBlank, do(startOver)},
	},
}

var load = region[Load]{
	"load", "what the workload has loaded of the files",
	[]Load{NotLoaded, Settling, Proving, Loaded},
	func(s *State) *Load { return &s.Load },
	[]row[Load]{
		{nil, on(Wrote), always, Settling, do(settle)},
		{from(Loaded), on(BundleRead), onHand, "", do(noteLoaded)},
		{nil, on(BundleRead), always, "", nil},
		{nil, on(CheckPassed), enough, Loaded, do(noteProved)},
		{from(Settling), on(CheckPassed), timeToCheck, "", nil},
		{from(Settling), on(CheckFailed, NotRunning), timeLeft.and(timeToCheck), "", nil},
		{from(Settling), on(CheckPassed, CheckFailed, NotRunning, CheckDisproved, ReloadFailed, WriteFailed), always, Proving, nil},
		{nil, on(CheckPassed, CheckFailed, NotRunning, CheckDisproved, ReloadFailed, WriteFailed), always, "", nil},
		{from(Proving), on(RetryTime), written, Settling, do(settleAgain)},
		{nil, on(RetryTime), always, "", nil},
		{from(NotLoaded), on(PodsBehind), always, "", nil},
		{nil, on(PodsBehind), always, Settling, do(proveAgain)},
		{nil, on(Adopted), another, NotLoaded, do(unload)},
		{from(Settling), on(Adopted), always, Proving, nil},
		{nil, on(Adopted), always, "", nil},
	},
}

var verdict = region[Verdict]{
	"verdict", "what is known of the workload's health",
	[]Verdict{NoVerdict, Healthy, Unhealthy},
	func(s *State) *Verdict { return &s.Verdict },
	[]row[Verdict]{
		{nil, on(CheckPassed), enough.and(isNews), Healthy, do(countGood, noReason, perform(SayHealthy), perform(ResumeProxies))},
		{nil, on(CheckPassed), enough, Healthy, do(countGood, noReason, perform(ResumeProxies))},
		{nil, on(CheckPassed), always, "", do(countGood)},
		{nil, on(CheckFailed, NotRunning), timeLeft, "", do(countBad, noteWhile)},
		{nil, on(CheckFailed, NotRunning), tolerant, "", do(countBad, sayCheck)},
		{nil, on(CheckFailed, NotRunning, CheckDisproved), noNews, "", do(countBad, perform(ResumeProxies))},
		{nil, on(CheckFailed, NotRunning, CheckDisproved), always, Unhealthy, do(countBad, noteCheck, sayUnhealthy, perform(ResumeProxies))},
		{nil, on(ReloadFailed), always, Unhealthy, do(noteReason, perform(ResumeProxies))},
		{nil, on(WriteFailed), always, Unhealthy, do(noteReason)},
		{nil, on(WorkloadGone), hasLease.and(notProved), Unhealthy, do(noteReason)},
		{nil, on(WorkloadGone), always, "", nil},
		{nil, on(Adopted), another, NoVerdict, do(noReason)},
		{nil, on(Adopted), always, "", nil},
	},
}

var reload = region[Reload]{
	"reload", "the reload that the workload needs",
	[]Reload{NoReload, ReloadPending, ReloadFaulty},
	func(s *State) *Reload { return &s.Reload },
	[]row[Reload]{
		{nil, on(Wrote, WriteFailed), leaves, ReloadPending, nil},
		{from(ReloadFaulty), on(Wrote), always, ReloadPending, nil},
		{nil, on(Wrote, WriteFailed), always, "", nil},
		{nil, on(Reloaded), always, NoReload, do(noFault, perform(ClearNotes))},
		{nil, on(ReloadFailed), always, ReloadFaulty, do(countFault)},
		{from(ReloadFaulty), on(RetryTime), written, ReloadPending, nil},
		{nil, on(RetryTime), always, "", nil},
		{from(NoReload), on(PodsBehind), always, ReloadPending, nil},
		{nil, on(PodsBehind), always, "", nil},
		{nil, on(Adopted), reloadless, NoReload, nil},
		{nil, on(Adopted), leaves, ReloadPending, nil},
		{from(ReloadFaulty), on(Adopted), always, ReloadPending, nil},
		{nil, on(Adopted), always, "", nil},
	},
}

var check = region[Check]{
	"check", "the checks of the workload",
	[]Check{CheckOff, CheckWaiting, CheckDue},
	func(s *State) *Check { return &s.Check },
	[]row[Check]{
		{nil, on(Wrote, PodsBehind), always, CheckDue, do(checkOff)},
		{nil, on(RetryTime), written, CheckDue, do(checkOff)},
		{nil, on(RetryTime), always, "", nil},
		{from(CheckWaiting), on(CheckTime), settled, CheckDue, nil},
		{nil, on(CheckTime), always, "", nil},
		{from(CheckDue), on(CheckPassed, CheckFailed, CheckDisproved, NotRunning), checkNeeded, CheckWaiting, do(nextCheck)},
		{nil, on(CheckPassed, CheckFailed, CheckDisproved, NotRunning), always, CheckOff, do(checkOff)},
		{nil, on(WriteFailed, ReloadFailed), always, CheckOff, do(checkOff)},
		{nil, on(Adopted), always, CheckOff, do(checkOff)},
	},
}

var report = region[Report]{
	"report", "what the engine is to hear",
	[]Report{NoReport, ReportDue},
	func(s *State) *Report { return &s.Report },
	[]row[Report]{
		{nil, on(BundleRead, WriteFailed, ReloadFailed, RetryTime, PodsBehind, WorkNews, Sighted), always, ReportDue, nil},
		{nil, on(CheckPassed), enough.and(isNews), ReportDue, nil},
		{nil, on(CheckFailed, NotRunning), otherVerdict, ReportDue, nil},
		{nil, on(CheckDisproved), otherReason, ReportDue, nil},
		{nil, on(CheckPassed, CheckFailed, NotRunning, CheckDisproved), always, "", nil},
		{nil, on(Unavailable, Refused, Denied, Reconfigured, Renamed), reporting, ReportDue, nil},
		{nil, on(Unavailable, Refused, Denied, Reconfigured, Renamed), always, "", nil},
	},
}

var watch = region[Watch]{
	"watch", "the blocking request that waits for another bundle",
	[]Watch{WatchClosed, WatchOpen},
	func(s *State) *Watch { return &s.Watch },
	[]row[Watch]{
		{nil, on(Quiet), always, WatchClosed, do(noRivals, watchLater)},
		{nil, on(Changed), always, WatchClosed, do(watchLater)},
		{nil, on(Superseded), always, WatchClosed, do(countRival)},
		{nil, on(Unavailable, Refused, Denied), always, WatchClosed, nil},
	},
}

var look = region[Look]{
	"look", "looks at destinations, which others may change",
	[]Look{LookOff, LookWaiting, LookDue},
	func(s *State) *Look { return &s.Look },
	[]row[Look]{
		{from(LookWaiting), on(LookTime), settled, LookDue, nil},
		{from(LookWaiting), on(LookTime), always, "", do(nextLook)},
		{nil, on(LookTime), always, "", nil},
		{nil, on(Intact, Drifted, PodsBehind), always, LookWaiting, do(nextLook)},
		{nil, on(Adopted), looks, LookWaiting, do(nextLook)},
		{nil, on(Adopted), always, LookOff, do(nextLook)},
	},
}
