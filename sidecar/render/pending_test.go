// SPDX-License-Identifier: Apache-2.0

package render

import (
	"path/filepath"
	"testing"
)

// A reload that is pending for one file is neither pending nor ended for another in the same directory, which may be another
// sidecar's.
func TestOwedInOneDirectory(t *testing.T) {
	dir := t.TempDir()
	one := Target{Format: JSON, Path: filepath.Join(dir, "one.json"), Mode: 0o600, UID: -1, GID: -1}
	two := one
	two.Path = filepath.Join(dir, "two.json")
	if err := put([]Target{one}, "value"); err != nil {
		t.Fatal(err)
	}
	if !one.ReloadPending() || two.ReloadPending() {
		t.Errorf("pending for the one: %v, for the other: %v", one.ReloadPending(), two.ReloadPending())
	}
	if err := two.End(); err != nil || !one.ReloadPending() {
		t.Errorf("the other has ended it: %v", err)
	}
	if err := one.End(); err != nil || one.ReloadPending() {
		t.Errorf("it is pending still: %v", err)
	}
}
