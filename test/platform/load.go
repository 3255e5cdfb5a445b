// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform/app"
)

// Load is what users do to the platform all the time: sessions signed by one instance of api and checked by the other,
// rows read and compared with what was written, rows saved again.
type Load struct {
	world  *World
	client *http.Client

	sessions, reads, saves atomic.Int64
	mu                     sync.Mutex
	failures               []string
	failed                 int
	group                  sync.WaitGroup
	cancel                 context.CancelFunc
}

// The pace of the load.
const (
	sessionEvery = 20 * time.Millisecond
	readEvery    = 100 * time.Millisecond
	saveEvery    = 500 * time.Millisecond
)

// StartLoad starts it.
func (w *World) StartLoad(ctx context.Context) *Load {
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{world: w, client: &http.Client{Timeout: 10 * time.Second, Transport: w.Transport}, cancel: cancel}
	l.every(ctx, sessionEvery, l.session)
	l.every(ctx, readEvery, l.read)
	l.every(ctx, saveEvery, l.save)
	return l
}

// Stop ends it.
func (l *Load) Stop() {
	l.cancel()
	l.group.Wait()
}

func (l *Load) every(ctx context.Context, pace time.Duration, do func(ctx context.Context) error) {
	l.group.Go(func() {
		ticker := time.NewTicker(pace)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if err := do(ctx); err != nil && ctx.Err() == nil {
				l.fail(err)
			}
		}
	})
}

func (l *Load) fail(err error) {
	const keep = 20
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed++
	if len(l.failures) < keep {
		l.failures = append(l.failures, time.Now().Format("15:04:05.000 ")+err.Error())
	}
}

func (l *Load) do(ctx context.Context, method, address, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		return "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, req.URL.Path, resp.Status, body)
	}
	return string(body), err
}

func (l *Load) session(ctx context.Context) error {
	apis := l.world.APIs
	at := rand.N(len(apis))
	token, err := l.do(ctx, http.MethodGet, apis[at]+"/login", "")
	if err == nil {
		_, err = l.do(ctx, http.MethodGet, apis[(at+1)%len(apis)]+"/session", token)
	}
	l.sessions.Add(2)
	return err
}

func (l *Load) api() string { return l.world.APIs[rand.N(len(l.world.APIs))] }

func (l *Load) row() bed.Row { return l.world.Rows[rand.N(len(l.world.Rows))] }

func (l *Load) read(ctx context.Context) error {
	row := l.row()
	l.reads.Add(1)
	text, err := l.do(ctx, http.MethodGet, l.api()+"/row?"+url.Values{"table": {row.Table}, "id": {row.ID}}.Encode(), "")
	if err != nil {
		return fmt.Errorf("%s %s: %w", row.Table, row.ID, err)
	}
	if text != row.Plaintext {
		return fmt.Errorf("%s %s: another plaintext than was written", row.Table, row.ID)
	}
	return nil
}

func (l *Load) save(ctx context.Context) error {
	row := l.row()
	if row.Table != "ai_provider_configs" {
		return nil
	}
	l.saves.Add(1)
	_, err := l.do(ctx, http.MethodPost, l.api()+"/rewrite?"+url.Values{"id": {row.ID}}.Encode(), "")
	return err
}

// Counts are the requests of everybody and those that failed.
type Counts struct {
	Calls    int      `json:"agent_calls"`
	Sessions int      `json:"session_requests"`
	Reads    int      `json:"row_reads"`
	Saves    int      `json:"row_saves"`
	Failures int      `json:"failures"`
	Examples []string `json:"failure_examples,omitempty"`
}

// Total is the number of requests.
func (c Counts) Total() int { return c.Calls + c.Sessions + c.Reads + c.Saves }

// Counts gathers them, with those of the agents instances.
func (l *Load) Counts(ctx context.Context) (Counts, error) {
	l.mu.Lock()
	c := Counts{
		Sessions: int(l.sessions.Load()), Reads: int(l.reads.Load()), Saves: int(l.saves.Load()),
		Failures: l.failed, Examples: append([]string{}, l.failures...),
	}
	l.mu.Unlock()
	for _, agents := range l.world.Agents {
		text, err := l.do(ctx, http.MethodGet, agents+"/stats", "")
		if err != nil {
			return c, err
		}
		var stats app.Stats
		if err := json.Unmarshal([]byte(text), &stats); err != nil {
			return c, err
		}
		c.Calls += stats.Requests
		c.Failures += stats.Failures
		if stats.Last != "" {
			c.Examples = append(c.Examples, "agents: "+stats.Last)
		}
	}
	return c, nil
}
