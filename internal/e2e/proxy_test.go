// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/subtle"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

const agentToken = "AGENT_SERVICE_TOKEN"

// guard is the platform's ServiceAuthGuard as it is: it takes the one token that it was started with, for ever.
func guard(t *testing.T, token string) string {
	want := []byte("Bearer " + token)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, "Invalid service token", http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// An application that holds one token, and is never restarted, stands behind the sidecar's proxy: nobody who presents what he
// was given is refused, through several rotations; what is retired is refused, and so is what never was a token.
func TestProxyUnderLoad(t *testing.T) {
	const rotations = 2
	w := start(t, small(true))
	first := w.Initial[agentToken].Reveal()
	url, err := w.StartProxy(t.Context(), 3, guard(t, first))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, token string) int {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/call", http.NoBody)
		if err != nil {
			return 0
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	calls, stop := w.presents("agents-9", ask)
	for range rotations {
		w.follow(w.rotate("agent-service-token"), "done")
	}
	made, refused := calls()
	stop()
	if refused != 0 || made < 100*rotations {
		t.Errorf("%d of %d calls were refused", refused, made)
	}
	for token, what := range map[string]string{first: "retired", "nonsense": "never one"} {
		if status := ask(t.Context(), token); status != http.StatusUnauthorized {
			t.Errorf("a token that is %s gets status %d", what, status)
		}
	}
	t.Logf("%d calls through the proxy, %d refused", made, refused)
	w.conclude()
}

// presents is an instance of agents: it calls all the time with the token that it was given last.
func (w *world) presents(id string, call func(context.Context, string) int) (calls func() (made, refused int64), stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var token atomic.Pointer[string]
	var made, refused atomic.Int64
	var group sync.WaitGroup
	ready := make(chan struct{})
	group.Go(func() {
		for begun := false; ctx.Err() == nil; {
			b, err := w.Engine.Creds(ctx, "agents", id)
			if err != nil {
				return
			}
			value := b.Values[agentToken].Reveal()
			token.Store(&value)
			if !begun {
				begun = true
				close(ready)
			}
			_, _ = w.Engine.Report(ctx, client.Report{Workload: "agents", Instance: id, Secret: b.Secret, Etag: b.Etag, Healthy: true})
			for changed := false; !changed && ctx.Err() == nil; {
				if changed, err = w.Engine.Watch(ctx, "agents", id, b.Etag, 5*time.Second); err != nil {
					break
				}
			}
		}
	})
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		w.t.Fatal("no bundle for " + id)
	}
	group.Go(func() {
		ticker := time.NewTicker(3 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			presented := *token.Load()
			status := call(context.WithoutCancel(ctx), presented)
			made.Add(1)
			if status != http.StatusNoContent {
				refused.Add(1)
				w.t.Logf("status %d", status)
			}
		}
	})
	stop = func() {
		cancel()
		group.Wait()
	}
	w.t.Cleanup(stop)
	return func() (int64, int64) { return made.Load(), refused.Load() }, stop
}
