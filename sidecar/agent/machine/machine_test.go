// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

// Every state of a region has a row for every event that the region knows, whatever the conditions say, and no row stands
// behind one that leaves nothing for it.
func TestTableIsComplete(t *testing.T) {
	for _, r := range regions {
		d := r.(describer).describe()
		covered := map[string]bool{} // state and event, for which an earlier row always holds
		reached := map[string]bool{}
		for _, row := range d.rows {
			from, leaves := row.from, false
			if len(from) == 0 {
				from = d.states
			}
			for _, state := range from {
				if !slices.Contains(d.states, state) {
					t.Errorf("%s has no state %q", d.name, state)
				}
				for _, kind := range row.on {
					at := fmt.Sprintf("%s, %s", state, kind)
					leaves = leaves || !covered[at]
					covered[at] = covered[at] || row.when == ""
				}
			}
			if !leaves {
				t.Errorf("%s: the row from %v on %v never counts", d.name, row.from, row.on)
			}
			reached[row.to] = true
		}
		for _, row := range d.rows {
			for _, kind := range row.on {
				for _, state := range d.states {
					if at := fmt.Sprintf("%s, %s", state, kind); !covered[at] {
						t.Errorf("%s: no row always holds for %s", d.name, at)
					}
				}
			}
		}
		byRules := []string{string(SecretAgain), string(WorkGiven), string(WatchOpen), string(LoggingIn), string(Renewing), string(Reading), string(Reporting), string(Extending), string(ReadingNew)}
		for _, state := range d.states {
			if !reached[state] && state != d.start && !slices.Contains(byRules, state) {
				t.Errorf("%s: no row leads to %s", d.name, state)
			}
		}
	}
}

// Every kind of event means something to a region.
func TestEveryEventIsKnown(t *testing.T) {
	known := map[Kind]bool{}
	for _, r := range regions {
		for _, row := range r.(describer).describe().rows {
			for _, kind := range row.on {
				known[kind] = true
			}
		}
	}
	for _, kind := range Kinds {
		if !known[kind] && !slices.Contains([]Kind{ReadTime, WatchTime}, kind) { // their timers are all that there is to them
			t.Errorf("no region knows %q", kind)
		}
	}
}

// The state has no booleans: what is known has a name.
func TestStateHasNoBooleans(t *testing.T) {
	var look func(name string, of reflect.Type)
	look = func(name string, of reflect.Type) {
		switch of.Kind() {
		case reflect.Bool:
			t.Errorf("%s is a boolean", name)
		case reflect.Struct:
			for n := range of.NumField() {
				look(name+"."+of.Field(n).Name, of.Field(n).Type)
			}
		default:
		}
	}
	look("State", reflect.TypeFor[State]())
}

var settings = Settings{
	Reloads: WithReload, Checks: WithChecks, Copies: WithCopy, Patience: 2 * time.Second, Interval: 2 * time.Second, Deadline: 30 * time.Second,
	Successes: 1, Failures: 3,
}

// play lets events happen to a process that starts, a tenth of a second after one another, and returns the last effects.
func play(t *testing.T, c Settings, events ...Event) (State, []Do) {
	t.Helper()
	s, effects := Begin(Start(c, NoReload, 0), 0)
	for n, e := range events {
		if e.At == 0 {
			e.At = Moment(n+1) * 100 * time.Millisecond
		}
		s, effects = Next(s, e)
	}
	var all []Do
	for _, effect := range effects {
		all = append(all, effect.Do)
	}
	return s, all
}

var (
	loggedIn = Event{Kind: LoggedIn, TTL: time.Hour, Renewal: Renewable}
	first    = Event{Kind: BundleRead, Held: Held{"e1", 1}, Lease: time.Minute}
	saved    = Event{Kind: Saved}
	wrote    = Event{Kind: Wrote, Reload: ReloadPending}
	passed   = Event{Kind: CheckPassed}
)

