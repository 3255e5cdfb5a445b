// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// leakedFor is how long a leaked token may be accepted after the command that says so. Reloads are part of it.
const leakedFor = 3 * time.Second

// A token leaks while its rotation soaks for an hour, and somebody presents it everywhere, all the time: at instances with an
// accept-list and at a proxy. First it is the old token, then, in the next rotation, the new one, which a third one replaces by itself.
// Nobody else notices.
func TestTokenLeaksWhileItSoaks(t *testing.T) {
	w := start(t, small(true))
	proxy, err := w.StartProxy(t.Context(), 3, guard(t, w.Initial[agentToken].Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	doors := append([]string{proxy}, w.APIs...)
	soak := func(long string) { w.write("hyvve/keys/agent-service-token", map[string]any{"soak": long}) }

	soak("1h")
	id := w.rotate("agent-service-token")
	w.reach(id, "soaking", "soak")
	accepted := w.intrudes(doors, w.Initial[agentToken].Reveal())
	select { // until the sidecar of the proxy has reported, which it does every two seconds, that it has seen the token
	case <-time.After(3 * time.Second):
	case <-t.Context().Done():
	}
	begun := time.Now()
	secret := w.escalate(id, map[string]any{"reason": "in a public log"})
	r := w.follow(id, "done")
	took := time.Since(begun)
	last := accepted().Sub(begun)
	t.Logf("the old token: accepted for %s after the command, the rotation was done after %s", last.Round(time.Millisecond), took.Round(time.Millisecond))
	if last > leakedFor || !r.Compromised || len(secret) == 0 {
		t.Errorf("the old token was accepted for %s; the answer was %v", last, secret)
	}
	cut := ""
	for _, e := range r.Timeline {
		cut += e.Reason
	}
	if !strings.Contains(cut, "has seen version 1 of "+agentToken) {
		t.Errorf("the timeline does not say that the proxy has seen the old token: %+v", r.Timeline)
	}

	id = w.rotate("agent-service-token")
	w.reach(id, "soaking", "soak")
	soak("1s") // of the rotation that follows
	leaked := w.newest()[agentToken].Reveal()
	accepted = w.intrudes(doors, leaked)
	begun = time.Now()
	next, _ := w.escalate(id, map[string]any{"which": "new"})["followed_by"].(string)
	w.follow(id, "reverted")
	last = accepted().Sub(begun)
	t.Logf("the new token: accepted for %s after the command", last.Round(time.Millisecond))
	if last > leakedFor {
		t.Errorf("the new token was accepted for %s", last)
	}
	if r := w.follow(next, "done"); r.Follows != id {
		t.Errorf("%s follows %q, not %s", next, r.Follows, id)
	}
	if now := w.newest()[agentToken].Reveal(); now == leaked || now == w.Initial[agentToken].Reveal() {
		t.Error("a leaked token is current")
	}
	w.journalIsWhole()
	w.conclude()
}

// escalate says that a version of a rotation has leaked, and returns the answer.
func (w *world) escalate(id string, data map[string]any) map[string]any {
	w.t.Helper()
	secret, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), bed.Mount+"/rotations/"+id+"/compromised", data)
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Data
}

// intrudes presents a token at each of some URLs, all the time. What it returns ends that when the token is refused everywhere, and
// says when it was accepted last.
func (w *world) intrudes(urls []string, token string) (ended func() time.Time) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	var mu sync.Mutex
	var last time.Time
	var group sync.WaitGroup
	refused := make([]bool, len(urls))
	for n, url := range urls {
		ask := asking(url + "/call")
		if status := ask(ctx, token); status != http.StatusNoContent {
			w.t.Fatalf("the token is not accepted at %s: %d", url, status)
		}
		group.Go(func() {
			ticker := time.NewTicker(5 * time.Millisecond)
			defer ticker.Stop()
			for ctx.Err() == nil {
				status := ask(ctx, token)
				mu.Lock()
				if refused[n] = status == http.StatusUnauthorized; status == http.StatusNoContent {
					last = time.Now()
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-ticker.C:
				}
			}
		})
	}
	return func() time.Time {
		w.t.Helper()
		mu.Lock()
		for n, url := range urls {
			if !refused[n] {
				w.t.Errorf("the token is still accepted at %s", url)
			}
		}
		mu.Unlock()
		cancel()
		group.Wait()
		return last
	}
}
