// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
)

var (
	errCrashed = errors.New("simulated: the process is gone")
	errStore   = errors.New("simulated: storage failed")
)

// disk is what storage holds. It survives every crash.
type disk struct {
	data  map[string][]byte
	paths []string // of data, sorted
}

func (d *disk) put(path string, data []byte) {
	if _, ok := d.data[path]; !ok {
		at, _ := slices.BinarySearch(d.paths, path)
		d.paths = slices.Insert(d.paths, at, path)
	}
	d.data[path] = slices.Clone(data)
}

func (d *disk) remove(path string) {
	if _, ok := d.data[path]; ok {
		at, _ := slices.BinarySearch(d.paths, path)
		d.paths = slices.Delete(d.paths, at, at+1)
		delete(d.data, path)
	}
}

// node is one life of the engine's process: its handle on storage. A dead node reaches nothing any more.
type node struct {
	w      *world
	dead   bool
	writes int
}

var _ engine.Store = (*node)(nil)

// write makes one write, or crashes before or after it, or fails with or without its taking effect.
func (n *node) write(what string, do func()) error {
	if n.dead {
		return errCrashed
	}
	n.writes++
	switch f := n.w.fault(); f {
	case crashBefore, crashAfter:
		if f == crashAfter {
			do()
		}
		n.w.logf("crash %s write of %s", f, what)
		n.dead = true
		return errCrashed
	case failBefore, failAfter:
		if f == failAfter {
			do()
		}
		n.w.logf("failure %s write of %s", f, what)
		return errStore
	case noFault:
	}
	do()
	return nil
}

// Get implements rotation.Store.
func (n *node) Get(_ context.Context, path string) ([]byte, error) {
	if n.dead {
		return nil, errCrashed
	}
	return n.w.disk.data[path], nil
}

// Put implements rotation.Store.
func (n *node) Put(_ context.Context, path string, data []byte) error {
	return n.write(path, func() { n.w.disk.put(path, data) })
}

// Delete implements rotation.Store.
func (n *node) Delete(_ context.Context, path string) error {
	return n.write(path, func() { n.w.disk.remove(path) })
}

// List implements rotation.Store.
func (n *node) List(_ context.Context, prefix string) ([]string, error) {
	if n.dead {
		return nil, errCrashed
	}
	var names []string
	paths := n.w.disk.paths
	at, _ := slices.BinarySearch(paths, prefix)
	for ; at < len(paths) && strings.HasPrefix(paths[at], prefix); at++ {
		rest := paths[at][len(prefix):]
		if dir, _, nested := strings.Cut(rest, "/"); nested {
			rest = dir + "/"
		}
		if len(names) == 0 || names[len(names)-1] != rest {
			names = append(names, rest)
		}
	}
	return names, nil
}

// fault is what goes wrong with a write or with a call.
type fault string

const (
	noFault     fault = ""
	crashBefore fault = "before" // the process dies, and nothing happened
	crashAfter  fault = "after"  // the process dies, and it happened
	failBefore  fault = "without effect"
	failAfter   fault = "with effect" // a lost reply
)

// fault draws what goes wrong with a write or call of the engine.
func (w *world) fault() fault {
	if w.calm {
		return noFault
	}
	switch n := w.rng.IntN(400); {
	case n < 2:
		return crashBefore
	case n < 4:
		return crashAfter
	case n < 6:
		return failBefore
	case n < 8:
		return failAfter
	}
	return noFault
}
