// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const lookupSelf = "auth/token/lookup-self"

// soon is much less than a request may take.
const soon = 8 * time.Second

func (r *running) soon(what string, holds func() bool) {
	r.t.Helper()
	begun := time.Now()
	if r.until(what, holds); time.Since(begun) > soon {
		r.t.Errorf("it took %s until %s", time.Since(begun), what)
	}
}

// silence lets Vault take requests of a path and not answer, until the function that it returns is called or the test ends.
func (r *running) silence(path string) (release func()) {
	held := make(chan struct{})
	r.fake.change(func() { r.fake.hold[path] = held })
	release = sync.OnceFunc(func() {
		r.fake.change(func() { delete(r.fake.hold, path) })
		close(held)
	})
	r.t.Cleanup(release)
	return release
}

// fragile is a workload that a test makes unhealthy.
type fragile struct{ fails atomic.Bool }

func (f *fragile) Check(context.Context, string) error {
	if f.fails.Load() {
		return errors.New("it is unhealthy")
	}
	return nil
}

func startFragile(t *testing.T) (*running, *fragile) {
	t.Helper()
	workload := &fragile{}
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
		r.fake.lease, c.Checker, c.Interval, c.Failures = 2, workload, 20*time.Millisecond, 1
	})
	r.await("loaded", loaded("etag-1-0"))
	return r, workload
}

func (r *running) healthy(is bool) func() bool {
	return func() bool { return r.agent.board.State().Healthy == is }
}

func (r *running) taken(times int) func() bool {
	return func() bool { return strings.Count(r.log.String(), "configuration taken") == times }
}

// While Vault takes a request and is silent, the workload is checked, another configuration is loaded, and the sidecar can end.
func TestVaultIsSilent(t *testing.T) {
	for path, begin := range map[string]func(*running, *fragile){
		lookupSelf:   func(r *running, _ *fragile) { r.fake.change(func() { r.fake.fail["watch"], r.fake.version = 403, 2 }) },
		"creds/api":  func(r *running, _ *fragile) { r.fake.change(func() { r.fake.version = 2 }) },
		"report/api": func(_ *running, workload *fragile) { workload.fails.Store(true) },
	} {
		t.Run(path, func(t *testing.T) {
			r, workload := startFragile(t)
			r.silence(path)
			before := r.fake.count(path)
			waits := func() bool { return r.fake.count(path) > before }
			begin(r, workload)
			r.until("a request waits", waits)
			workload.fails.Store(true)
			r.soon("the check that fails is shown", r.healthy(false))
			workload.fails.Store(false)
			r.soon("the check that passes is shown", r.healthy(true))
			before = r.fake.count(path)
			r.rename("api")
			r.soon("the configuration is taken", r.taken(1))
			if path != "report/api" { // which is not asked before the files are written
				r.until("a request waits again", waits)
			}
			begun := time.Now()
			if r.stop(); time.Since(begun) > soon {
				t.Errorf("the end took %s", time.Since(begun))
			}
			if n := r.fake.count("leave"); n != 1 {
				t.Errorf("the instance was left %d times", n)
			}
		})
	}
}

// What a check finds during a report is reported after it, also where the report fails.
func TestCheckFailsDuringAReport(t *testing.T) {
	for name, status := range map[string]int{"served": 0, "failed": 503} {
		t.Run(name, func(t *testing.T) {
			r, workload := startFragile(t)
			release := r.silence("report/api")
			before := r.fake.count("report/api")
			workload.fails.Store(true)
			r.until("the report waits", func() bool { return r.fake.count("report/api") > before })
			workload.fails.Store(false)
			r.soon("the check that passes is shown", r.healthy(true))
			r.fake.change(func() { r.fake.fail["report/api"] = status })
			release()
			r.fake.change(func() { r.fake.fail["report/api"] = 0 })
			r.await("healthy again", loaded("etag-1-0"))
		})
	}
}

