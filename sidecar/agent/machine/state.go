// SPDX-License-Identifier: Apache-2.0

// Package machine decides what the sidecar's agent does next. [Next] is a pure function: it takes a state and an event and
// returns the next state and the effects to perform. It has no clock, no randomness and no I/O. Package agent performs the
// effects and turns their results into events. The state has several regions; table.go has the transitions of each, and
// rules.go has the order in which effects become due. docs/agent.md shows both.
package machine

import (
	"math"
	"time"
)

// Life is the region of the process and of its configuration.
type Life string

// The values of Life.
const (
	Running  Life = "running"
	Adopting Life = "adopting" // another configuration of the same instance is to be loaded
	Moving   Life = "moving"   // the bundle of another instance is to be read before its configuration is loaded
	Arriving Life = "arriving" // the configuration of another instance is to be loaded
	Holding  Life = "holding"  // that the process ends beside its workload is reported before the end; the lease stays
	Leaving  Life = "leaving"  // the lease is given back before the end
	Failing  Life = "failing"  // the failure of the workload is reported before the end
	Ended    Life = "ended"
)

// Token is the region of the login.
type Token string

// The values of Token.
const (
	NoToken    Token = "none"
	TokenValid Token = "valid"
	TokenDue   Token = "due" // for renewal
)

// Vault is the region of requests to Vault.
type Vault string

// The values of Vault.
const (
	VaultOpen    Vault = "open"    // requests are made
	VaultAway    Vault = "away"    // no request until the pause is over; Vault was not available
	VaultResting Vault = "resting" // no request until the pause is over; Vault refused something, or a token ended
)

// Request is the region of the request to Vault that is under way, of which there is at most one. The watch is none of them.
type Request string

// The values of Request.
const (
	NoRequest  Request = "idle"
	LoggingIn  Request = "login"
	Renewing   Request = "renewal"
	Reading    Request = "read"
	Reporting  Request = "report"
	Extending  Request = "lease"
	ReadingNew Request = "new" // the bundle of the instance that another configuration names
)

// Writes is the region of what the policy allows on creds/.
type Writes string

// The values of Writes.
const (
	WritesAllowed Writes = "allowed" // reads prove the instance by its secret
	WritesDoubted Writes = "doubted" // a read with the secret was denied; one without it is tried
	WritesDenied  Writes = "denied"  // reads go without the secret until the next login
)

// Bundle is the region of what the instance should hold.
type Bundle string

// The values of Bundle.
const (
	NoBundle      Bundle = "none"
	BundleAwaited Bundle = "awaited" // none, and Vault has failed at least once
	BundleCopy    Bundle = "copy"    // the last-good copy is in use
	BundleStale   Bundle = "stale"   // to be read again
	BundleCurrent Bundle = "current"
)

// Recovery is the region of the last-good copy.
type Recovery string

// The values of Recovery.
const (
	RecoveryIdle Recovery = "idle"
	RecoveryDue  Recovery = "due" // the copy is to be loaded
)

// Secret is the region of the instance's secret, by which the next process has the instance's name at once.
type Secret string

// The values of Secret.
const (
	NoSecret       Secret = "none"
	SecretUnsaved  Secret = "unsaved"  // to be saved before its bundle has any effect
	SecretHomeless Secret = "homeless" // there was no place for it; the directory of the files may come with them
	SecretAgain    Secret = "again"    // to be saved once more, since the files were written
	SecretSaved    Secret = "saved"
	SecretLost     Secret = "lost" // there is no place for it
)

// Lease is the region of the instance's lease.
type Lease string

// The values of Lease.
const (
	NoLease   Lease = "none"
	LeaseHeld Lease = "held"
	LeaseDue  Lease = "due" // to be extended
)

// Former is the region of the instance that the process was under its configuration before.
type Former string

// The values of Former.
const (
	NoFormer   Former = "none"
	FormerHeld Former = "held" // its lease, if it has one, is extended: the workload may use its values
)

// Work is the region of the re-encryption that the bundle asks for.
type Work string

// The values of Work.
const (
	NoWork    Work = "none"
	WorkDue   Work = "due"   // to be handed over, once the bundle that asks for it is loaded and reported
	WorkGiven Work = "given" // handed over
)

// Files is the region of what is rendered.
type Files string

// The values of Files.
const (
	FilesBlank   Files = "blank" // not known to be as this configuration wants them; written with the next bundle
	FilesDue     Files = "due"   // to be written now
	FilesWritten Files = "written"
	FilesFaulty  Files = "faulty" // writing failed, perhaps in part; again after a while
)

// Reload is the region of the reload that the workload needs.
type Reload string

// The values of Reload.
const (
	NoReload      Reload = "none"
	ReloadPending Reload = "pending"
	ReloadFaulty  Reload = "faulty" // it failed; again after a while
)

// Load is the region of what the workload has loaded of the files.
type Load string

// The values of Load.
const (
	NotLoaded Load = "nothing"
	Settling  Load = "settling" // the workload has a short while to prove itself, so that a change is one report
	Proving   Load = "proving"  // it takes longer
	Loaded    Load = "loaded"   // the workload has proved itself with State.Loaded
)

// Check is the region of the checks of the workload.
type Check string

// The values of Check.
const (
	CheckOff     Check = "off"
	CheckWaiting Check = "waiting" // for its time
	CheckDue     Check = "due"     // now, after a reload that is pending
)

// Verdict is the region of what is known of the workload's health.
type Verdict string

// The values of Verdict.
const (
	NoVerdict Verdict = "none" // nothing is reported: to call a workload unhealthy that still starts would fail a rotation
	Healthy   Verdict = "healthy"
	Unhealthy Verdict = "unhealthy"
)

