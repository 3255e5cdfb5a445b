// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// reconfigure has the agent go on with its first configuration, changed, and waits until it does.
func (r *running) reconfigure(change func(c *Config)) {
	r.t.Helper()
	c, before := r.config, strings.Count(r.log.String(), "configuration taken")
	change(&c)
	if err := r.agent.reconfigure(c); err != nil {
		r.t.Fatal(err)
	}
	r.holds("configuration taken", func() bool { return strings.Count(r.log.String(), "configuration taken") > before })
}

// A reload that is pending when there is nothing to reload any more is dropped.
func TestAdoptWithoutReload(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.reloads.set(reload.ErrNotRunning) })
	r.holds("files are there", func() bool { return r.file() != "" })
	r.reconfigure(func(c *Config) { c.Reloader = nil })
	r.await("loaded", loaded("etag-1-0"))
}

// Another place for the copy gets one at once.
func TestAdoptAnotherPlaceForTheCopy(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) { c.LastGood = storeIn(t) })
	r.await("first", loaded("etag-1-0"))
	another := storeIn(t)
	r.reconfigure(func(c *Config) { c.LastGood = another })
	r.holds("the copy is there", func() bool {
		c, err := another.Load(time.Now())
		return err == nil && c.Bundle.Etag == "etag-1-0"
	})
}

// What one workload holds is not written into the files of another one, though Vault is away.
func TestAdoptAnotherWorkloadWhileVaultIsAway(t *testing.T) {
	dir := t.TempDir()
	r := startAgentWith(t, dir, nil, func(r *running, _ *Config) { r.reloads.set(fmt.Errorf("not now")) })
	r.await("first", unhealthy("not now"))
	r.fake.change(func() { r.fake.fail["auth"], r.fake.fail["watch"], r.fake.fail["report"] = 503, 503, 503 })
	r.says("vault did not take a request")
	another := filepath.Join(dir, "another.json")
	c := r.config
	c.Workload, c.Targets, c.Reloader = "web", withPath(&c, another), nil
	if err := r.agent.reconfigure(c); err != nil {
		t.Fatal(err)
	}
	logins := r.fake.count("auth")
	r.holds("it asks again and again", func() bool { return r.fake.count("auth") > logins+3 })
	if _, err := os.Stat(another); err == nil {
		t.Error("the other workload has the values of the first")
	}
	r.fake.change(func() { clear(r.fake.fail) })
	r.await("loaded", loaded("etag-1-0"))
	r.says("configuration taken")
}

// While Vault is away, another configuration gets what is held, and the workload is looked at.
func TestAdoptWhileVaultIsAway(t *testing.T) {
	for held, status := range map[string]int{"bundle": 503, "copy": 503, "a bundle, and Vault denies": 403, "a bundle, and Vault refuses": 400} {
		t.Run(held, func(t *testing.T) {
			dir, store := t.TempDir(), storeIn(t)
			var r *running
			if held == "copy" {
				once(t, dir, store)
				r = away(t, dir, store, "auth", 503)
				r.says("workload is healthy")
			} else {
				r = startAgentIn(t, dir, nil)
				r.await("first", loaded("etag-1-0"))
				r.fake.change(func() { r.fake.fail["auth"], r.fake.fail["watch"] = status, status })
				r.says("; files stay as they are")
			}
			another := filepath.Join(dir, "another.json")
			reloads := r.reloads.count()
			r.reconfigure(func(c *Config) { c.Targets = append(withPath(c, another), c.Targets...) })
			r.holds("the new file is there", func() bool {
				data, _ := os.ReadFile(another)
				return strings.Contains(string(data), canary+"-1") && r.reloads.count() == reloads+1
			})
		})
	}
}

// A reload that is pending stays noted when the file that it is for is rendered no more: a process that is killed then, and the one
// after it, see the other files only.
func TestAdoptWhileAReloadIsPending(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other", "secrets.json")
	if err := os.Mkdir(filepath.Dir(other), 0o700); err != nil {
		t.Fatal(err)
	}
	r := startAgentWith(t, dir, nil, func(r *running, _ *Config) { r.reloads.set(errors.New("not now")) })
	r.await("the fault", unhealthy("not now"))
	if err := os.WriteFile(other, []byte(r.file()), r.config.Targets[0].Mode); err != nil { // so that nothing is written there
		t.Fatal(err)
	}
	dropped := r.config.Targets[0]
	r.reconfigure(func(c *Config) { c.Targets = withPath(c, other) })
	if !withPath(&r.config, other)[0].ReloadPending() {
		t.Error("the reload is not noted")
	}
	if dropped.ReloadPending() {
		t.Error("the note of a file that is rendered no more stays")
	}
	r.reloads.set(nil)
	r.await("loaded", loaded("etag-1-0"))
	r.holds("the note is removed", func() bool { return !withPath(&r.config, other)[0].ReloadPending() })
}

func withPath(c *Config, path string) []render.Target {
	t := c.Targets[0]
	t.Path = path
	return []render.Target{t}
}

// Work that was begun after another configuration came ends with the agent too.
func TestAdoptedWorkEnds(t *testing.T) {
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	r.reconfigure(func(*Config) {})
	r.fake.change(func() { r.fake.work = []workload.Work{{ID: "w", Phase: workload.PhaseStage}} })
	r.await("work", func(report map[string]any) bool {
		return strings.Contains(fmt.Sprint(report["work"]), "no reencrypt block")
	})
	r.stop()
	under := false
	r.agent.jobs.tasks.Do(func(t *tasks) { under = t.cancel != nil })
	if under {
		t.Error("it goes on")
	}
}
