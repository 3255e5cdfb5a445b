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

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
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
	out := &kit.Log{}
	ctx, cancel := context.WithCancel(context.Background())
	status := make(chan int)
	go func() {
		status <- usage.Run(ctx, NewCommand(), []string{"--listen=" + address, "--upstream=" + server.URL, "--key=" + env, "--bundle=" + path}, out, out)
	}()
	t.Cleanup(func() {
		cancel()
		if s := <-status; s != 0 || strings.Contains(out.String(), "canary") {
			t.Errorf("status %d: %s", s, out.String())
		}
	})
	says := func(what string, times int) {
		t.Helper()
		kit.Until(t, what, func() bool { return strings.Count(out.String(), what) >= times }, out.String)
	}
	says("bundle taken up", 1)
	write(accepts(2, 1))
	says("bundle taken up", 2)
	write(`{"accepts": canary`)
	says("is not a bundle in JSON", 1)
	for _, version := range []int{1, 2} {
		if code, body := call(t, address, "Bearer "+token(version)); code != http.StatusOK {
			t.Errorf("version %d: %d %s", version, code, body)
		}
	}
}
