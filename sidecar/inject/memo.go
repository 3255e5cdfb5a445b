// SPDX-License-Identifier: Apache-2.0

package inject

import "sync"

// What was found out of a workload is so for its next pod. To write and to read a configuration takes longer than all the rest.
var (
	written memo // configurations, by what is to stand in them
	sound   memo // configurations that the sidecar can read
)

// A memo holds so many bytes of texts at most, and none that is longer than the longest. Both are far more than real workloads need.
const (
	maxKnown    = 1 << 20
	longestKept = 32 << 10
	entryCost   = 128 // bytes of an entry beside its texts
)

// memo remembers texts by texts. When it is full, it forgets some, whichever they are.
type memo struct {
	mu    sync.RWMutex
	known map[string]string
	bytes int
}

func (m *memo) get(key string) (string, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	text, ok := m.known[key]
	return text, ok
}

func (m *memo) set(key, text string) {
	size := cost(key, text)
	if size > longestKept {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = make(map[string]string)
	}
	if was, ok := m.known[key]; ok {
		m.bytes -= cost(key, was)
	}
	m.known[key] = text
	m.bytes += size
	for other, was := range m.known {
		if m.bytes <= maxKnown {
			break
		}
		if other != key {
			delete(m.known, other)
			m.bytes -= cost(other, was)
		}
	}
}

func cost(key, text string) int { return len(key) + len(text) + entryCost }