// A start, up to the first watch: what is to be done after each event.
func TestStart(t *testing.T) {
	events := []Event{loggedIn, first, saved, wrote, {Kind: Reloaded}, passed, {Kind: Reported, Etag: "e1", Lease: time.Minute}}
	for n, want := range [][]Do{
		{Login},
		{ReadBundle},
		{SaveSecret},
		{BeginGates, KeepCopy, FeedProxies, PrepareFiles, NoteReload, Write},
		{ReloadWorkload},
		{ClearNotes, CheckWorkload},
		{SayHealthy, ResumeProxies, SendReport},
		{StartWork, StartWatch},
	} {
		if s, got := play(t, settings, events[:n]...); !slices.Equal(got, want) {
			t.Errorf("after %d events: %q, want %q; %+v", n, got, want, s)
		}
	}
}

// What follows from an answer to a renewal of the token.
func TestRenewToken(t *testing.T) {
	for name, c := range map[string]struct {
		had, left time.Duration // TTL at the login; what is left of it
		renewal   Renewal
		answer    Event
		token     Token
		renewedIn time.Duration // 0: not again
	}{
		"renewed":                          {time.Hour, 20 * time.Minute, Renewable, Event{Kind: Renewed, TTL: time.Hour}, TokenValid, 40 * time.Minute},
		"renewed for longer":               {10 * time.Second, 3 * time.Second, Renewable, Event{Kind: Renewed, TTL: time.Hour}, TokenValid, 40 * time.Minute},
		"near its last end":                {time.Hour, 20 * time.Minute, Renewable, Event{Kind: Renewed, TTL: 15 * time.Minute}, NoToken, 0},
		"not to be renewed":                {time.Hour, 20 * time.Minute, Fixed, Event{}, NoToken, 0},
		"revoked":                          {time.Hour, 20 * time.Minute, Renewable, Event{Kind: Denied}, NoToken, 0},
		"refused":                          {time.Hour, 20 * time.Minute, Renewable, Event{Kind: Refused}, NoToken, 0},
		"vault is away":                    {time.Hour, 40 * time.Second * 20, Renewable, Event{Kind: Unavailable}, TokenValid, 15 * time.Second},
		"not renewed, for whatever reason": {time.Hour, 9 * time.Minute, Renewable, Event{Kind: Unavailable}, NoToken, 0},
	} {
		now := c.had - c.left
		s := Start(settings, NoReload, 0)
		s, _ = Next(s, Event{Kind: LoggedIn, TTL: c.had, Renewal: c.renewal})
		s, _ = Next(s, Event{Kind: BundleRead, Held: Held{"e1", 1}})
		s.Vault, s.Bundle, s.Secret, s.Files, s.Timers[TimerPause] = VaultOpen, BundleCurrent, SecretSaved, FilesWritten, Never
		s, effects := Next(s, Event{Kind: TokenTime, At: now})
		if c.answer.Kind != "" {
			if effects[len(effects)-1].Do != RenewToken {
				t.Fatalf("%s: %v", name, effects)
			}
			c.answer.At, c.answer.Of = now, RenewToken
			s, effects = Next(s, c.answer)
		}
		if in := s.Timers[TimerToken] - now; s.Token != c.token || (c.renewedIn == 0) != (s.Timers[TimerToken] == Never) || c.renewedIn > 0 && in != c.renewedIn {
			t.Errorf("%s: the token is %s, renewed again in %s", name, s.Token, in)
		}
		if ends := c.token == NoToken; ends != (s.Vault != VaultOpen && !slices.ContainsFunc(effects, func(e Effect) bool { return e.Do == SayRequest })) {
			t.Errorf("%s: the session ends: %v; %v", name, !ends, effects)
		}
		if c.token == TokenValid && c.answer.Kind == Renewed && (s.TTL != max(c.had, time.Hour) || s.Ends != now+time.Hour) {
			t.Errorf("%s: it has %s and ends at %s", name, s.TTL, s.Ends)
		}
	}
}

// An engine that never agrees with itself is not asked at full speed.
func TestFutileReadsSlowDown(t *testing.T) {
	s := Start(settings, NoReload, 0)
	s.Token, s.Vault, s.Bundle, s.Files, s.Futile = TokenValid, VaultOpen, BundleCurrent, FilesWritten, 20
	s, effects := Next(s, Event{Kind: Changed, At: time.Second})
	if at := s.Timers[TimerRead]; len(effects) > 0 || at < time.Second+BackoffLimit/2 || at > time.Second+BackoffLimit {
		t.Errorf("the 20th futile read is made at %s: %v", at, effects)
	}
	if _, effects = Next(s, Event{Kind: ReadTime, At: s.Timers[TimerRead]}); len(effects) != 1 || effects[0].Do != ReadBundle {
		t.Errorf("then %v follows", effects)
	}
}

