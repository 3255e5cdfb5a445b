// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/subtle"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

const agentToken = "AGENT_SERVICE_TOKEN"

// guard is the platform's ServiceAuthGuard as it is: it takes the one token that it was started with, forever.
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
	ask := asking(url + "/call")
	calls, stop := w.presents("agents", "agents-9", agentToken, ask)
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

// asking returns a function that presents a token at a URL and returns the status, or 0 if there is no answer.
func asking(url string) func(ctx context.Context, token string) int {
	return func(ctx context.Context, token string) int {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return 0
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
}

// presents is an instance of a workload: it calls all the time with the value of a key that it was given last.
func (w *world) presents(workload, id, env string, call func(context.Context, string) int) (calls func() (made, refused int64), stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var token atomic.Pointer[string]
	var made, refused atomic.Int64
	var group sync.WaitGroup
	ready := make(chan struct{})
	group.Go(func() {
		for begun := false; ctx.Err() == nil; {
			b, err := w.Engine.Creds(ctx, workload, id)
			if err != nil {
				return
			}
			value := b.Values[env].Reveal()
			token.Store(&value)
			if !begun {
				begun = true
				close(ready)
			}
			_, _ = w.Engine.Report(ctx, client.Report{Workload: workload, Instance: id, Secret: b.Secret, Etag: b.Etag, Proof: "etag", Healthy: true})
			for seen := (api.Watched{}); !seen.Changed && ctx.Err() == nil; {
				if seen, err = w.Engine.Watch(ctx, workload, id, b.Etag, 5*time.Second); err != nil {
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
			if status/100 != 2 {
				refused.Add(1)
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
