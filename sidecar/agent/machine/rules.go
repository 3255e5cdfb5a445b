// SPDX-License-Identifier: Apache-2.0

package machine

// rule says which effects are due. Of all rules the first one whose condition holds counts; after one without a result the
// rules are asked again. Where none holds, the machine waits for an event.
type rule struct {
	name   string
	when   func(s State) bool
	do     func(s State) []Do
	then   func(s *State, at Moment) // what the start of the effects changes
	silent bool                      // no effect has a result
}

func effects(all ...Do) func(State) []Do { return func(State) []Do { return all } }

// request returns the effects of a request to Vault, during which no watch is open.
func request(one Do) func(s State) []Do {
	return func(s State) []Do {
		if s.Watch == WatchOpen {
			return []Do{CloseWatch, one}
		}
		return []Do{one}
	}
}

func closeWatch(s *State, _ Moment) { s.Watch = WatchClosed }

// asks reports whether requests are made. They are not while a workload has its short while to prove itself, so that a
// change is one report.
func (s State) asks() bool { return s.Vault == VaultOpen && s.Load != Settling && s.Life == Running }

// serves reports whether the newest bundle is known, so that there is something to report and to wait for.
func (s State) serves() bool { return s.asks() && s.Token == TokenValid && s.Bundle == BundleCurrent }

var rules = []rule{
	{
		name: "the process ends, or no request is to be made: close the watch", silent: true,
		when: func(s State) bool { return s.Watch == WatchOpen && (s.Life != Running || s.Vault != VaultOpen) },
		do:   effects(CloseWatch), then: closeWatch,
	},
	{
		name: "life is moving or leaving",
		when: func(s State) bool { return s.Life == Moving || s.Life == Leaving },
		do:   effects(Leave),
	},
	{
		name: "life is failing",
		when: func(s State) bool { return s.Life == Failing },
		do:   effects(ReportFailure),
	},
	{
		name: "life is adopting or arriving",
		when: func(s State) bool { return s.Life == Adopting || s.Life == Arriving },
		do:   effects(Adopt),
	},
	{
		name: "the secret is unsaved, or to be saved again",
		when: func(s State) bool { return s.running(s.Secret == SecretUnsaved || s.Secret == SecretAgain) },
		do:   effects(SaveSecret),
	},
	{
		name: "recovery is due",
		when: func(s State) bool { return s.running(s.Recovery == RecoveryDue) },
		do:   effects(LoadCopy),
	},
	{
		name: "files are due",
		when: func(s State) bool { return s.running(s.Files == FilesDue) },
		do:   effects(BeginGates, KeepCopy, FeedProxies, PrepareFiles, NoteReload, Write),
	},
	{
		name: "the secret is homeless, and the files are as they should be",
		when: func(s State) bool { return s.running(s.Secret == SecretHomeless) },
		do:   effects(SaveSecret), then: func(s *State, _ Moment) { s.Secret = SecretAgain },
	},
	{
		name: "a check is due, and a reload is pending",
		when: func(s State) bool { return s.running(s.Check == CheckDue && s.Reload == ReloadPending) },
		do:   effects(ReloadWorkload),
	},
	{
		name: "a check is due",
		when: func(s State) bool { return s.running(s.Check == CheckDue) },
		do:   effects(CheckWorkload),
	},
	{
		name: "a look is due, and no reload is pending",
		when: func(s State) bool { return s.running(s.Look == LookDue && s.Reload == NoReload) },
		do:   effects(LookAtPods),
	},
	{
		name: "a look is due",
		when: func(s State) bool { return s.running(s.Look == LookDue) },
		do:   effects(LookAtTargets),
	},
	{
		name: "there is no token",
		when: func(s State) bool { return s.asks() && s.Token == NoToken },
		do:   request(Login), then: func(s *State, at Moment) { s.Watch, s.SessionBegun = WatchClosed, at },
	},
	{
		name: "the token is due",
		when: func(s State) bool { return s.asks() && s.Token == TokenDue },
		do:   request(RenewToken), then: closeWatch,
	},
	{
		name: "the bundle is not current, and no read is delayed",
		when: func(s State) bool { return s.asks() && s.Bundle != BundleCurrent && s.Timers[TimerRead] == Never },
		do:   request(ReadBundle), then: closeWatch,
	},
	{
		name: "the lease is due, and there is no verdict",
		when: func(s State) bool { return s.serves() && s.Lease == LeaseDue && s.Verdict == NoVerdict },
		do:   request(ExtendLease), then: closeWatch,
	},
	{
		name: "a report or the lease is due, and there is a verdict",
		when: func(s State) bool {
			return s.serves() && (s.Report == ReportDue || s.Lease == LeaseDue) && s.Verdict != NoVerdict
		},
		do: request(SendReport), then: closeWatch,
	},
	{
		name: "work is due, and there is a verdict", silent: true,
		when: func(s State) bool { return s.serves() && s.Work == WorkDue && s.Verdict != NoVerdict },
		do:   effects(StartWork), then: func(s *State, _ Moment) { s.Work = WorkGiven },
	},
	{
		name: "no watch is open, and none is delayed", silent: true,
		when: func(s State) bool { return s.serves() && s.Watch == WatchClosed && s.Timers[TimerWatch] == Never },
		do:   effects(StartWatch), then: func(s *State, _ Moment) { s.Watch = WatchOpen },
	},
}

func (s State) running(due bool) bool { return s.Life == Running && due }