// While the bundle of another instance is read, the present one is what it was: its lease is extended, and its workload checked. A
// newer configuration takes the place of the one that waits.
func TestVaultIsSilentToANewInstance(t *testing.T) {
	r, workload := startFragile(t)
	r.silence("creds/web")
	r.rename("web")
	r.until("a read waits", func() bool { return r.fake.count("creds/web") == 1 })
	workload.fails.Store(true)
	r.soon("the check that fails is shown", r.healthy(false))
	workload.fails.Store(false)
	before := r.fake.count("extend/api")
	r.until("the lease is extended", func() bool { return r.fake.count("extend/api") > before+2 })
	r.rename("api")
	r.soon("the configuration of the present instance is taken", r.taken(1))
	r.await("loaded", loaded("etag-1-0"))

	r.rename("web")
	r.until("a read waits again", func() bool { return r.fake.count("creds/web") == 2 })
	r.rename("ops")
	r.soon("the newer configuration is taken", r.taken(2))
	r.until("the former instance is left", func() bool { return r.fake.count("leave/api") == 1 })
	if strings.Contains(r.log.String(), `"configuration taken","workload":"web"`) {
		t.Error("the configuration that was replaced is taken")
	}
}

// SIGHUP twice in a row: the bundle is read once, and the second configuration is the one that is taken.
func TestNewerConfigurationOfTheNewInstance(t *testing.T) {
	r, _ := startFragile(t)
	release := r.silence("creds/web")
	r.fake.change(func() { r.fake.suffix = "-web" })
	r.rename("web")
	r.until("a read waits", func() bool { return r.fake.count("creds/web") == 1 })
	newer, reloads := r.config, &reloads{}
	newer.Workload, newer.Reloader = "web", reloads
	if err := r.agent.reconfigure(newer); err != nil {
		t.Fatal(err)
	}
	r.until("the loop has it", func() bool { return len(r.agent.next) == 0 })
	release()
	r.soon("a configuration is taken", r.taken(1))
	r.until("the workload is reloaded by the newer one", func() bool { return reloads.count() > 0 })
	if n := r.fake.count("creds/web"); n != 1 || r.reloads.count() != 1 {
		t.Errorf("the bundle was read %d times; the one before made %d reloads", n, r.reloads.count())
	}
}

// A newer configuration of the new instance is tried where the one before is refused.
func TestNewerConfigurationAfterARefusal(t *testing.T) {
	r, _ := startFragile(t)
	release := r.silence("creds/web")
	r.fake.change(func() { r.fake.fail["creds/web"] = 400 })
	r.rename("web")
	r.until("a read waits", func() bool { return r.fake.count("creds/web") == 1 })
	r.rename("web")
	r.until("the loop has it", func() bool { return len(r.agent.next) == 0 })
	release()
	r.until("the newer one is tried", func() bool { return r.fake.count("creds/web") == 2 })
	r.until("status shows that it is not taken", func() bool { return r.notTaken() != nil })
}

// A read that is served during a check that hangs makes the secret before worthless: the lease is extended with the one that it brought.
func TestLeaseIsExtendedWithTheNewestSecret(t *testing.T) {
	var hangs atomic.Bool
	h := &hanging{in: "check", from: hangs.Load, entered: make(chan struct{}, 1), release: make(chan struct{})}
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
		r.fake.lease, c.Checker, c.Interval = 1, h, 10*time.Millisecond
	})
	r.await("loaded", loaded("etag-1-0"))
	release := r.silence("creds/api")
	r.fake.change(func() { r.fake.version = 2 })
	r.until("a read waits", func() bool { return r.fake.count("creds/api") == 2 })
	hangs.Store(true)
	<-h.entered
	release()
	r.until("the read is served", func() bool { return r.fake.reads() == 2 })
	before := r.fake.count("extend/api")
	r.until("the lease is extended", func() bool { return r.fake.count("extend/api") > before+2 })
	hangs.Store(false)
	close(h.release)
	r.await("loaded", loaded("etag-2-0"))
}

// reads is how many reads were served.
func (f *fakeVault) reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.secret
}
