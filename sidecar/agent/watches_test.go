// SPDX-License-Identifier: Apache-2.0

package agent

import (
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