// Vault comes up beside the sidecar: within its patience the copy is not needed. It is not used when Vault refuses.
func TestCopyIsNotUsedAtOnce(t *testing.T) {
	away := Event{Kind: Unavailable, Of: Login}
	if s, effects := play(t, settings, away); s.Bundle != BundleAwaited || slices.Contains(effects, LoadCopy) {
		t.Errorf("it is used at once: %s, %v", s.Bundle, effects)
	}
	away.At = settings.Patience
	if _, effects := play(t, settings, away); !slices.Contains(effects, LoadCopy) {
		t.Errorf("it is not used: %v", effects)
	}
	if _, effects := play(t, settings, Event{Kind: Denied, Of: Login, At: settings.Patience}); slices.Contains(effects, LoadCopy) {
		t.Errorf("it is used although Vault denies the login: %v", effects)
	}
}

// A workload that ends while its reload fails is looked at again: the one that is started in its place has read the files.
func TestWorkloadEndsWhileItsReloadFails(t *testing.T) {
	s, _ := play(t, settings, loggedIn, first, saved, wrote, Event{Kind: ReloadFailed, Reason: "no"}, Event{Kind: RetryTime}, Event{Kind: NotRunning, Reason: "gone"})
	if s.Reload != ReloadPending || s.Check != CheckWaiting || s.Timers[TimerCheck] == Never {
		t.Errorf("the reload is %s, the check is %s", s.Reload, s.Check)
	}
}

// News of work, which continues while Vault is away, does not have Vault asked sooner.
func TestNewsDuringAPause(t *testing.T) {
	s, _ := play(t, settings, loggedIn, first, saved)
	for n := range 5 {
		s, _ = Next(s, Event{Kind: Unavailable, Of: SendReport})
		s, _ = Next(s, Event{Kind: WorkNews})
		if s.Requests != n+1 || s.Vault != VaultAway {
			t.Fatalf("%d requests have failed, and %d count", n+1, s.Requests)
		}
		s, _ = Next(s, Event{Kind: PauseOver})
	}
	if s, _ = Next(s, Event{Kind: Quiet}); s.Requests != 0 {
		t.Error("a watch that was served changes nothing")
	}
}

// Once after a connection was lost another watch is no rival.
func TestRivals(t *testing.T) {
	s := Start(settings, NoReload, 0)
	s.Token, s.Bundle, s.Files, s.Watch = TokenValid, BundleCurrent, FilesWritten, WatchOpen
	for n, says := range []bool{false, true, false} {
		var effects []Effect
		s, effects = Next(s, Event{Kind: Superseded})
		if said := slices.Contains(effects, Effect{Do: SayRivals}); said != says || s.Timers[TimerWatch] == Never {
			t.Errorf("after %d: %v", n+1, effects)
		}
		s, _ = Next(s, Event{Kind: WatchTime})
	}
}

// Timers that are not set never fire; of those that are the first one counts.
func TestFirstTimer(t *testing.T) {
	s := Start(settings, NoReload, 0)
	if at, _ := s.Timers.First(); at != Never {
		t.Errorf("a timer is set at the start: %s", at)
	}
	s.Timers[TimerLease], s.Timers[TimerCheck] = 5, 7
	if at, kind := s.Timers.First(); at != 5 || kind != LeaseTime {
		t.Errorf("%s at %s", kind, at)
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		failures int
		draw     float64
		want     time.Duration
	}{{1, 0, BackoffFirst / 2}, {2, 0, BackoffFirst}, {100, 0, BackoffLimit / 2}, {0, 0, BackoffFirst / 2}} {
		if got := Backoff(c.failures, c.draw); got != c.want {
			t.Errorf("after %d failures: %s, want %s", c.failures, got, c.want)
		}
	}
	if got := Backoff(100, 0.9999); got > BackoffLimit {
		t.Errorf("%s", got)
	}
}

