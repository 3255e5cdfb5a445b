// SPDX-License-Identifier: Apache-2.0

// Package health asks a workload whether it is well, and which bundle it has loaded.
package health

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// Checker looks at a workload once. etag is that of the bundle which it should have loaded.
type Checker interface {
	Check(ctx context.Context, etag string) error
}

// EtagHeader is where a workload may say which bundle it has loaded; a JSON body with the field "etag" says it too.
const EtagHeader = "X-Hyvve-Etag"

// HTTP expects a status of 2xx and, with ExpectEtag, the etag: proof that the workload has loaded the bundle, where a
// good status alone only proves that it runs.
type HTTP struct {
	URL        string
	Timeout    time.Duration
	ExpectEtag bool
}

var _ Checker = HTTP{}

// Check implements Checker.
func (h HTTP) Check(ctx context.Context, etag string) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	resp, err := external.Do(req)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	where := req.URL.Redacted()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("health check: %s answered %s", where, external.StatusText(resp.StatusCode))
	}
	if !h.ExpectEtag {
		return nil
	}
	loaded := resp.Header.Get(EtagHeader)
	if loaded == "" {
		var answer struct {
			Etag string `json:"etag"`
		}
		_ = json.Unmarshal(body, &answer) // an answer of another form says nothing of an etag
		loaded = answer.Etag
	}
	switch loaded {
	case etag:
		return nil
	case "":
		return fmt.Errorf("health check: %s does not say which bundle is loaded; have it answer with header %s, or set expect_etag = false", where, EtagHeader)
	}
	return fmt.Errorf("health check: %s has not loaded the new bundle yet", where)
}

// TCP expects that a connection can be made.
type TCP struct {
	Address string
	Timeout time.Duration
}

var _ Checker = TCP{}

// Check implements Checker.
func (t TCP) Check(ctx context.Context, _ string) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	return conn.Close()
}
