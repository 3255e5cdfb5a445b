// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// While the application has all requests that may be under way, another gets 503 with the reason; a client that does not finish its
// request returns its place to one that does.
func TestPlaces(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil && r.URL.Path == "/long" {
			entered <- struct{}{}
			<-leave
		}
	}))
	defer app.Close()
	upstream, err := url.Parse(app.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := New(Options{Upstream: upstream, Requests: 1, Log: slog.New(slog.DiscardHandler)})
	server := httptest.NewServer(p)
	defer server.Close()
	get := func(path string) (status int, retry, body string) {
		answer, err := http.Post(server.URL+path, "text/plain", strings.NewReader("whole"))
		if err != nil {
			t.Error(err)
			return 0, "", ""
		}
		defer answer.Body.Close() //nolint:errcheck // read only
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, answer.Header.Get("Retry-After"), string(text)
	}
	c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // nothing is pending
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the half request has the place", func() bool { return p.places.Held() == 1 })
	done := make(chan int)
	go func() { status, _, _ := get("/long"); done <- status }()
	<-entered
	if text, _ := io.ReadAll(c); !strings.HasPrefix(string(text), "HTTP/1.1 503 ") {
		t.Errorf("the half request was answered with %q", text)
	} else if !strings.Contains(string(text), "Connection: close") {
		t.Errorf("the client is not told that what it sends of the body is not read any more: %q", text)
	}
	if status, retry, text := get("/"); status != http.StatusServiceUnavailable || retry != "1" || !strings.Contains(text, "too many requests are under way") {
		t.Errorf("one more: %d %q %q", status, retry, text)
	}
	close(leave)
	if status := <-done; status != http.StatusOK {
		t.Errorf("the request that the application had: %d", status)
	}
	kit.Until(t, "the place is free", func() bool { return p.places.Held() == 0 })
	if status, _, _ := get("/"); status != http.StatusOK {
		t.Errorf("afterwards: %d", status)
	}
	if _, _, errs := (config.ProxyBlock{Listen: "127.0.0.1:1", Upstream: app.URL, Key: env, State: "/x", MaxRequests: -1}).Check(""); len(errs) != 1 || !strings.Contains(errs[0].Error(), "max_requests = -1 is not between") {
		t.Error(errs)
	}
}
