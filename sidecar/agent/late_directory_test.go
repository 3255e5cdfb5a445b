// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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

// Temporary files of the process before are removed as soon as their directory is there; what stays is warned of once.
func TestTemporaryFilesInALateDirectory(t *testing.T) {
	r, bring := lateDirectory(t, func(*fakeVault) {})
	r.says("bundle not rendered")
	left := ".hyvve-secrets.json~0123456789"
	if err := os.WriteFile(filepath.Join(r.dir, "away", left), []byte(canary), 0o600); err != nil {
		t.Fatal(err)
	}
	leftover(t, filepath.Join(r.dir, "away", "secrets.json"))
	if strings.Contains(r.log.String(), "a temporary file") {
		t.Errorf("log:\n%s", r.log)
	}
	bring()
	r.await("loaded", loaded("etag-1-0"))
	if _, err := os.Stat(filepath.Join(r.dir, "files", left)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary file: %v", err)
	}
	r.fake.change(func() { r.fake.suffix, r.fake.version = "-b", 2 })
	r.await("loaded", loaded("etag-2-0"))
	if n := strings.Count(r.log.String(), "a temporary file of an earlier run stays"); n != 1 {
		t.Errorf("%d warnings, want 1; log:\n%s", n, r.log)
	}
}
