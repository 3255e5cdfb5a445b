// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// mounted is a directory with a file system of its own.
func mounted(t *testing.T, kind, options string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "place")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// two are targets in one directory each, that hold a value of n bytes.
func two(t *testing.T, first, second string) []Target {
	t.Helper()
	return []Target{
		{Format: Dotenv, Path: filepath.Join(first, ".env"), Mode: 0o600, UID: -1, GID: -1},
		{Format: JSON, Path: filepath.Join(second, "x.json"), Mode: 0o640, UID: -1, GID: -1},
	}
}

func put(targets []Target, value string) error {
	c, err := Prepare(targets, bundle(map[string]string{"A": value}))
	if err != nil {
		return err
	}
	defer c.Discard()
	if err := c.Note(); err != nil {
		return err
	}
	_, err = c.Commit()
	return err
}

// holds checks that all targets have a value and their modes, and that nothing else is in their directories.
func holds(t *testing.T, targets []Target, value string) {
	t.Helper()
	for _, target := range targets {
		data, err := os.ReadFile(target.Path)
		if err != nil || !strings.Contains(string(data), value) {
			t.Errorf("%s holds %.40q, %v; want %.40q", target.Path, data, err, value)
		}
		info, err := os.Stat(target.Path)
		if err != nil || info.Mode() != target.Mode {
			t.Errorf("%s: %v, %v", target.Path, info, err)
		}
		entries, err := os.ReadDir(target.dir())
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if name := entry.Name(); name != filepath.Base(target.Path) && name != target.pending() && name != "ballast" {
				t.Errorf("%s is left in %s", name, target.dir())
			}
		}
	}
}

// A disk that is full for one of two files changes neither of them, and leaves nothing behind.
func TestDiskFull(t *testing.T) {
	if !kit.Apart(t) {
		return
	}
	small := mounted(t, "tmpfs", "size=64k")
	targets := two(t, mounted(t, "tmpfs", ""), small)
	before, after := strings.Repeat("a", 20_000), strings.Repeat("b", 30_000)
	if err := put(targets, before); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(small, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 20_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := put(targets, after); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), targets[1].Path) || strings.Contains(err.Error(), "aaa") {
			t.Errorf("error is %v", err)
		}
		holds(t, targets, before)
	}
	if err := errors.Join(os.Remove(ballast), put(targets, after)); err != nil {
		t.Error(err)
	}
	holds(t, targets, after)
}

