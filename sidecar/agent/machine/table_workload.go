// SPDX-License-Identifier: Apache-2.0

package machine

var files = region[Files]{
	"files", "what is rendered",
	[]Files{FilesBlank, FilesDue, FilesWritten, FilesFaulty},
	func(s *State) *Files { return &s.Files },
	[]row[Files]{
		{from(FilesWritten), on(BundleRead), onHand, "", do(perform(ConfirmCopy))},
		{nil, on(BundleRead, CopyLoaded), always, FilesDue, nil},
		{from(FilesBlank), on(Unavailable), hasContent, FilesDue, nil},
		{nil, on(Unavailable), always, "", nil},
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
		{nil, on(CheckPassed), enough, Loaded, do(noteLoaded)},
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
		{nil, on(CheckFailed, NotRunning, CheckDisproved), sameReason, "", do(countBad, perform(ResumeProxies))},
		{nil, on(CheckFailed, NotRunning, CheckDisproved), always, Unhealthy, do(countBad, noteReason, sayUnhealthy, perform(ResumeProxies))},
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
		{nil, on(CheckTime), always, CheckOff, nil},
		{from(CheckDue), on(CheckPassed, CheckFailed, CheckDisproved, NotRunning), checkNeeded, CheckWaiting, do(nextCheck)},
		{nil, on(CheckPassed, CheckFailed, CheckDisproved, NotRunning), always, CheckOff, do(checkOff)},
		{nil, on(WriteFailed, ReloadFailed), always, CheckOff, do(checkOff)},
		{nil, on(Adopted), another, CheckOff, do(checkOff)},
		{nil, on(Adopted), always, "", nil},
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
		{nil, on(Reported), always, NoReport, nil},
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
