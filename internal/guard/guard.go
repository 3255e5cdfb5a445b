// SPDX-License-Identifier: Apache-2.0

// Package guard keeps a value that is reached only under its lock.
package guard

import "sync"

// Guarded is a value and its lock.
type Guarded[T any] struct {
	mu    sync.Mutex
	value *T
}

// New returns a guarded value. The caller keeps no reference to it.
func New[T any](value *T) *Guarded[T] { return &Guarded[T]{value: value} }

// Lock takes the lock, and returns the value and the function that releases it.
func (g *Guarded[T]) Lock() (value *T, unlock func()) {
	g.mu.Lock()
	return g.value, g.mu.Unlock
}

// Do calls do under the lock.
func (g *Guarded[T]) Do(do func(*T)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	do(g.value)
}
