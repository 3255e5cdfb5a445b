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
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options of a watch; the zero value is good.
type Options struct {
	Stable time.Duration // content must stay the same for so long before it counts; default 200ms
	Poll   time.Duration // looked at without a hint; default 5s
	// Warn hears that hints cannot be had and polling alone is left.
	Warn func(err error)
	// Started is called when the content at the start has been looked at: changes count from here on.
	Started func()
}

// state is the content of all files at a moment; missing files have none.
type state map[string][sha256.Size]byte

func look(paths []string) (state, error) {
	s := state{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("watching %s: %w", path, err)
		}
		s[path] = sha256.Sum256(data)
	}
	return s, nil
}

func (s state) equal(other state) bool {
	if len(s) != len(other) {
		return false
	}
	for path, sum := range s {
		if have, ok := other[path]; !ok || have != sum {
			return false
		}
	}
	return true
}

// Files calls changed each time that the content of the files has become another one, until ctx ends. It is not called
// for the content at the start, nor while a file is missing or still being written.
func Files(ctx context.Context, paths []string, o Options, changed func(ctx context.Context)) error {
	if o.Stable == 0 {
		o.Stable = 200 * time.Millisecond
	}
	if o.Poll == 0 {
		o.Poll = 5 * time.Second
	}
	hints, end := notifications(paths, o)
	defer end()
	acted, err := look(paths)
	if err != nil {
		return err
	}
	seen := acted
	if o.Started != nil {
		o.Started()
	}
	timer := time.NewTimer(o.Poll)
	defer timer.Stop()
	for {
		wait := o.Poll
		if !seen.equal(acted) {
			wait = o.Stable
		}
		timer.Reset(wait)
		hinted := false
		select {
		case <-ctx.Done():
			return nil
		case <-hints:
			hinted = true
		case <-timer.C:
		}
		now, err := look(paths)
		if err != nil {
			return err
		}
		stable := now.equal(seen) && !hinted
		seen = now
		if stable && !now.equal(acted) && len(now) == len(paths) {
			acted = now
			changed(ctx)
		}
	}
}

// notifications watches the parent directories, since a file that is replaced is another file. A volume of Kubernetes
// swaps a link beside the files, which is an event of the same directory.
func notifications(paths []string, o Options) (<-chan struct{}, func()) {
	hints := make(chan struct{}, 1)
	warn := func(err error) {
		if o.Warn != nil && err != nil {
			o.Warn(err)
		}
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		warn(err)
		return hints, func() {}
	}
	for _, path := range paths {
		warn(watcher.Add(filepath.Dir(path)))
	}
	go func() {
		for {
			select {
			case _, ok := <-watcher.Events:
				if !ok {
					return
				}
				select {
				case hints <- struct{}{}:
				default:
				}
			case err, ok := <-watcher.Errors:
				if !ok {
					return
				}
				warn(err)
			}
		}
	}()
	return hints, func() { _ = watcher.Close() }
}
