// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"slices"
	"time"
)

// Kind is what has happened.
type Kind string

// What was asked of the process.
const (
	Stop         Kind = "stop"          // the process is to end, and its workload may run on
	StopAfter    Kind = "stop after"    // the process is to end, and its workload is known to have ended
	WorkloadGone Kind = "workload gone" // the process is to end, since its workload has failed
	Reconfigured Kind = "reconfigured"  // another configuration of the same instance has come
	Renamed      Kind = "renamed"       // a configuration of another instance has come
	Adopted      Kind = "adopted"       // it is loaded
)

// What Vault has answered.
const (
	LoggedIn     Kind = "logged in"
	Renewed      Kind = "token renewed"
	BundleRead   Kind = "bundle read"
	NoWrite      Kind = "write denied" // the policy allows reads of bundles only
	Reported     Kind = "reported"
	Extended     Kind = "lease extended"
	ExtendFailed Kind = "lease not extended"
	Left         Kind = "left"
	LeaveFailed  Kind = "not left"
	Quiet        Kind = "watch ended" // without news
	Changed      Kind = "bundle changed"
	Superseded   Kind = "watch superseded" // by another process that watches as the same instance
	Unavailable  Kind = "vault unavailable"
	Refused      Kind = "vault refused"
	Denied       Kind = "vault denied"
)

// What Vault has answered for the instance of another configuration.
const (
	NewRead        Kind = "new bundle read"
	NewUnavailable Kind = "new bundle unavailable"
	NewRefused     Kind = "new bundle refused"
)

// What has become of other effects.
const (
	Saved          Kind = "secret saved"
	NotSaved       Kind = "secret not saved"
	CopyLoaded     Kind = "copy loaded"
	CopyUnusable   Kind = "copy unusable"
	Wrote          Kind = "files written"
	WriteFailed    Kind = "writing failed"
	Reloaded       Kind = "reloaded"
	ReloadFailed   Kind = "reload failed"
	NotRunning     Kind = "not running" // there is nothing to reload
	CheckPassed    Kind = "check passed"
	CheckFailed    Kind = "check failed"
	CheckDisproved Kind = "check disproved" // it proves that the workload is not healthy
	Intact         Kind = "intact"          // destinations are as they were written, or cannot be looked at
	Drifted        Kind = "drifted"         // a destination is not as it was written
	PodsBehind     Kind = "pods behind"     // pods are not known to have read what is written
)

// News from elsewhere.
const (
	WorkNews Kind = "work news" // of re-encryption
	Sighted  Kind = "sighted"   // a proxy has seen an old value
)

// Timers that have run out.
const (
	CheckTime Kind = "check time"
	RetryTime Kind = "retry time"
	PauseOver Kind = "pause over"
	LeaseTime Kind = "lease time"
	TokenTime Kind = "token time"
	LookTime  Kind = "look time"
	ReadTime  Kind = "read time"
	WatchTime Kind = "watch time"
	MoveTime  Kind = "move time"
)

// Kinds are all kinds of events.
var Kinds = []Kind{
	Stop, StopAfter, WorkloadGone, Reconfigured, Renamed, Adopted,
	LoggedIn, Renewed, BundleRead, NoWrite, Reported, Extended, ExtendFailed, Left, LeaveFailed, Quiet, Changed, Superseded, Unavailable, Refused, Denied,
	NewRead, NewUnavailable, NewRefused,
	Saved, NotSaved, CopyLoaded, CopyUnusable, Wrote, WriteFailed, Reloaded, ReloadFailed, NotRunning, CheckPassed, CheckFailed, CheckDisproved,
	Intact, Drifted, PodsBehind, WorkNews, Sighted,
	CheckTime, RetryTime, PauseOver, LeaseTime, TokenTime, LookTime, ReadTime, WatchTime, MoveTime,
}

var failures = []Kind{
	NoWrite, ExtendFailed, LeaveFailed, Unavailable, Refused, Denied, NewUnavailable, NewRefused, NotSaved, CopyUnusable, WriteFailed, ReloadFailed, NotRunning, CheckFailed, CheckDisproved,
}

// Failed reports whether an event is the failure of an effect.
func (k Kind) Failed() bool { return slices.Contains(failures, k) }

