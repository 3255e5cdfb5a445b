// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Which logins a sample has missed, by two counts of one database.
func TestMissedLogins(t *testing.T) {
	t.Parallel()
	const lost = "the counts of pg_stat_database are lost, as after a crash of the server"
	count := func(sessions int, reset float64) headcount {
		return headcount{counts: map[string]sessionCount{"app": {sessions, reset}, "postgres": {9, 0}}}
	}
	for name, test := range map[string]struct {
		before, after headcount
		want          kind.Unattributed
	}{
		"none":                          {count(5, 1), count(5, 1), kind.Unattributed{}},
		"two":                           {count(5, 1), count(7, 1), kind.Unattributed{Logins: 2}},
		"a new database":                {headcount{counts: map[string]sessionCount{"postgres": {9, 0}}}, count(1, 0), kind.Unattributed{Logins: 1}},
		"reset":                         {count(5, 1), count(0, 2), kind.Unattributed{Uncounted: "the statistics of database app were reset, as by pg_stat_reset()"}},
		"reset, and as many as before":  {count(5, 1), count(5, 2), kind.Unattributed{Uncounted: "the statistics of database app were reset, as by pg_stat_reset()"}},
		"reset for the first time":      {count(1, 0), count(1, 2), kind.Unattributed{Uncounted: "the statistics of database app were reset, as by pg_stat_reset()"}},
		"lost":                          {count(5, 1), count(4, 1), kind.Unattributed{Uncounted: lost}},
		"those of another one are lost": {count(0, 0), headcount{counts: map[string]sessionCount{"app": {0, 0}, "postgres": {2, 0}}}, kind.Unattributed{Uncounted: lost}},
		"those of another one are reset": {
			count(5, 0), headcount{counts: map[string]sessionCount{"app": {5, 0}, "postgres": {0, 2}}}, kind.Unattributed{},
		},
		"not counted":                {headcount{fault: "no right"}, headcount{fault: "no right"}, kind.Unattributed{Uncounted: "no right"}},
		"the right was granted":      {headcount{fault: "no right"}, count(5, 1), kind.Unattributed{Uncounted: "no right"}},
		"the right was taken away":   {count(5, 1), headcount{fault: "no right"}, kind.Unattributed{Uncounted: "no right"}},
		"a database that is nowhere": {headcount{}, headcount{}, kind.Unattributed{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logins := shortLogins{begun: true, last: test.before}
			if test.want != (kind.Unattributed{}) {
				test.want.At = "it"
			}
			if got := logins.unseen(nil, test.after).of([]string{"app"}, "it"); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// during samples a change for two seconds, and does something after half a second. It returns what the samples say of logins that they missed.
func (w *world) during(c kind.Change, do func()) (missed kind.Unattributed) {
	w.t.Helper()
	var group sync.WaitGroup
	group.Go(func() {
		if backoff.Wait(w.t.Context(), 500*time.Millisecond) == nil {
			do()
		}
	})
	for range 2 {
		n, what, err := w.kind.Sample(w.t.Context(), c, time.Second)
		if !errors.As(err, &missed) {
			w.ok(err)
		}
		if n > 0 {
			w.t.Errorf("%d sessions of the old role: %s", n, what)
		}
	}
	group.Wait()
	return missed
}

// Statistics that are reset during a sample, at the server or at a replica, are not taken for a server without logins. Those of
// databases that the key does not use do not matter.
func TestResetOfStatistics(t *testing.T) {
	ctx := t.Context()
	p := ownServer(t, bed.PostgresOptions{})
	replica, err := p.Replica(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "", nil)
	w.connection.Options[fieldReplicas] = strings.TrimPrefix(home(kind.Connection{Options: kind.Options{login.FieldURL: replica.AdminURL("postgres")}}).what, "the server ")
	c := w.next(w.first)
	w.ok(w.kind.Stage(ctx, c))
	w.ok(replica.AwaitReplay(ctx))
	u, err := urls.Credential(w.first)
	w.ok(err)
	reset := func(url string) func() {
		return func() {
			conn := w.dial(url)
			if _, err := conn.Exec(ctx, "SELECT pg_stat_reset()"); err != nil {
				t.Error(err)
			}
		}
	}
	for _, test := range []struct{ url, words string }{
		{p.AdminURL("template1"), ""},
		{p.AdminURL(u.Path()), "at the server 127.0.0.1"},
		{replica.AdminURL(u.Path()), "at the replica 127.0.0.1"},
	} {
		missed := w.during(c, reset(test.url))
		if test.words == "" && missed.Uncounted != "" || test.words != "" && (!strings.Contains(missed.Uncounted, "statistics of database "+u.Path()+" were reset") || !strings.Contains(missed.Error(), test.words)) {
			t.Errorf("missed %+v, want %q", missed, test.words)
		}
	}
	if missed := w.during(c, func() {}); missed.Uncounted != "" {
		t.Errorf("after the resets: %v", missed)
	}
}

// A crash loses all counts, though none was reset.
func TestCrashLosesCounts(t *testing.T) {
	ctx := t.Context()
	p := ownServer(t, bed.PostgresOptions{})
	w := newWorld(t, "", nil)
	u, err := urls.Credential(w.first)
	w.ok(err)
	var logins shortLogins
	sample := func() misses {
		_, missed, err := w.kind.sampleAt(ctx, w.connection, home(w.connection), []string{w.app}, 100*time.Millisecond, &logins)
		w.ok(err)
		return missed
	}
	if missed := sample(); missed.fault != "" {
		t.Fatalf("before the crash: %+v", missed)
	}
	p.Kill()
	w.ok(p.Start(ctx))
	if missed := sample().of([]string{u.Path()}, "it"); !strings.Contains(missed.Uncounted, "are lost, as after a crash") {
		t.Errorf("after the crash: %+v", missed)
	}
	if missed := sample(); missed.fault != "" {
		t.Errorf("later: %+v", missed)
	}
}

// A server that never counts sessions is not taken for one without logins: each sample says so, the plan and the connection have a
// note, and what can be granted is named.
func TestServerThatDoesNotCountLogins(t *testing.T) {
	ctx := t.Context()
	p := ownServer(t, bed.PostgresOptions{})
	w := newWorld(t, "", nil)
	w.administrator(w.app + "_root")
	if w.modern() {
		w.exec("GRANT " + w.app + " TO " + w.app + "_root WITH ADMIN OPTION")
	}
	c := w.next(w.first)
	w.ok(w.kind.Stage(ctx, c))
	super := w.dial(p.AdminURL("postgres"))
	run := func(statement string) {
		t.Helper()
		if _, err := super.Exec(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	const note = "so each rotation samples the server for six times observe="
	// says checks what samples, the plan and the connection say; nothing if it is empty.
	says := func(words string) {
		t.Helper()
		var missed kind.Unattributed
		if _, _, err := w.kind.Sample(ctx, c, 200*time.Millisecond); !errors.As(err, &missed) {
			w.ok(err)
		}
		if missed.Uncounted == "" != (words == "") || !strings.Contains(missed.Uncounted, words) {
			t.Errorf("missed %+v, want %q", missed, words)
		}
		blockers, notes := w.preflight(c)
		if blockers != "" || strings.Contains(notes, note) != (words != "") || !strings.Contains(notes, words) {
			t.Errorf("blockers %s, notes %s", blockers, notes)
		}
		all, err := w.kind.CheckConnection(ctx, c.Connection)
		w.ok(err)
		if notes := strings.Join(all, "\n"); strings.Contains(notes, note) != (words != "") || !strings.Contains(notes, words) {
			t.Errorf("connection: %s", notes)
		}
		cut := c
		cut.Cut = true
		if _, notes := w.preflight(cut); strings.Contains(notes, note) {
			t.Errorf("a compromised key does not wait for samples: %s", notes)
		}
	}
	says("")
	run("REVOKE SELECT ON pg_catalog.pg_stat_database FROM PUBLIC")
	grant := "GRANT SELECT ON pg_catalog.pg_stat_database TO " + quoteIfNeeded(w.app+"_root")
	says("may not read pg_stat_database; grant it, as a superuser in database postgres, with: " + grant)
	run(grant)
	says("")
	run("SET allow_system_table_mods = on")
	run("ALTER VIEW pg_catalog.pg_stat_database RENAME COLUMN sessions TO other") // as before PostgreSQL 14
	says("pg_stat_database has no column sessions, which PostgreSQL 14 and newer have")
}
