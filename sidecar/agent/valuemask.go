// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"slices"
	"sync"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/mask"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// maxHanded is how many contents that the workload was handed and is not known to have loaded are masked: the newest.
const maxHanded = 16

// valueMask masks values that the workload may use: those of the newest content, and of all that it was handed since the content that it
// had loaded before the last one that it loaded. A reload that fails may have loaded a content, or a part of it. Any goroutine may
// use it. The zero value masks nothing.
type valueMask struct {
	mu       sync.Mutex
	contents [][]key.Value // the newest last
	loaded   int           // which of them was loaded last
	made     *mask.Mask    // of all of them; nil: is to be made
}

// hold makes a content the newest, if it is another one.
func (m *valueMask) hold(content []key.Value) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last := len(m.contents) - 1; last >= 0 && slices.EqualFunc(m.contents[last], content, key.Value.Equal) {
		return
	}
	m.contents, m.made = append(m.contents, content), nil
	if handed := m.loaded + 1; len(m.contents)-handed > maxHanded {
		m.contents = slices.Delete(m.contents, handed, handed+1)
	}
}

// load notes that the workload has loaded the newest content.
func (m *valueMask) load() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last := len(m.contents) - 1; last > m.loaded {
		m.contents, m.loaded, m.made = slices.Clone(m.contents[m.loaded:]), last-m.loaded, nil
	}
}

// mask returns a text in which the values are masked.
func (m *valueMask) mask(text string) string {
	if text == "" {
		return ""
	}
	m.mu.Lock()
	if m.made == nil {
		made := mask.New(variables.Reveal(slices.Concat(m.contents...))...)
		m.made = &made
	}
	made := *m.made
	m.mu.Unlock()
	return made.Text(text)
}

// maskError returns an error in whose text the values are masked; nil for nil.
func (m *valueMask) maskError(err error) error {
	if err == nil {
		return nil
	}
	return maskedError{m.mask(err.Error()), err}
}

// maskedError is an error with a text in which values are masked.
type maskedError struct {
	text string
	err  error
}

func (e maskedError) Error() string { return e.text }

// Unwrap returns the error as it was.
func (e maskedError) Unwrap() error { return e.err }

// valuesOf returns the values of a bundle, always in the same order.
func valuesOf(b client.Bundle) (all []key.Value) {
	for _, name := range slices.Sorted(maps.Keys(b.Values)) {
		all = append(all, b.Values[name])
	}
	for _, name := range slices.Sorted(maps.Keys(b.Accepts)) {
		all = append(all, b.Accepts[name]...)
	}
	return all
}
