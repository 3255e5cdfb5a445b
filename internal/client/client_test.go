// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

func newClient(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	config := api.DefaultConfig()
	config.Address, config.MaxRetries = server.URL, 0
	vault, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return New(vault, "hyvve")
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for status, want := range map[int]error{
		400: ErrRefused, 404: ErrRefused, 403: ErrDenied, 412: ErrUnavailable, 429: ErrUnavailable, 500: ErrUnavailable,
		502: ErrUnavailable, 503: ErrUnavailable,
	} {
		c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, `{"errors":["because"]}`)
		})
		if _, err := c.Creds(t.Context(), "api", "api-1"); !errors.Is(err, want) {
			t.Errorf("status %d: %v, want %v", status, err, want)
		}
	}
	gone := newClient(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if _, err := gone.Report(t.Context(), Report{Workload: "api"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a lost reply: %v", err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	c := newClient(t, func(http.ResponseWriter, *http.Request) { close(asked); <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	begun := time.Now()
	if _, err := c.Watch(ctx, "api", "api-1", "e", 20*time.Second); err == nil || time.Since(begun) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
}

func TestAnswersOfAnotherFormAreNotQuoted(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"data":{"values":["canary-value"]}}`)
	})
	if _, err := c.Creds(t.Context(), "api", "api-1"); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("error is %v", err)
	}
}