// Event is something that has happened. Fields after Draw are of some kinds only.
type Event struct {
	Kind Kind
	At   Moment
	Draw float64 // in [0, 1), made by chance; it spreads retries

	Of         Do            // of failures: the effect that failed
	Held       Held          // BundleRead, CopyLoaded
	Etag       string        // Reported, Extended: what the instance should hold
	Lease      time.Duration // BundleRead, Reported, Extended; 0: it does not end, or the engine does not extend leases
	TTL        time.Duration // LoggedIn, Renewed; 0: the token does not end
	Renewal    Renewal       // LoggedIn
	RetryAfter time.Duration // of failures, Quiet, Changed, Superseded: as was asked for
	Proof      string        // CheckPassed: how it is known that the workload uses what is loaded
	Reason     string        // of failures of the workload and of files: masked
	Reload     Reload        // Wrote, WriteFailed, Adopted: pending where a reload became due
	Settings   Settings      // Adopted
}

// Do is what is to be done.
type Do string

// Effects that start a request to Vault. Its result is an event that comes later, unless CancelRequest is performed before.
const (
	Login       Do = "log in"
	RenewToken  Do = "renew the token"
	ReadBundle  Do = "read the bundle"
	SendReport  Do = "report"
	ExtendLease Do = "extend the lease"
	ReadNew     Do = "read the new instance's bundle"
)

// Effects with a result, which is the next event.
const (
	ReportFailure  Do = "report the failure"    // of the workload, as the last report
	ReportLeaving  Do = "report that it leaves" // beside its workload; the lease stays
	Leave          Do = "leave"                 // give the lease back
	Adopt          Do = "adopt the configuration"
	SaveSecret     Do = "save the secret"
	LoadCopy       Do = "load the copy"
	Write          Do = "write the files" // and destinations
	ReloadWorkload Do = "reload the workload"
	CheckWorkload  Do = "check the workload"
	LookAtTargets  Do = "look at destinations"
	LookAtPods     Do = "look at destinations and pods"
)

// Effects before Write. Each may fail, with WriteFailed, and then the rest is not performed.
const (
	BeginGates   Do = "begin gates" // look at counters before anything changes
	KeepCopy     Do = "keep a copy" // of the bundle, before files are written with it
	FeedProxies  Do = "feed the proxies"
	PrepareFiles Do = "prepare the files" // beside their places
	NoteReload   Do = "note the reload"   // beside what is about to change
)

// Effects without a result.
const (
	StartWatch    Do = "watch" // its result comes later
	CloseWatch    Do = "close the watch"
	CancelRequest Do = "cancel the request" // the one under way; its result never comes
	ClearNotes    Do = "clear the notes"    // of the reload that was pending
	ConfirmCopy   Do = "confirm the copy"
	DropSecret    Do = "drop the secret"
	LeaveFormer   Do = "leave the former instance"
	StartWork     Do = "start work"
	ResumeProxies Do = "resume the proxies"
)

// Effects that say something.
const (
	SaySessionEnded Do = "say that the session ended"
	SayTokenEnds    Do = "say that the token ends"
	SayRequest      Do = "say that a request failed"
	SayToken        Do = "say that the token is not renewed"
	SayWaiting      Do = "say that the workload waits"
	SayBack         Do = "say that Vault is back"
	SayNoWrite      Do = "say that the policy lacks update"
	SaySecretLost   Do = "say that the secret is not kept"
	SayRivals       Do = "say that another process watches"
	SayHealthy      Do = "say that the workload is healthy"
	SayUnhealthy    Do = "say that the workload is not healthy"
	SayCheck        Do = "say that a check failed"
	SayNewLater     Do = "say that the configuration waits for Vault"
)

// Effects are all effects.
var Effects = []Do{
	Login, RenewToken, ReadBundle, SendReport, ExtendLease, ReadNew, ReportFailure, ReportLeaving, Leave, Adopt,
	SaveSecret, LoadCopy, Write, ReloadWorkload, CheckWorkload, LookAtTargets, LookAtPods, BeginGates,
	KeepCopy, FeedProxies, PrepareFiles, NoteReload, StartWatch, CloseWatch, CancelRequest, ClearNotes, ConfirmCopy,
	DropSecret, LeaveFormer, StartWork, ResumeProxies, SaySessionEnded, SayTokenEnds, SayRequest, SayToken, SayWaiting,
	SayBack, SayNoWrite, SaySecretLost, SayRivals, SayHealthy, SayUnhealthy, SayCheck, SayNewLater,
}

// Effect is something to do. Effects are performed in their order.
type Effect struct {
	Do     Do
	Wait   time.Duration // SaySessionEnded, SayRequest, SayNewLater: until Vault is asked again
	Reason string        // SayCheck, SayUnhealthy
}

// Perform performs effects in their order until one of them has a result, which is the next event. What follows a
// failure is not performed.
func Perform(effects []Effect, do func(Effect) (Event, bool)) (Event, bool) {
	for _, effect := range effects {
		if e, ok := do(effect); ok {
			return e, true
		}
	}
	return Event{}, false
}
