// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

// maxLinks is how many symbolic links a path may lead through, as in the kernel.
const maxLinks = 40

// node is what a path stands for at a moment: a directory that was put in the place of another is another.
type node struct{ device, inode uint64 }

// hinter tells that something may have changed. Events of directories are what it goes by: a file that is replaced is
// another file. It follows the directories that matter as these are removed, replaced and made again.
type hinter struct {
	paths   []string
	warn    func(error)
	hints   chan struct{}
	watcher *fsnotify.Watcher // nil: there are no events, and polling alone is left
	watched map[string]node
	failed  map[string]string // what cannot be watched, and why
}

func newHinter(paths []string, warn func(error)) *hinter {
	paths = slices.Clone(paths)
	for n, path := range paths {
		if abs, err := filepath.Abs(path); err == nil {
			paths[n] = abs
		}
	}
	return &hinter{paths: paths, warn: warn, hints: make(chan struct{}, 1), watched: map[string]node{}, failed: map[string]string{}}
}

func (h *hinter) close() {
	if h.watcher != nil {
		_ = h.watcher.Close()
	}
}

// follow sees to it that whatever the paths lead through is watched. What cannot be is said once, and tried again the
// next time. It comes before the files are looked at: what changes after that look is an event.
func (h *hinter) follow() {
	if h.watcher == nil && !h.start() {
		return
	}
	wanted := map[string]node{}
	for _, path := range h.paths {
		for _, dir := range through(path) {
			wanted[dir] = identity(dir)
		}
	}
	for dir, was := range h.watched {
		if now, ok := wanted[dir]; !ok || now != was {
			_ = h.watcher.Remove(dir) // it may be gone already, and its watch with it
			delete(h.watched, dir)
		}
	}
	for dir, is := range wanted {
		if _, ok := h.watched[dir]; ok || is == (node{}) {
			continue
		}
		err := h.watcher.Add(dir)
		if err == nil && identity(dir) == is {
			h.watched[dir] = is
		}
		h.say(dir, err)
	}
	maps.DeleteFunc(h.failed, func(dir, _ string) bool {
		_, ok := wanted[dir]
		return dir != "" && !ok
	})
}

// start makes a watcher; the kernel may have no more to give just now.
func (h *hinter) start() bool {
	watcher, err := fsnotify.NewWatcher()
	h.say("", err)
	if err != nil {
		return false
	}
	h.watcher = watcher
	go h.pass(watcher)
	return true
}

// say warns of what cannot be watched, unless that was said already.
func (h *hinter) say(dir string, err error) {
	if err == nil || errors.Is(err, os.ErrNotExist) { // it is gone again: its parent tells when it is back
		delete(h.failed, dir)
		return
	}
	if h.failed[dir] == err.Error() {
		return
	}
	h.failed[dir] = err.Error()
	what := dir
	if dir == "" {
		what = strings.Join(h.paths, ", ")
	}
	remedy := ""
	switch {
	case errors.Is(err, syscall.ENOSPC):
		remedy = " (the user has no watches left: raise fs.inotify.max_user_watches)"
	case errors.Is(err, syscall.EMFILE):
		remedy = " (no instances or files are left: raise fs.inotify.max_user_instances, or the limit of open files)"
	}
	h.warn(fmt.Errorf("no events of the file system, polling only: %s: %w%s", what, err, remedy))
}

// pass makes hints of events, however many there are, and of news that some were lost.
func (h *hinter) pass(watcher *fsnotify.Watcher) {
	for {
		select {
		case _, ok := <-watcher.Events:
			if !ok {
				return
			}
		case err, ok := <-watcher.Errors:
			if !ok {
				return
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				h.warn(fmt.Errorf("events of the file system: %w", err))
			}
		}
		select {
		case h.hints <- struct{}{}:
		default: // one is waiting already
		}
	}
}

// identity is zero where there is nothing.
func identity(dir string) node {
	info, err := os.Stat(dir)
	if err != nil {
		return node{}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return node{}
	}
	return node{uint64(stat.Dev), stat.Ino} //nolint:unconvert // not of the same type everywhere
}

// through returns the directories in which a change can make a path lead to other content: that of the file, those of
// symbolic links on the way to it, such as ..data of a Kubernetes volume, and where something is missing, the last that
// is there.
func through(path string) []string {
	rest, at := names(path), "/"
	var dirs []string
	add := func() {
		if !slices.Contains(dirs, at) {
			dirs = append(dirs, at)
		}
	}
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil || len(rest) == 0 {
			add()
		}
		if err != nil {
			return dirs
		}
		if info.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		add()
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return dirs
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = slices.Concat(names(target), rest)
	}
	return dirs
}

func names(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}