func TestNoInodeLeft(t *testing.T) {
	if !kit.Apart(t) {
		return
	}
	dir := mounted(t, "tmpfs", "nr_inodes=4") // the directory, the file, the note, the new file
	targets := []Target{{Format: JSON, Path: filepath.Join(dir, "x.json"), Mode: 0o600, UID: -1, GID: -1}}
	if err := put(targets, "first"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(targets[0].End(), os.WriteFile(filepath.Join(dir, "ballast"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := put(targets, "second"); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "writing the note .reload-pending-") {
		t.Errorf("error is %v", err)
	}
	holds(t, targets, "first")
	if err := errors.Join(os.Remove(filepath.Join(dir, "ballast")), put(targets, "second")); err != nil {
		t.Error(err)
	}
	holds(t, targets, "second")
}

func TestReadOnlyDirectory(t *testing.T) {
	if !kit.Apart(t) {
		return
	}
	fixed := mounted(t, "tmpfs", "")
	targets := two(t, mounted(t, "tmpfs", ""), fixed)
	if err := put(targets, "first"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", fixed, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := put(targets, "second"); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), targets[1].Path) {
		t.Errorf("error is %v", err)
	}
	if err := put(targets, "first"); err != nil {
		t.Errorf("what is as it should be needs no writing, and yet: %v", err)
	}
	holds(t, targets, "first")
	if err := unix.Mount("", fixed, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if err := put(targets, "second"); err != nil {
		t.Error(err)
	}
	holds(t, targets, "second")
}

// A directory that becomes read-only between the two halves keeps its file; what was written beside it goes at the next
// start.
func TestReadOnlyFromThenOn(t *testing.T) {
	if !kit.Apart(t) {
		return
	}
	fixed := mounted(t, "tmpfs", "")
	targets := two(t, fixed, fixed)
	if err := put(targets, "first"); err != nil {
		t.Fatal(err)
	}
	c, err := Prepare(targets, bundle(map[string]string{"A": "second"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", fixed, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if changed, err := c.Commit(); changed || !errors.Is(err, unix.EROFS) {
		t.Errorf("changed %v, %v", changed, err)
	}
	c.Discard()
	if err := unix.Mount("", fixed, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if err := target.Clean(); err != nil {
			t.Fatal(err)
		}
	}
	targets[1].Path = targets[0].Path                                       // both are in one directory, where holds would take one for a leftover of the other
	if entries, err := os.ReadDir(fixed); err != nil || len(entries) != 4 { // two files, and a note for each
		t.Errorf("%d entries besides, %v", len(entries), err)
	}
}

// No file can be opened: nothing changes, and once there are some again, it continues.
func TestTooManyOpenFiles(t *testing.T) {
	if !kit.Apart(t) {
		return
	}
	dir := mounted(t, "tmpfs", "")
	targets := two(t, dir, mounted(t, "tmpfs", ""))
	if err := put(targets, "first"); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	used, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	done := false
	for n := uint64(len(used)) - 1; !done && n < uint64(len(used))+20; n++ { // at each place where one may be opened
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
		err := put(targets, "second")
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		switch {
		case err == nil:
			done = true
		case errors.Is(err, unix.EMFILE):
			holds(t, targets, "first")
		default:
			t.Errorf("error is %v", err)
		}
	}
	if !done {
		t.Error("it was never written")
	}
	holds(t, targets, "second")
}

func TestDirectoriesInMemory(t *testing.T) {
	if !kit.Apart(t) {
		return
	}
	targets := two(t, mounted(t, "tmpfs", ""), mounted(t, "ramfs", ""))
	targets = append(targets, two(t, "/proc", "/proc")...) // of no disk either, but not known to be in memory
	targets = append(targets, Target{Format: Files, Path: "/nowhere"})
	if got := OnDisk(targets); !slices.Equal(got, []string{"/proc"}) {
		t.Errorf("on disk are %v", got)
	}
}

// Killed between two files, the next start brings both to the same bundle, and knows that a reload is pending.
func TestKilledBetweenTwoFiles(t *testing.T) {
	base := kit.Told()
	inside := base != ""
	if !inside {
		base = t.TempDir()
	}
	targets := two(t, filepath.Join(base, "1"), filepath.Join(base, "2"))
	if inside {
		committed = func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }
		t.Fatal(put(targets, "second"))
	}
	for _, target := range targets {
		if err := os.Mkdir(target.dir(), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(targets, "first"); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if err := target.End(); err != nil || target.ReloadPending() {
			t.Fatal(err)
		}
	}
	cmd := kit.Again(t, base, 0)
	output, _ := cmd.CombinedOutput()
	if status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Fatalf("it was not killed: %s", output)
	}
	if data, _ := os.ReadFile(targets[1].Path); !strings.Contains(string(data), "first") {
		t.Fatalf("it was not killed between the two: %s", data)
	}
	for _, target := range targets {
		if err := target.Clean(); err != nil || !target.ReloadPending() {
			t.Errorf("%s: a reload is pending: %v, %v", target.Path, target.ReloadPending(), err)
		}
	}
	if err := put(targets, "second"); err != nil {
		t.Fatal(err)
	}
	holds(t, targets, "second")
}

// An attacker swaps a directory, below one that everybody may write to, for a link to somebody else's: as often as it
// is hit, the secret never lands there.
func TestSymlinkRace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the attacker must be another user, which only root can have: run this test as root")
	}
	base := t.TempDir()
	shared, victim := filepath.Join(base, "shared"), filepath.Join(base, "victim")
	if err := errors.Join(os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777), os.Mkdir(victim, 0o700), os.Mkdir(filepath.Join(shared, "ours"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for dir := base; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const attacker = 65534
	var stop atomic.Bool
	var swaps atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread, which is another user's from here on, ends
		if before, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, attacker, 0, 0); before != 0 {
			return
		}
		for n := 0; !stop.Load(); n++ {
			link := filepath.Join(shared, fmt.Sprint("link", n%4))
			_ = os.Symlink(victim, link)
			if unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, filepath.Join(shared, "ours"), unix.RENAME_EXCHANGE) == nil {
				swaps.Add(1)
			}
			_ = os.Remove(link)
		}
	}()
	target := Target{Format: Dotenv, Path: filepath.Join(shared, "ours", ".env"), Mode: 0o600, UID: -1, GID: -1}
	refused := 0
	for n := 0; n < 20_000 && (n < 2000 || swaps.Load() < 200 || refused == 0); n++ {
		if _, err := target.Write(bundle(map[string]string{"A": fmt.Sprint(n)})); err != nil {
			if strings.Contains(err.Error(), "belongs to another user") {
				refused++
			} else if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
				t.Fatal(err)
			}
		}
	}
	stop.Store(true)
	<-ended
	if entries, err := os.ReadDir(victim); err != nil || len(entries) > 0 {
		t.Errorf("the victim's directory holds %v, %v", entries, err)
	}
	if swaps.Load() == 0 || refused == 0 {
		t.Errorf("%d swaps, %d of them met: nothing is proved", swaps.Load(), refused)
	}
	t.Logf("%d swaps, %d writes refused", swaps.Load(), refused)
}

// A link on the way that is ours or root's is followed, as /var/run is; one that everybody could have made is not.
func TestLinksOnTheWay(t *testing.T) {
	base := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(base, "real"), 0o700), os.Symlink("real", filepath.Join(base, "relative")),
		os.Symlink(filepath.Join(base, "relative"), filepath.Join(base, "absolute")), os.Symlink("loop", filepath.Join(base, "loop")),
		os.Symlink("../"+filepath.Base(base)+"/real", filepath.Join(base, "up"))); err != nil {
		t.Fatal(err)
	}
	write := func(way string) error {
		target := Target{Format: Dotenv, Path: filepath.Join(base, way, ".env"), Mode: 0o600, UID: -1, GID: -1}
		_, err := target.Write(bundle(map[string]string{"A": way}))
		return err
	}
	for _, way := range []string{"real", "relative", "absolute", "up"} {
		if err := write(way); err != nil {
			t.Error(err)
		}
		if data, _ := os.ReadFile(filepath.Join(base, "real", ".env")); string(data) != "A="+way+"\n" {
			t.Errorf("%s: %s", way, data)
		}
	}
	if err := write("loop"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("error is %v", err)
	}
	if err := write("nowhere"); err == nil || !strings.Contains(err.Error(), "make it before the sidecar starts, or set make_directory") {
		t.Errorf("error is %v", err)
	}
	before := strange
	defer func() { strange = before }()
	strange = func(uint32) bool { return true } // everything is somebody else's
	if err := write("relative"); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("error is %v", err)
	}
}
