// SPDX-License-Identifier: Apache-2.0

// Package watch tells when files that something else renders have changed: Vault Agent, a Kubernetes Secret volume, cp,
// an editor. Events of the file system are hints only: what counts is the content, looked at after each hint and, in
// case hints are lost, every now and then.
package watch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options of a watch; the zero value is good.
type Options struct {
	Stable time.Duration // content must stay the same for so long before it counts; default 200ms
	Poll   time.Duration // looked at without a hint; default 5s
	// Warn hears that hints cannot be had and polling alone is left, and that a file cannot be read.
	Warn func(err error)
	// Started is called when the content at the start has been looked at: changes count from here on.
	Started func()
}

// state is the content of all files at a moment. A file that is missing, empty or cannot be read has none: it is not
// there yet, or not written yet.
type state map[string][sha256.Size]byte

// look gives an error besides the state if a file is there and cannot be read.
func look(paths []string) (state, error) {
	s := state{}
	var errs []error
	for _, path := range paths {
		data, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, fmt.Errorf("watching %s: %w", path, err))
		case len(data) > 0:
			s[path] = sha256.Sum256(data)
		}
	}
	return s, errors.Join(errs...)
}

// whole tells whether every file of an earlier state is there.
func (s state) whole(earlier state) bool {
	for path := range earlier {
		if _, ok := s[path]; !ok {
			return false
		}
	}
	return true
}

// Files calls changed each time that the content of the files has become another one, until ctx ends. It is not called
// for the content at the start, nor while a file that was there is missing or empty, nor while one is being written.
// Trouble with files or events is told to Warn and outlived.
func Files(ctx context.Context, paths []string, o Options, changed func(ctx context.Context)) error {
	o = o.withDefaults()
	hints, end := notifications(paths, o)
	defer end()
	acted, err := look(paths)
	if err != nil {
		return err // a mistake in the configuration, most likely
	}
	if o.Started != nil {
		o.Started()
	}
	seen, since := acted, time.Now()
	timer := time.NewTimer(o.Poll)
	defer timer.Stop()
	warned := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hints:
			// Files are not read more often than this, however many events there are, of whatever file.
			if !pause(ctx, timer, o.Stable/4) {
				return nil
			}
		case <-timer.C:
		}
		now, err := look(paths)
		if err != nil && err.Error() != warned {
			o.Warn(err)
		}
		warned = fmt.Sprint(err)
		if !maps.Equal(now, seen) {
			seen, since = now, time.Now()
		}
		stable := time.Since(since) >= o.Stable
		if stable && !maps.Equal(now, acted) && now.whole(acted) {
			acted = now
			changed(ctx)
		}
		timer.Reset(nextLook(o, maps.Equal(seen, acted), since))
	}
}

// nextLook is when to look without a hint: soon, where a change is to prove stable.
func nextLook(o Options, same bool, since time.Time) time.Duration {
	if wait := o.Stable - time.Since(since); !same && wait > 0 {
		return wait
	}
	return o.Poll
}

// pause waits, and tells whether ctx goes on.
func pause(ctx context.Context, timer *time.Timer, d time.Duration) bool {
	timer.Reset(d)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (o Options) withDefaults() Options {
	if o.Stable == 0 {
		o.Stable = 200 * time.Millisecond
	}
	if o.Poll == 0 {
		o.Poll = 5 * time.Second
	}
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	return o
}

// notifications watches the parent directories, since a file that is replaced is another file. A volume of Kubernetes
// swaps a link beside the files, which is an event of the same directory.
func notifications(paths []string, o Options) (<-chan struct{}, func()) {
	hints := make(chan struct{}, 1)
	hint := func() {
		select {
		case hints <- struct{}{}:
		default:
		}
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		o.Warn(fmt.Errorf("no events of the file system, polling only: %w", err))
		return hints, func() {}
	}
	for _, path := range paths {
		if err := watcher.Add(filepath.Dir(path)); err != nil {
			o.Warn(fmt.Errorf("no events of the file system, polling %s only: %w", path, err))
		}
	}
	go func() {
		for {
			select {
			case _, ok := <-watcher.Events:
				if !ok {
					return
				}
				hint()
			case err, ok := <-watcher.Errors:
				if !ok {
					return
				}
				hint() // events were lost
				if !errors.Is(err, fsnotify.ErrEventOverflow) {
					o.Warn(fmt.Errorf("events of the file system: %w", err))
				}
			}
		}
	}()
	return hints, func() { _ = watcher.Close() }
}
