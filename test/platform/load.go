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

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
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

// ColumnResult is a column at the end.
type ColumnResult struct {
	Column     string `json:"column"`
	Rows       int    `json:"rows"`
	Current    int    `json:"open_under_current"`
	Old        int    `json:"open_under_old"`
	Unreadable int    `json:"unreadable"`
	Changed    int    `json:"other_plaintext"`
}

// VerifyRows opens every row under the current keys, and those that do not open under the values of before.
func (w *World) VerifyRows(ctx context.Context, current map[string]key.Value) ([]ColumnResult, error) {
	conn, err := pgx.Connect(ctx, w.Postgres.AdminURL(databaseName))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	now, err := rings(current)
	if err != nil {
		return nil, err
	}
	before, err := rings(w.Initial)
	if err != nil {
		return nil, err
	}
	var results []ColumnResult
	at := map[string]int{}
	for _, row := range w.Rows {
		name := row.Table + "." + row.Column
		if _, ok := at[name]; !ok {
			at[name] = len(results)
			results = append(results, ColumnResult{Column: name})
		}
		result := &results[at[name]]
		result.Rows++
		var text string
		if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE id = $1", row.Column, row.Table), row.ID).Scan(&text); err != nil {
			return nil, fmt.Errorf("%s %s: %w", row.Table, row.ID, err)
		}
		e, err := envelope.Parse(text)
		if err != nil {
			result.Unreadable++
			continue
		}
		plaintext, err := now[row.Layout].Open(e)
		if err == nil {
			result.Current++
		} else if plaintext, err = before[row.Layout].Open(e); err == nil {
			result.Old++
		} else {
			result.Unreadable++
			continue
		}
		if string(plaintext) != row.Plaintext {
			result.Changed++
		}
	}
	return results, nil
}

func rings(values map[string]key.Value) (map[key.Layout]*envelope.Keyring, error) {
	all := map[key.Layout]*envelope.Keyring{}
	for layout, env := range map[key.Layout]string{key.TagFirst: facts.MasterKey, key.TagLast: facts.BetterAuth} {
		r, err := envelope.NewKeyring(layout, values[env])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", env, err)
		}
		all[layout] = r
	}
	return all, nil
}

// Follow looks at a rotation until it ends, and shows each step and, every other second, what it waits for.
func Follow(ctx context.Context, engine *client.Client, id string, show func(api.Rotation)) (api.Rotation, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	shown, shownAt := "", time.Time{}
	for {
		r, err := engine.Rotation(ctx, id)
		if err != nil {
			return r, fmt.Errorf("rotation %s: %w", id, err)
		}
		if at := r.State + r.Step; at != shown || time.Since(shownAt) > 2*time.Second {
			shown, shownAt = at, time.Now()
			show(r)
		}
		if r.Ended() {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("rotation %s is still %s %s: %s", id, r.State, r.Step, r.NextGate)
		case <-ticker.C:
		}
	}
}

// Short cuts a text for one line of a terminal.
func Short(text string) string {
	const most = 110
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}
