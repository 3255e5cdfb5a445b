// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// leftover leaves something beside a file that is named as a temporary file of it and cannot be removed as one.
func leftover(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(filepath.Dir(path), ".hyvve-"+filepath.Base(path)+"~ABCDEFGHIJ"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// What an earlier run has left and cannot be removed stops nothing, and hides no note of a pending reload.
func TestLeftoverThatStays(t *testing.T) {
	dir := t.TempDir()
	first := startAgentIn(t, dir, nil)
	first.await("first", loaded("etag-1-0"))
	first.stop()
	other := render.Target{Format: render.JSON, Path: filepath.Join(t.TempDir(), "other.json"), Mode: 0o600, UID: -1, GID: -1}
	if err := other.Begin(); err != nil {
		t.Fatal(err)
	}
	leftover(t, first.path)
	r := startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.Targets = append(c.Targets, other) })
	r.says("a temporary file of an earlier run stays")
	r.await("loaded", loaded("etag-1-0"))
	if r.reloads.count() != 1 {
		t.Errorf("%d reloads", r.reloads.count())
	}
}

// So it is when another configuration comes.
func TestLeftoverThatStaysAtAnotherConfiguration(t *testing.T) {
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	another := render.Target{Format: render.JSON, Path: filepath.Join(t.TempDir(), "another.json"), Mode: 0o600, UID: -1, GID: -1}
	r.reconfigure(func(c *Config) { c.Targets = append(c.Targets, another) })
	first := render.Target{Format: render.JSON, Path: r.path}
	r.holds("two reloads, and their notes gone", func() bool {
		return r.reloads.count() == 2 && !first.ReloadPending() && !another.ReloadPending()
	})
	if err := another.Begin(); err != nil {
		t.Fatal(err)
	}
	leftover(t, r.path)
	r.reconfigure(func(c *Config) { c.Targets = append(c.Targets, another) })
	r.holds("three reloads", func() bool { return r.reloads.count() == 3 })
}
