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

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// storeIn returns a place for copies of the instance that startAgent runs.
func storeIn(t *testing.T) *lastgood.Store {
	t.Helper()
	dir := t.TempDir()
	s := &lastgood.Store{
		Path: filepath.Join(dir, "copy"), KeyFile: filepath.Join(t.TempDir(), "key"),
		Owner: lastgood.Owner{Mount: "hyvve", Workload: "api", Instance: "api-1"},
	}
	if err := os.WriteFile(s.KeyFile, []byte(strings.Repeat("5a", 32)), 0o400); err != nil {
		t.Fatal(err)
	}
	return s
}

// hasVersion is what the fake Vault returns as a version.
func hasVersion(n int) client.Bundle {
	value := key.NewValue(fmt.Sprintf("%s-%d", canary, n))
	return client.Bundle{
		Values: map[string]key.Value{"TOKEN": value}, Accepts: map[string][]key.Value{"TOKEN": {value, key.NewValue(canary + "-old")}},
		Versions: map[string]int{"TOKEN": n}, AcceptVersions: map[string][]int{"TOKEN": {n, n - 1}}, Etag: fmt.Sprintf("etag-%d-0", n),
	}
}

// away starts an agent while Vault answers with a status.
func away(t *testing.T, dir string, store *lastgood.Store, kind string, status int) *running {
	t.Helper()
	return startAgentWith(t, dir, nil, func(r *running, c *Config) {
		r.fake.fail[kind] = status
		c.LastGood = store
	})
}

// once runs an agent with Vault until it has stored a copy and rendered the file.
func once(t *testing.T, dir string, store *lastgood.Store) {
	t.Helper()
	r := startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.LastGood = store })
	r.await("first", loaded("etag-1-0"))
	r.stop()
}

func (r *running) says(what string) {
	r.t.Helper()
	r.holds("the log says "+what, func() bool { return strings.Contains(r.log.String(), what) })
}

func (r *running) holds(what string, so func() bool) {
	r.t.Helper()
	kit.Until(r.t, what, so, r.log.String)
}

func TestColdStart(t *testing.T) {
	for kind, status := range map[string]int{"auth": 503, "creds": 500} {
		t.Run(fmt.Sprintf("%s %d", kind, status), func(t *testing.T) {
			dir, store := t.TempDir(), storeIn(t)
			once(t, dir, store)
			if err := os.Remove(filepath.Join(dir, "secrets.json")); err != nil { // a reboot: the directory is in memory
				t.Fatal(err)
			}
			r := away(t, dir, store, kind, status)
			r.says("running from the last-good copy")
			r.says("workload is healthy")
			if !strings.Contains(r.file(), canary+"-1") || r.reloads.count() != 1 || r.fake.count("report") != 0 || !strings.Contains(r.log.String(), `"age":`) {
				t.Errorf("%d reloads, %d reports; log:\n%s", r.reloads.count(), r.fake.count("report"), r.log)
			}
			r.fake.change(func() { clear(r.fake.fail) })
			r.await("vault is back", loaded("etag-1-0"))
			if r.reloads.count() != 1 {
				t.Errorf("%d reloads for the same content", r.reloads.count())
			}
			r.fake.change(func() { r.fake.version = 2 })
			r.await("second", loaded("etag-2-0"))
			if c, err := store.Load(time.Now()); err != nil || c.Bundle.Etag != "etag-2-0" {
				t.Errorf("stored is %s, %v", c.Bundle.Etag, err)
			}
		})
	}
}