// A reason that is another one at each check is news once in a while only. What a new bundle does is news at once.
func TestReasonThatChangesEachTime(t *testing.T) {
	events := []Event{loggedIn, first, saved, wrote, {Kind: Reloaded}, passed, {Kind: Reported, Etag: "e1", Lease: time.Hour}}
	begin := Moment(time.Minute)
	said := func(n int, at Moment) []Do {
		all := slices.Clone(events)
		all = append(all, Event{Kind: CheckTime, At: begin}, Event{Kind: CheckDisproved, At: begin, Reason: "0"}, Event{Kind: Reported, At: begin, Etag: "e1", Lease: time.Hour})
		for one := 1; one <= n; one++ {
			all = append(all, Event{Kind: CheckTime, At: at}, Event{Kind: CheckFailed, At: at, Reason: fmt.Sprint(one)})
		}
		s, effects := play(t, settings, all...)
		if s.Verdict != Unhealthy {
			t.Fatalf("%+v", s)
		}
		return effects
	}
	if got := said(0, begin); slices.Contains(got, SendReport) {
		t.Fatalf("it is not reported before: %q", got)
	}
	if got := said(3, begin+reasonEvery-1); slices.Contains(got, SayUnhealthy) || slices.Contains(got, SendReport) {
		t.Errorf("soon after: %q", got)
	}
	if got := said(1, begin+reasonEvery); !slices.Contains(got, SayUnhealthy) || !slices.Contains(got, SendReport) {
		t.Errorf("later: %q", got)
	}
	if got := said(2, begin+reasonEvery); slices.Contains(got, SayUnhealthy) {
		t.Errorf("the next one: %q", got)
	}
}

// Another configuration is written with what is held although Vault denies or refuses what is asked: a reload that was pending
// is made then, and the workload is checked.
func TestAdoptedFilesAreWrittenThoughVaultDenies(t *testing.T) {
	for _, kind := range []Kind{Unavailable, Refused, Denied} {
		s := Start(Settings{Reloads: WithReload}, ReloadPending, 0)
		s.Bundle, s.Held, s.Token = BundleStale, Held{"e1", 1}, NoToken
		s, effects := Next(s, Event{Kind: kind, Of: Login})
		if s.Files != FilesDue || !slices.ContainsFunc(effects, func(e Effect) bool { return e.Do == Write }) {
			t.Errorf("%s: files are %s; effects: %v", kind, s.Files, effects)
		}
	}
}

// A report that fails or is canceled is due again, and so is one of what happened during another one. At most one request is under way.
func TestReportIsNotLost(t *testing.T) {
	begun := []Event{loggedIn, first, saved, wrote, {Kind: Reloaded}, passed}
	for name, c := range map[string]struct {
		events  []Event
		report  Report
		request Request
		effects []Do
	}{
		"under way":   {nil, NoReport, Reporting, []Do{SayHealthy, ResumeProxies, SendReport}},
		"unavailable": {[]Event{{Kind: Unavailable, Of: SendReport}}, ReportDue, NoRequest, []Do{SayRequest}},
		"denied":      {[]Event{{Kind: Denied, Of: SendReport}}, ReportDue, NoRequest, []Do{SaySessionEnded}},
		"canceled":    {[]Event{{Kind: Reconfigured}}, ReportDue, NoRequest, []Do{CancelRequest, Adopt}},
		"moving":      {[]Event{{Kind: Renamed}}, ReportDue, ReadingNew, []Do{CancelRequest, ReadNew}},
		"moving on":   {[]Event{{Kind: Renamed}, {Kind: Renamed}}, ReportDue, ReadingNew, []Do{CancelRequest, ReadNew}},
		"ending":      {[]Event{{Kind: Stop}}, NoReport, NoRequest, []Do{CancelRequest, Leave}},
		"news":        {[]Event{{Kind: WorkNews}}, ReportDue, Reporting, nil},
		"after news":  {[]Event{{Kind: WorkNews}, {Kind: Reported, Etag: "e1"}}, NoReport, Reporting, []Do{SendReport}},
	} {
		s, effects := play(t, settings, append(slices.Clone(begun), c.events...)...)
		if s.Report != c.report || s.Request != c.request || !slices.Equal(effects, c.effects) {
			t.Errorf("%s: the report is %s, the request is %s; %q, want %q", name, s.Report, s.Request, effects, c.effects)
		}
	}
}
