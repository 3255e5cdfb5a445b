// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// podLimit is the memory limit of an injected sidecar with one proxy (sidecar/inject), and agentMore what agent takes more than proxy.
const (
	podLimit  = 96 << 20
	agentMore = 8 << 20
)

// process is the real command, as it is shipped.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	address string
	log     kit.Log
}

func start(t *testing.T, upstream string, flags ...string) *process {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "hyvve-sidecar")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "../cmd/hyvve-sidecar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	text, err := json.Marshal(map[string]any{"etag": "1", "keys": map[string]string{env: token(2)}, "accepts": map[string][]string{env: {token(2), token(1)}}, "versions": map[string]int{env: 2}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "bundle.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, address: l.Addr().String()}
	_ = l.Close() // for the command to take
	p.cmd = exec.Command(binary, append([]string{"proxy", "--listen=" + p.address, "--upstream=" + upstream, "--key=" + env, "--bundle=" + file}, flags...)...)
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("GOMEMLIMIT=%d", podLimit/4*3)) // as the injector writes it
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if strings.Contains(p.log.String(), "canary") {
			t.Error("a token stands in the log")
		}
	})
	kit.Until(t, "the proxy serves", func() bool { return p.get(t.Context()) == http.StatusOK }, p.log.String)
	return p
}

// get makes a request with an accepted token, and returns its status.
func (p *process) get(ctx context.Context) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address, http.NoBody)
	if err != nil {
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+token(1))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// of returns a number that proc_pid_status(5) has in kB, in bytes.
func (p *process) of(field string) int64 {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return kb << 10
			}
		}
	}
	p.t.Fatalf("the proxy has ended: %v\n%s", err, p.log.String())
	return 0
}

func (p *process) descriptors() int {
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatalf("the proxy has ended: %v\n%s", err, p.log.String())
	}
	return len(all)
}

// Clients that begin requests, end none, and take no answers neither fill the pod's memory nor keep others out.
func TestAdversaryHalfSentRequests(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	accepted := token(2)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			for range 64 {
				if _, err := io.WriteString(w, large); err != nil {
					return
				}
			}
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("Authorization") != "Bearer "+accepted {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer app.Close()
	p := start(t, app.URL)
	const number = 2000
	for _, attack := range []struct{ name, text string }{
		{"half-sent heads", "POST / HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("x", 30_000)},
		{"half-sent bodies", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 30_000)},
		{"half-sent bodies of accepted requests", "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + accepted + "\r\nContent-Length: 65536\r\n\r\n" + strings.Repeat("x", 65_000)},
		{"chunks that do not end", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n" + strings.Repeat("x", 30_000)},
		{"answers that nobody takes", "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"HTTP/2 that goes no further", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"},
	} {
		ctx, stop := context.WithCancel(t.Context())
		var clients, honest sync.WaitGroup
		var served, failed, opened atomic.Int64
		// Who comes in the midst of hundreds of new connections may lose one that has no request yet, and connects again, as clients do.
		persist := func() (status int) {
			for range 5 {
				if status = p.get(ctx); status == http.StatusOK || ctx.Err() != nil {
					return status
				}
			}
			return status
		}
		honest.Go(func() {
			for ctx.Err() == nil {
				switch status := persist(); {
				case ctx.Err() != nil:
				case status == http.StatusOK:
					served.Add(1)
				default:
					t.Logf("%s: a request ended with status %d", attack.name, status)
					failed.Add(1)
				}
			}
		})
		for range number {
			clients.Go(func() {
				c, err := (&net.Dialer{Timeout: time.Minute}).DialContext(ctx, "tcp", p.address)
				opened.Add(1)
				if err != nil {
					return
				}
				defer c.Close() //nolint:errcheck // it has ended
				_, _ = io.WriteString(c, attack.text)
				<-ctx.Done()
			})
		}
		kit.Until(t, "all have come", func() bool { return opened.Load() == number })
		before := served.Load()
		kit.Until(t, "others are served", func() bool { return served.Load() >= before+100 })
		// The pages of the program itself (13 MB) are clean: the kernel drops them before it kills anything. What is left follows
		// GOMEMLIMIT, three quarters of the pod's limit, up to which garbage may wait: it tells little of what is in use.
		program := p.of("RssFile")
		peak, descriptors := p.of("VmHWM")-program, p.descriptors()
		stop()
		clients.Wait()
		honest.Wait()
		t.Logf("%s: %d MB at most so far and %d of the program, %d descriptors; others: %d served, %d failed", attack.name, peak>>20, program>>20, descriptors, served.Load(), failed.Load())
		if peak > podLimit-agentMore {
			t.Errorf("%s: the proxy took %d MB, of %d that the pod has", attack.name, peak>>20, podLimit>>20)
		}
		if most := 2*config.ProxyRequests + idleConns + 100; descriptors > most {
			t.Errorf("%s: the proxy had %d descriptors, more than %d", attack.name, descriptors, most)
		}
		if failed.Load() > 0 {
			t.Errorf("%s: %d requests of others failed", attack.name, failed.Load())
		}
	}
}
