// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// A disk that is full, and a directory that is read-only: the last good file stays as it is, the workload is not touched,
// the engine hears why, and once the fault is gone the agent continues by itself.
func TestFilesThatCannotBeWritten(t *testing.T) {
	if !kit.Apart(t) {
		return
	}
	remount := func(dir string, flags uintptr, options string) {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, options); err != nil {
			t.Fatal(err)
		}
	}
	for name, fault := range map[string]struct {
		begin, end func(dir string)
		reason     string
	}{
		"disk full": {
			begin: func(dir string) {
				if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 200_000), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			end:    func(dir string) { _ = os.Remove(filepath.Join(dir, "ballast")) },
			reason: "no space left on device",
		},
		"read-only": {
			begin:  func(dir string) { remount(dir, unix.MS_RDONLY, "") },
			end:    func(dir string) { remount(dir, 0, "") },
			reason: "read-only file system",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size=256k"); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // its namespace ends with the process
			r := startAgentIn(t, dir, nil)
			r.await("first", loaded("etag-1-0"))
			fault.begin(dir)
			r.fake.change(func() { r.fake.version, r.fake.suffix = 2, strings.Repeat("x", 100_000) })
			for range 2 { // it is tried again
				report := r.await(fault.reason, unhealthy(fault.reason))
				if text := fmt.Sprint(report); strings.Contains(text, canary) || report["etag"] == "etag-2-0" {
					t.Error("the report holds a value, or says that what was never written is loaded")
				}
			}
			if !strings.Contains(r.file(), canary+"-1") || r.reloads.count() != 1 {
				t.Errorf("the last good file is gone, or there were %d reloads", r.reloads.count())
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if strings.HasPrefix(entry.Name(), ".hyvve-") {
					t.Errorf("%s is left", entry.Name())
				}
			}
			fault.end(dir)
			r.await("second", loaded("etag-2-0"))
			if !strings.Contains(r.file(), canary+"-2") || r.reloads.count() != 2 {
				t.Errorf("%d reloads", r.reloads.count())
			}
			if strings.Contains(r.log.String(), "rendered on a disk") {
				t.Error("a directory in memory is warned of")
			}
		})
	}
}

// A directory that is on a disk is warned of, once.
func TestDirectoryOnADisk(t *testing.T) {
	dir := t.TempDir()
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	want := 1
	if stat.Type == unix.TMPFS_MAGIC { // where the machine keeps its temporary files in memory
		want = 0
	}
	r := startAgentIn(t, dir, nil)
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	if warnings := strings.Count(r.log.String(), "rendered on a disk"); warnings != want {
		t.Errorf("warned %d times, want %d", warnings, want)
	}
}
