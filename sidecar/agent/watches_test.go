// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
)

// A watch that the engine has ended with retry_after begins again after between half of it and all of it.
func TestWatchComesBackLaterWhenAsked(t *testing.T) {
	const after = 2
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	r.holds("it watches", func() bool { return r.fake.count("watch") > 0 })
	begun := time.Now()
	before := r.fake.count("watch")
	r.fake.change(func() { r.fake.ends = after })
	r.holds("the watch has ended", func() bool {
		r.fake.mu.Lock()
		defer r.fake.mu.Unlock()
		return r.fake.ends == 0
	})
	r.fake.change(func() { r.fake.version = 2 })
	r.holds("it watches again", func() bool { return r.fake.count("watch") > before })
	if took := time.Since(begun); took < after*time.Second/2 || took > 10*after*time.Second {
		t.Errorf("it watched again after %s, asked to wait for %d s", took, after)
	}
	r.await("second", loaded("etag-2-0"))
}

// A time that no engine of ours sends does not keep it from news for long.
func TestWatchComesBackInTime(t *testing.T) {
	for seconds, want := range map[api.Seconds]time.Duration{1 << 40: machine.BackoffLimit, 0: 0, -1: -time.Second} {
		if e := (&Agent{}).watched(watched{Watched: api.Watched{RetryAfter: seconds}}); e.Kind != machine.Quiet || e.RetryAfter != want {
			t.Errorf("asked for %d s, it waits for %s", seconds, e.RetryAfter)
		}
	}
}

// That another process uses the name of the instance is said once in the log, and in the status as long as it is so.
func TestAnotherProcessUsesTheName(t *testing.T) {
	const text = "two processes use the name api-1: login x has it, and login y asks for it"
	r := startAgent(t, nil)
	r.await("first", loaded("etag-1-0"))
	watches := func(version int, conflict string) {
		r.fake.change(func() { r.fake.version, r.fake.conflict = version, conflict })
		r.await("the next", loaded(fmt.Sprintf("etag-%d-0", version)))
	}
	watches(2, text)
	watches(3, text)
	if s := r.agent.board.State(); s.Conflict != text || s.Well() {
		t.Errorf("the status says %q, and that all is well: %v", s.Conflict, s.Well())
	}
	watches(4, "")
	if s := r.agent.board.State(); s.Conflict != "" || !s.Well() {
		t.Errorf("the status still says %q", s.Conflict)
	}
	log := r.log.String()
	if strings.Count(log, "another process uses the name of this instance") != 1 || !strings.Contains(log, text) || strings.Count(log, "no other process uses the name") != 1 {
		t.Errorf("the log says:\n%s", log)
	}
}
