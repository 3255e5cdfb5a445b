// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
)

// Each request of the operator's command is sent as the engine takes it.
func TestOperatorsRequests(t *testing.T) {
	soak := engineapi.SecondsOf(5 * time.Second)
	rotate := engineapi.RotateKeysRequest{Keys: []string{"a", "b"}, RotateRequest: engineapi.RotateRequest{Reason: "why", Deadline: 60}}
	for _, test := range []struct {
		do   func(ctx context.Context, c *Client) error
		want string
	}{
		{func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err }, "GET /v1/hyvve/status?detailed=true "},
		{func(ctx context.Context, c *Client) error { _, err := c.Keys(ctx); return err }, "GET /v1/hyvve/keys?list=true "},
		{func(ctx context.Context, c *Client) error { _, err := c.Rotations(ctx); return err }, "GET /v1/hyvve/rotations?list=true "},
		{func(ctx context.Context, c *Client) error { _, err := c.Workloads(ctx); return err }, "GET /v1/hyvve/workloads?list=true "},
		{func(ctx context.Context, c *Client) error { _, err := c.Workload(ctx, "api"); return err }, "GET /v1/hyvve/workloads/api?detailed=true "},
		{func(ctx context.Context, c *Client) error { _, err := c.Connections(ctx); return err }, "GET /v1/hyvve/connections?list=true "},
		{func(ctx context.Context, c *Client) error { _, err := c.Connection(ctx, "db"); return err }, "GET /v1/hyvve/connections/db?detailed=true "},
		{
			func(ctx context.Context, c *Client) error {
				_, err := c.Journal(ctx, engineapi.JournalRequest{Key: "jwt-secret", Newest: true, Limit: 20})
				return err
			}, "GET /v1/hyvve/journal?detailed=true&key=jwt-secret&limit=20&newest=true ",
		},
		{func(ctx context.Context, c *Client) error { _, err := c.VerifyJournal(ctx); return err }, "GET /v1/hyvve/journal/verify?detailed=true "},
		{func(ctx context.Context, c *Client) error { _, err := c.Receipt(ctx, "latest"); return err }, "GET /v1/hyvve/rotations/latest/receipt?detailed=true "},
		{func(ctx context.Context, c *Client) error { _, _, err := c.Plan(ctx, rotate); return err }, `PUT /v1/hyvve/rotate {"deadline":"1m","detailed":true,"dry_run":true,"keys":["a","b"],"reason":"why"}`},
		{func(ctx context.Context, c *Client) error { _, _, err := c.Start(ctx, rotate); return err }, `PUT /v1/hyvve/rotate {"deadline":"1m","detailed":true,"keys":["a","b"],"reason":"why"}`},
		{func(ctx context.Context, c *Client) error {
			_, _, err := c.Command(ctx, "2026", "pause", "")
			return err
		}, `PUT /v1/hyvve/rotations/2026/pause {"detailed":true}`},
		{
			func(ctx context.Context, c *Client) error {
				_, _, err := c.Escalate(ctx, "2026", engineapi.EscalateRequest{Which: "both"})
				return err
			}, `PUT /v1/hyvve/rotations/2026/compromised {"detailed":true,"which":"both"}`,
		},
		{
			func(ctx context.Context, c *Client) error {
				_, _, err := c.Tune(ctx, "2026", engineapi.TuneRequest{Soak: &soak})
				return err
			}, `PUT /v1/hyvve/rotations/2026/tune {"detailed":true,"soak":"5s"}`,
		},
	} {
		got := ""
		c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			var body any
			if len(text) > 0 && json.Unmarshal(text, &body) == nil { // without the line break at its end
				text, err = json.Marshal(body)
			}
			got = fmt.Sprintf("%s %s %s", r.Method, r.URL, text)
			if err != nil {
				t.Error(err)
			}
			_, _ = fmt.Fprint(w, `{"data":{}}`)
		})
		if err := test.do(t.Context(), c); err != nil || got != test.want {
			t.Errorf("%v\n got %s\nwant %s", err, got, test.want)
		}
	}
}

func TestWarningsAreReturned(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"data":{"id":"r1"},"warnings":["careful"]}`)
	})
	s, warnings, err := c.Command(t.Context(), "latest", "resume", "")
	if err != nil || s.ID != "r1" || !slices.Equal(warnings, []string{"careful"}) {
		t.Errorf("%+v, %q, %v", s, warnings, err)
	}
}

func TestReceiptLinesAreInOrder(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"data":{"line_002":"second","line_010":"third","line_001":"first"}}`)
	})
	if lines, err := c.ReceiptLines(t.Context(), "latest"); err != nil || !slices.Equal(lines, []string{"first", "second", "third"}) {
		t.Errorf("%q, %v", lines, err)
	}
}

// Who reads a path that is not there learns what Vault has said of it.
func TestAbsentPathsKeepVaultsAnswer(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"errors":["no handler for route \"hyvve/status\""]}`)
	})
	_, err := c.Status(t.Context())
	var response *api.ResponseError
	if !errors.Is(err, ErrRefused) || !errors.As(err, &response) || len(response.Errors) != 1 {
		t.Errorf("%v", err)
	}
}
