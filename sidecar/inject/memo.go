// SPDX-License-Identifier: Apache-2.0

package inject

import "sync"

// What was found out of a workload is so for its next pod. To write and to read a configuration takes longer than all the rest.
var (
	written memo // configurations, by what is to stand in them
	sound   memo // configurations that the sidecar can read
)

const mostKnown = 1000

// memo remembers texts by texts, and begins anew instead of growing for ever.
type memo struct {
	mu    sync.RWMutex
	known map[string]string
}

func (m *memo) get(key string) (string, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	text, ok := m.known[key]
	return text, ok
}

func (m *memo) set(key, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= mostKnown {
		m.known = make(map[string]string)
	}
	m.known[key] = text
}