// Report is the region of what the engine is to hear.
type Report string

// The values of Report.
const (
	NoReport  Report = "none"
	ReportDue Report = "due" // also after one that failed or was canceled
)

// Watch is the region of the blocking request that waits for another bundle.
type Watch string

// The values of Watch.
const (
	WatchClosed Watch = "closed"
	WatchOpen   Watch = "open"
)

// Look is the region of looks at destinations, which others may change.
type Look string

// The values of Look.
const (
	LookOff     Look = "off"
	LookWaiting Look = "waiting" // for its time
	LookDue     Look = "due"
)

// Renewal says whether a token can be renewed.
type Renewal string

// The values of Renewal.
const (
	Fixed     Renewal = "fixed"
	Renewable Renewal = "renewable"
)

// Reloads says whether a configuration makes the workload reload.
type Reloads string

// Checks says whether a configuration checks the workload.
type Checks string

// Copies says whether a configuration keeps a last-good copy.
type Copies string

// OnStop says what becomes of the lease where the process ends and its workload may run on.
type OnStop string

// The values of Reloads, Checks, Copies and OnStop.
const (
	HoldOnStop    OnStop  = "hold"
	LeaveOnStop   OnStop  = "leave"
	WithoutReload Reloads = "without reload"
	WithReload    Reloads = "with reload"
	WithoutChecks Checks  = "without checks"
	WithChecks    Checks  = "with checks"
	WithoutCopy   Copies  = "without copy"
	WithCopy      Copies  = "with copy"
)

// Settings are what the machine knows of a configuration.
type Settings struct {
	Reloads             Reloads
	Checks              Checks
	Copies              Copies
	OnStop              OnStop
	Patience            time.Duration // how long Vault may be away at a start before the copy is used
	Interval, Deadline  time.Duration // between checks; for a workload to prove itself
	Successes, Failures int           // checks in a row that make a verdict
	LookEvery           time.Duration // between looks at destinations; 0: there are none
}

// Moment is a time on a clock that no one sets, since the start of the process.
type Moment = time.Duration

// Never is the moment of a timer that is not set.
const Never Moment = math.MaxInt64

// Held names a bundle. Bundles of the same content, which is all but their etags, secrets and work, have the same number.
type Held struct {
	Etag    string
	Content int
}

// State is all that the agent knows, except values, files and connections.
type State struct {
	Settings Settings

	Life     Life
	Token    Token
	Vault    Vault
	Request  Request
	Writes   Writes
	Bundle   Bundle
	Recovery Recovery
	Secret   Secret
	Lease    Lease
	Former   Former
	Work     Work
	Files    Files
	Reload   Reload
	Load     Load
	Verdict  Verdict
	Check    Check
	Report   Report
	Watch    Watch
	Look     Look

	Held    Held   // the newest bundle
	Filed   int    // the content that the files hold; 0: not known
	Loaded  string // etag of the bundle that the workload is known to have loaded
	Proof   string // how that is known; empty: nothing is loaded
	Reason  string // why the workload is not healthy; no value is in it
	TTL     time.Duration
	Renewal Renewal
	Ends    Moment // of the token

	Sessions int // in a row that ended soon
	Requests int // in a row that failed in this session
	Futile   int // reads in a row that brought no other bundle
	Rivals   int // watches in a row that another process ended
	Moves    int // reads of the bundle of another instance in a row for which Vault was not available
	Faults   int // of writing and reloading, in a row
	Good     int // checks in a row
	Bad      int // failed ones in a row

	Begun        Moment // of this instance
	SessionBegun Moment
	ProveBy      Moment // until then a workload that is not healthy has time left
	SettleBy     Moment
	ReasonUntil  Moment // until then another reason alone is no news
	Timers       Timers
}

// Timer is one of those that the state has.
type Timer int

// The timers.
const (
	TimerCheck Timer = iota
	TimerRetry
	TimerPause
	TimerLease
	TimerToken
	TimerLook
	TimerRead
	TimerWatch
	TimerMove
	timers
)

// Timers are the moments of the timers.
type Timers [timers]Moment

// elapsed are the events of the timers.
var elapsed = [timers]Kind{CheckTime, RetryTime, PauseOver, LeaseTime, TokenTime, LookTime, ReadTime, WatchTime, MoveTime}

// First returns the first timer and its event; Never where none is set.
func (t Timers) First() (Moment, Kind) {
	first, kind := Never, Kind("")
	for n, at := range t {
		if at < first {
			first, kind = at, elapsed[n]
		}
	}
	return first, kind
}

// Start returns the state of a process that starts. A reload is pending where the process before has left one.
func Start(c Settings, reload Reload, now Moment) State {
	s := State{
		Settings: c, Life: Running, Token: NoToken, Vault: VaultOpen, Request: NoRequest, Writes: WritesAllowed, Bundle: NoBundle, Recovery: RecoveryIdle, Secret: NoSecret,
		Lease: NoLease, Former: NoFormer, Work: NoWork, Files: FilesBlank, Reload: reload, Load: NotLoaded, Verdict: NoVerdict, Check: CheckOff, Report: NoReport,
		Watch: WatchClosed, Look: LookOff, Renewal: Fixed, Begun: now, Ends: Never,
	}
	for n := range s.Timers {
		s.Timers[n] = Never
	}
	if c.LookEvery > 0 {
		s.Look, s.Timers[TimerLook] = LookWaiting, now+c.LookEvery
	}
	return s
}

// Holds reports whether a bundle was read, so that the instance has a lease.
func (s State) Holds() bool { return s.Bundle == BundleStale || s.Bundle == BundleCurrent }

// HasContent reports whether there is something to write.
func (s State) HasContent() bool { return s.Holds() || s.Bundle == BundleCopy }
