// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNewerThan(t *testing.T) {
	dir := t.TempDir()
	target := Target{Format: Files, Path: dir, Mode: 0o600, UID: -1, GID: -1}
	b := bundle(map[string]string{"A": "1", "B": "2", "C": "3"})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	put := func(name, content string, written time.Time) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, written, written)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string) {
		t.Helper()
		if got, err := target.NewerThan(at, b); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	check("")
	put("A", "1", at.Add(time.Hour)) // newer, and the same
	put("B", "0", at.Add(-time.Second))
	put("D", "9", at.Add(time.Hour)) // none of ours
	check("")
	put("B", "0", at.Add(time.Second))
	check(filepath.Join(dir, "B"))
}
