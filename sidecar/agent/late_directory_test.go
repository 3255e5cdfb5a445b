// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// lateDirectory starts a sidecar whose directory, in which an earlier one has left a pending reload, is not there yet. It returns
// a function that brings it.
func lateDirectory(t *testing.T, change func(*fakeVault)) (r *running, bring func()) {
	t.Helper()
	dir := t.TempDir()
	files, away := filepath.Join(dir, "files"), filepath.Join(dir, "away")
	if err := os.Mkdir(files, 0o700); err != nil {
		t.Fatal(err)
	}
	start := func(change func(*fakeVault)) *running {
		return startAgentWith(t, dir, nil, func(r *running, c *Config) {
			c.Targets[0].Path = filepath.Join(files, "secrets.json")
			c.Render[0].Path = c.Targets[0].Path
			change(r.fake)
		})
	}
	first := start(func(*fakeVault) {})
	first.await("first", loaded("etag-1-0"))
	target := first.config.Targets[0]
	secret, _ := first.config.secretPath()
	kept, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	first.stop()
	if err := target.Begin(); err != nil { // as one that was killed leaves it
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(files, away); err != nil {
		t.Fatal(err)
	}
	return start(change), func() {
		if err := os.Rename(away, files); err != nil {
			t.Fatal(err)
		}
	}
}

// A reload that is pending is made although its note could not be seen at the start, and once.
func TestPendingReloadInALateDirectory(t *testing.T) {
	r, bring := lateDirectory(t, func(*fakeVault) {})
	r.says("bundle not rendered")
	bring()
	r.await("loaded", loaded("etag-1-0"))
	if n := r.reloads.count(); n != 1 {
		t.Errorf("%d reloads, want 1", n)
	}
	r.fake.change(func() { r.fake.suffix, r.fake.version = "-b", 2 })
	r.await("loaded", loaded("etag-2-0"))
	if n := r.reloads.count(); n != 2 {
		t.Errorf("%d reloads, want 2", n)
	}
}

// The secret of the instance's last process is read as soon as its directory is there.
func TestSecretInALateDirectory(t *testing.T) {
	r, bring := lateDirectory(t, func(f *fakeVault) { f.fail["creds"], f.secret = 400, 10 })
	r.says("vault did not take a request")
	bring()
	r.fake.change(func() { clear(r.fake.fail) })
	r.await("loaded", loaded("etag-1-0"))
	r.fake.mu.Lock()
	defer r.fake.mu.Unlock()
	if r.fake.proofs[0] != "secret-1" {
		t.Errorf("the first read that was served came with %q", r.fake.proofs[0])
	}
}
