// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mapped is how much of this program's file is resident, in kB.
func mapped(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return kb
		}
	}
	t.Fatal("no RssFile")
	return 0
}

// touch maps some of the program, and has it resident, as what is needed to start is.
func touch(t *testing.T) {
	t.Helper()
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close() //nolint:errcheck // read only
	const size = 1 << 20
	pages, err := unix.Mmap(int(program.Fd()), 0, size, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(pages) })
	sum := 0
	for at := 0; at < size; at += os.Getpagesize() {
		sum += int(pages[at])
	}
	if sum == 0 {
		t.Fatal("the program holds nothing")
	}
}

// The program continues with fewer pages than it has started with.
func TestRelease(t *testing.T) {
	data, err := os.ReadFile("/proc/self/exe") // its pages are in the kernel's cache; reading maps none
	if err != nil || len(data) == 0 {
		t.Fatal(err)
	}
	touch(t)
	before := mapped(t)
	if err := ReleaseMemory(); err != nil {
		t.Fatal(err)
	}
	if after := mapped(t); after >= before {
		t.Errorf("%d kB of the program were mapped before, %d kB after", before, after)
	}
	if err := os.WriteFile(filepath.Join(t.TempDir(), "x"), data[:100], 0o600); err != nil {
		t.Errorf("the program is not what it was: %v", err)
	}
}

// What of the program was written to, and cannot be any more, stays: so the loader leaves the pointers of a program that may
// stand at any address.
func TestReleaseKeepsWhatWasWritten(t *testing.T) {
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close() //nolint:errcheck // read only
	page, err := unix.Mmap(int(program.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(page) }()
	copy(page, "written")
	if err := unix.Mprotect(page, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	if err := ReleaseMemory(); err != nil {
		t.Fatal(err)
	}
	if got := string(page[:7]); got != "written" {
		t.Errorf("it is %q", got)
	}
}

func TestKeeper(t *testing.T) {
	k := KeepMemorySmall(func(err error) { t.Error(err) })
	defer k.Stop()
	touch(t)
	before := mapped(t)
	k.timer.Reset(time.Millisecond)
	for end := time.Now().Add(20 * time.Second); mapped(t) >= before; {
		if time.Now().After(end) {
			t.Fatal("nothing was released")
		}
	}
}

// Somebody who sets GOGC means it.
func TestSparing(t *testing.T) {
	standard := debug.SetGCPercent(70)
	defer debug.SetGCPercent(standard)
	t.Setenv("GOGC", "200")
	SpareMemory()
	if got := debug.SetGCPercent(70); got != 70 {
		t.Errorf("with GOGC set, it is %d", got)
	}
	t.Setenv("GOGC", "")
	SpareMemory()
	if got := debug.SetGCPercent(70); got != gcPercent {
		t.Errorf("it is %d", got)
	}
}

// It can still read what it needs of itself.
func TestPrivateToOthersOnly(t *testing.T) {
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(before), 0, 0, 0) }()
	if err := Private(); err != nil {
		t.Fatal(err)
	}
	if now, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || now != 0 {
		t.Errorf("it is %d, %v", now, err)
	}
	if err := ReleaseMemory(); err != nil {
		t.Error(err)
	}
}
