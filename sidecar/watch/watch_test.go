// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// start watches, and returns the channel of changes and of those without one.
func start(t *testing.T, paths ...string) <-chan struct{} {
	t.Helper()
	return startWith(t, Options{Stable: 20 * time.Millisecond, Poll: 50 * time.Millisecond}, paths...)
}

// byEvents watches without polling in the time that a test has.
func byEvents(t *testing.T, paths ...string) <-chan struct{} {
	t.Helper()
	return startWith(t, Options{Stable: 20 * time.Millisecond, Poll: time.Hour}, paths...)
}

func startWith(t *testing.T, o Options, paths ...string) <-chan struct{} {
	t.Helper()
	changes := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	started := make(chan struct{})
	go func() {
		o.Started = func() { close(started) }
		done <- Files(ctx, paths, o, func(context.Context) { changes <- struct{}{} })
	}()
	<-started
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return changes
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, changes <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-changes:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: no change was seen", what)
	}
}

func TestReplacedAndRewrittenFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, ".env")
	write(t, path, "A=1")
	changes := start(t, path)
	write(t, path, "A=2")
	expect(t, changes, "rewritten")
	write(t, filepath.Join(dir, "new"), "A=3")
	if err := os.Rename(filepath.Join(dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	expect(t, changes, "renamed into place")
	write(t, path, "A=3") // the same content: no change
	write(t, filepath.Join(dir, "unrelated"), "x")
	write(t, path, "A=4")
	expect(t, changes, "rewritten again")
	if n := len(changes); n != 0 {
		t.Errorf("%d changes without a change of content", n)
	}
}

func TestMissingFileIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "late")
	changes := start(t, path)
	write(t, path, "here")
	expect(t, changes, "file appeared")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "here again")
	expect(t, changes, "file came back with other content")
}

// A writer that truncates first, and takes its time, is waited for.
func TestTruncatedFileIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".env")
	write(t, path, "A=1")
	changes := start(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-changes:
		t.Error("an empty file is taken for a change")
	case <-time.After(150 * time.Millisecond): // many times what counts as stable
	}
	if _, err := f.WriteString("A=2"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, changes, "written at last")
}

// Other files of the directory may change without end: ours are seen all the same.
func TestChangeAmidManyEvents(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, ".env")
	write(t, path, "A=1")
	changes := start(t, path)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.WriteFile(filepath.Join(dir, "noise"), []byte("x"), 0o600)
			}
		}
	}()
	write(t, path, "A=2")
	expect(t, changes, "amid noise")
	close(stop)
	<-stopped
	if n := len(changes); n != 0 {
		t.Errorf("%d changes without a change of content", n)
	}
}

// A file that was never there keeps nobody waiting for the others; one that cannot be read ends nothing.
func TestOthersGoOn(t *testing.T) {
	dir := t.TempDir()
	path, never := filepath.Join(dir, "a"), filepath.Join(dir, "never")
	write(t, path, "1")
	changes := start(t, path, never)
	write(t, path, "2")
	expect(t, changes, "changed beside a missing file")
	if err := os.Mkdir(never, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, "3")
	expect(t, changes, "changed beside an unreadable file")
}

func TestStartWithAFolderIsRefused(t *testing.T) {
	if err := Files(t.Context(), []string{t.TempDir()}, Options{}, nil); err == nil {
		t.Error("a folder is followed as if it were a file")
	}
}
