// SPDX-License-Identifier: Apache-2.0

// Package watch tells when files that something else renders have changed: Vault Agent, a Kubernetes Secret volume, cp,
// an editor. Events of the file system are hints only: what counts is the content, looked at after each hint and, in
// case hints are lost, periodically.
package watch

import (
	"context"
	"maps"
	"time"
)

// Options of a watch; the zero value is good.
type Options struct {
	Stable time.Duration // content must stay the same for so long before it counts; default 200ms
	Poll   time.Duration // looked at without a hint; default 5s
	// Valid, if there is one, must take the content of each file before any change is acted on.
	Valid Validator
	// Warn hears that hints cannot be had and polling alone is left, and that a file cannot be read.
	Warn func(err error)
	// Started is called when the content at the start has been looked at: changes count from here on.
	Started func()
}

// Files calls changed each time that the content of the files has become another one, until ctx ends. It is not called
// for the content at the start, nor while a file that was there is missing or empty, nor while one is being written.
// On trouble with files or events, Files calls Warn and continues.
func Files(ctx context.Context, paths []string, o Options, changed func(ctx context.Context)) error {
	o = o.withDefaults()
	h := newHinter(paths, o.Warn)
	defer h.close()
	h.follow()
	acted, _, err := look(paths, nil)
	if err != nil {
		return err // a mistake in the configuration, most likely
	}
	if o.Started != nil {
		o.Started()
	}
	seen, since := acted, time.Now()
	timer := time.NewTimer(o.Poll)
	defer timer.Stop()
	warned := warner{warn: o.Warn}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.hints:
			// Files are not read more often than this, however many events there are, of whatever file.
			if !pause(ctx, timer, o.Stable/4) {
				return nil
			}
		case <-timer.C:
		}
		h.follow()
		now, invalid, err := look(paths, o.Valid)
		warned.of(0, err)
		if !maps.Equal(now, seen) {
			seen, since = now, time.Now()
		}
		stable := time.Since(since) >= o.Stable
		if stable && !maps.Equal(now, acted) && now.whole(acted) {
			if warned.of(1, invalid); invalid == nil {
				acted = now
				changed(ctx)
			}
		}
		timer.Reset(nextLook(o, maps.Equal(seen, acted), since))
	}
}

// warner says things once, until they are otherwise.
type warner struct {
	warn func(error)
	said [2]string
}

func (w *warner) of(what int, err error) {
	if err == nil {
		w.said[what] = ""
	} else if w.said[what] != err.Error() {
		w.said[what] = err.Error()
		w.warn(err)
	}
}

// nextLook is when to look without a hint: soon, where a change is to prove stable.
func nextLook(o Options, same bool, since time.Time) time.Duration {
	if wait := o.Stable - time.Since(since); !same && wait > 0 {
		return wait
	}
	return o.Poll
}

// pause waits, and reports whether ctx is still alive.
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