// What is as it was is not reloaded; what has changed meanwhile is taken up once Vault is back.
func TestColdStartWithTheFilesThere(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	once(t, dir, store)
	r := away(t, dir, store, "auth", 503)
	r.says("workload is healthy")
	if r.reloads.count() != 0 {
		t.Errorf("%d reloads", r.reloads.count())
	}
	r.fake.change(func() { clear(r.fake.fail); r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	if !strings.Contains(r.file(), canary+"-2") || r.reloads.count() != 1 {
		t.Errorf("%d reloads", r.reloads.count())
	}
}

// Killed after the copy was stored and before the files were written, or between two of them: the copy is what comes next.
func TestKilledBetweenCopyAndFiles(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	once(t, dir, store)
	if err := store.Save(hasVersion(2), time.Now()); err != nil {
		t.Fatal(err)
	}
	r := away(t, dir, store, "auth", 503)
	r.says("workload is healthy")
	if !strings.Contains(r.file(), canary+"-2") || r.reloads.count() != 1 {
		t.Errorf("%d reloads; log:\n%s", r.reloads.count(), r.log)
	}
	r.fake.change(func() { clear(r.fake.fail); r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	if r.reloads.count() != 1 {
		t.Errorf("%d reloads for the same content", r.reloads.count())
	}
}

// The copy is there before any file changes.
func TestCopyBeforeFiles(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	r := startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.LastGood = store })
	r.await("first", loaded("etag-1-0"))
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	r.fake.change(func() { r.fake.version = 2 })
	r.await("not rendered", unhealthy("writable by everybody"))
	if c, err := store.Load(time.Now()); err != nil || c.Bundle.Etag != "etag-2-0" || !strings.Contains(r.file(), canary+"-1") {
		t.Errorf("stored is %s, %v", c.Bundle.Etag, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.await("second", loaded("etag-2-0"))
}

func TestCopiesThatAreNotUsed(t *testing.T) {
	write := func(path, text string) error {
		return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte(text), 0o600))
	}
	for name, c := range map[string]struct {
		spoil func(s *lastgood.Store) error
		kind  string
		code  int
		says  string
	}{
		"none":           {func(s *lastgood.Store) error { return s.Remove() }, "auth", 503, "nothing is stored"},
		"another key":    {func(s *lastgood.Store) error { return write(s.KeyFile, strings.Repeat("a5", 32)) }, "auth", 503, "stored under another key"},
		"no key":         {func(s *lastgood.Store) error { return os.Remove(s.KeyFile) }, "auth", 503, "key_file"},
		"key for all":    {func(s *lastgood.Store) error { return os.Chmod(s.KeyFile, 0o444) }, "auth", 503, "chmod 0400"},
		"cut":            {func(s *lastgood.Store) error { return os.Truncate(s.Path, 60) }, "auth", 503, "it was changed or cut"},
		"rubbish":        {func(s *lastgood.Store) error { return write(s.Path, "x") }, "auth", 503, "does not begin as a copy"},
		"of another one": {func(s *lastgood.Store) error { s.Owner.Instance = "api-2"; return nil }, "auth", 503, "another instance"},
		"too old": {func(s *lastgood.Store) error {
			s.MaxAge = time.Hour
			return s.Save(hasVersion(1), time.Now().Add(-2*time.Hour))
		}, "auth", 503, "max_age is 1h"},
		"not allowed": {func(*lastgood.Store) error { return nil }, "auth", 403, "vault denies access"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, store := t.TempDir(), storeIn(t)
			once(t, dir, store)
			if err := errors.Join(os.Remove(filepath.Join(dir, "secrets.json")), c.spoil(store)); err != nil {
				t.Fatal(err)
			}
			r := away(t, dir, store, c.kind, c.code)
			r.says(c.says)
			if c.code != 403 {
				r.says("last-good copy not used")
			}
			tries := r.fake.count("auth")
			r.holds("it tries again", func() bool { return r.fake.count("auth") > tries })
			if r.file() != "" || r.reloads.count() != 0 || strings.Contains(r.log.String(), "running from the last-good copy") {
				t.Errorf("it does not wait; log:\n%s", r.log)
			}
			r.fake.change(func() { clear(r.fake.fail) })
			r.await("vault is back", loaded("etag-1-0"))
		})
	}
}

// A copy that was restored from somewhere, or of a time before none was kept: the files are newer.
func TestNeverBack(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	once(t, dir, store)
	if err := store.Save(hasVersion(0), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	r := away(t, dir, store, "auth", 503)
	r.says("was written after the copy was stored")
	if !strings.Contains(r.file(), canary+"-1") || r.reloads.count() != 0 {
		t.Errorf("%d reloads", r.reloads.count())
	}
}

// A copy that would be older than the files is removed; where it cannot be, the files stay as they are.
func TestCopyCannotBeStored(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	r := startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.LastGood = store })
	r.await("first", loaded("etag-1-0"))
	if err := os.Chmod(store.KeyFile, 0o444); err != nil {
		t.Fatal(err)
	}
	r.fake.change(func() { r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	r.says("last-good copy not stored")
	if _, err := os.Stat(store.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the older copy is there: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(store.Path, "something"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.fake.change(func() { r.fake.version = 3 })
	r.await("neither stored nor removed", unhealthy("can neither be stored nor removed"))
	if !strings.Contains(r.file(), canary+"-2") {
		t.Error("files are newer than a copy that may be there")
	}
	if err := errors.Join(os.RemoveAll(store.Path), os.Chmod(store.KeyFile, 0o400)); err != nil {
		t.Fatal(err)
	}
	r.await("third", loaded("etag-3-0"))
	if c, err := store.Load(time.Now()); err != nil || c.Bundle.Etag != "etag-3-0" {
		t.Errorf("stored is %s, %v", c.Bundle.Etag, err)
	}
}

// The age of a copy is that of the last word of Vault on it. It stays what the files hold: a workload is asked by the etag
// that it was given.
func TestCopyIsConfirmed(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	often := *store
	often.MaxAge = 400 * time.Millisecond
	r := startAgentWith(t, dir, nil, func(r *running, c *Config) { c.LastGood, r.fake.lease = &often, 1 })
	r.await("first", loaded("etag-1-0"))
	first, err := store.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.holds("it is stored anew", func() bool {
		c, err := store.Load(time.Now())
		return err == nil && c.Stored.After(first.Stored)
	})
	if c, err := store.Load(time.Now()); err != nil || c.Bundle.Etag != "etag-1-0" {
		t.Errorf("%s, %v", c.Bundle.Etag, err)
	}
}

// While Vault is away, a reload that failed is made again, and the workload is looked at.
func TestWorkloadIsLookedAfterWhileVaultIsAway(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	if err := store.Save(hasVersion(1), time.Now()); err != nil {
		t.Fatal(err)
	}
	check := newChecker()
	r := startAgentWith(t, dir, nil, func(r *running, c *Config) {
		c.LastGood, c.Checker, c.Interval, c.Deadline = store, check, 10*time.Millisecond, time.Millisecond
		r.fake.fail["auth"], r.reloads.fail = 503, errors.New("not now")
	})
	r.says("workload not reloaded")
	r.holds("it is made again", func() bool { return r.reloads.count() > 1 })
	r.reloads.mu.Lock()
	r.reloads.fail = nil
	r.reloads.mu.Unlock()
	r.says("workload is healthy")
	check.say(errors.New("fell ill"))
	r.says("fell ill")
	if r.fake.count("report") != 0 {
		t.Error("something is reported")
	}
}

// A workload that gets its environment here starts with the copy, and is restarted when Vault is back with another bundle.
func TestExecColdStart(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	if err := store.Save(hasVersion(1), time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "sidecar.hcl")
	text := fmt.Sprintf(`vault {
		auth "token_file" { path = "%s/token" }
		last_good {
			path     = %q
			key_file = %q
			max_age  = "24h"
		}
	}`, dir, store.Path, store.KeyFile)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fake := newFakeVault(t)
	fake.fail["auth"], fake.version = 503, 2
	e := startExec(t, fake, dir, `says "$TOKEN $HYVVE_ETAG"; rests`, "--config="+config)
	e.hears(1, canary+"-1 etag-1-0")
	e.says("running from the last-good copy")
	fake.change(func() { clear(fake.fail) })
	e.hears(2, canary+"-2 etag-2-0")
	e.await("second", loaded("etag-2-0"))
	if said := e.said(); len(said) != 2 {
		t.Errorf("%q", said)
	}
}
