// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The command follows a bundle that something else renders; a broken one changes nothing.
func TestCommandFollowsABundle(t *testing.T) {
	app := &application{}
	app.start(1)
	server := httptest.NewServer(app)
	t.Cleanup(server.Close)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	path := filepath.Join(t.TempDir(), "bundle.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	accepts := func(versions ...int) string {
		var list []string
		for _, v := range versions {
			list = append(list, fmt.Sprintf("%q", token(v)))
		}
		return fmt.Sprintf(`{"accepts":{"%s":[%s]},"accept_versions":{},"etag":"e"}`, env, strings.Join(list, ","))
	}
	write(accepts(1))
	out := &logs{}
	ctx, cancel := context.WithCancel(context.Background())
	status := make(chan int)
	go func() {
		status <- Command(ctx, []string{"--listen=" + address, "--upstream=" + server.URL, "--key=" + env, "--bundle=" + path}, out, out)
	}()
	t.Cleanup(func() {
		cancel()
		if s := <-status; s != 0 || strings.Contains(out.b.String(), "canary") {
			t.Errorf("status %d: %s", s, out.b.String())
		}
	})
	until := func(said string) {
		t.Helper()
		for tick, end := time.NewTicker(5*time.Millisecond), time.Now().Add(30*time.Second); ; <-tick.C {
			out.mu.Lock()
			text := out.b.String()
			out.mu.Unlock()
			if strings.Contains(text, said) {
				out.mu.Lock()
				out.b.Reset()
				out.mu.Unlock()
				return
			}
			if time.Now().After(end) {
				t.Fatalf("no %q in %s", said, text)
			}
		}
	}
	until("bundle taken up")
	write(accepts(2, 1))
	until("bundle taken up")
	write(`{"accepts": canary`)
	until("is not a bundle in JSON")
	for _, version := range []int{1, 2} {
		if code, body := call(t, address, "Bearer "+token(version)); code != http.StatusOK {
			t.Errorf("version %d: %d %s", version, code, body)
		}
	}
}
