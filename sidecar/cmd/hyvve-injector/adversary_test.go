// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// chartLimit is resources.limits.memory of deploy/helm/hyvve/values.yaml.
const chartLimit = 128 << 20

// target is an injector of its own that is under attack.
type target struct {
	t      *testing.T
	r      *replica
	secure *tls.Config
	client *http.Client
}

func newTarget(t *testing.T, flags ...string) *target {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b := bed.ForTest(t)
	authority, err := b.Authority()
	must(err)
	pair, err := authority.Server("injector-" + strings.ToLower(t.Name()))
	must(err)
	dir := t.TempDir()
	must(os.Symlink(pair.CertFile, filepath.Join(dir, "tls.crt")))
	must(os.Symlink(pair.KeyFile, filepath.Join(dir, "tls.key")))
	path, err := binary()
	must(err)
	r := &replica{name: t.Name()}
	r.Program, err = b.Program(r.name, path, append([]string{
		"--image=registry.example/hyvve-sidecar:1", "--vault-addr=https://vault.vault:8200", "--namespace=hyvve",
		"--cert-dir=" + dir, "--listen=127.0.0.1:0", "--status-listen=127.0.0.1:0",
	}, flags...), nil)
	must(err)
	t.Cleanup(r.Kill)
	kit.Until(t, "the injector listens", func() bool { return r.started() || !r.Running() }, r.Tail)
	transport := &http.Transport{TLSClientConfig: authority.TLS(), MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &target{t, r, authority.TLS(), &http.Client{Transport: transport, Timeout: 30 * time.Second}}
}

// peak is the most memory that the process has had at a time, in bytes (VmHWM of proc_pid_status(5)).
func (a *target) peak() int64 {
	a.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.r.PID()))
	if err != nil {
		a.t.Fatalf("the injector has ended: %v\n%s", err, a.r.Tail())
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				a.t.Fatal(err)
			}
			return kb << 10
		}
	}
	a.t.Fatal("no VmHWM")
	return 0
}

// post sends a review, and returns the status and the answer; 0: there was none.
func (a *target) post(body string) (int, string) {
	answer, err := a.client.Post("https://"+a.r.listen+"/inject", "application/json", strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(text)
}

// half connects and sends something that does not end, and stays until the injector, or the test, closes the connection.
func (a *target) half(ctx context.Context, text string) {
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 20 * time.Second}, Config: a.secure}
	c, err := dialer.DialContext(ctx, "tcp", a.r.listen)
	if err != nil {
		return
	}
	defer c.Close() //nolint:errcheck // it has ended
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if _, err := io.WriteString(c, text); err == nil {
		_, _ = io.Copy(io.Discard, c)
	}
}

func podReview(annotations map[string]string, containers string) string {
	all := map[string]string{"hyvve.app/inject": "true", "hyvve.app/workload": "api"}
	for name, value := range annotations {
		all[name] = value
	}
	text, _ := json.Marshal(all) // a map of texts
	return `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u-1","resource":{"group":"","version":"v1","resource":"pods"},"namespace":"shop","operation":"CREATE","object":{"metadata":{"annotations":` +
		string(text) + `},"spec":{"securityContext":{"runAsUser":1000},"containers":[` + containers + `]}}}}`
}

const container = `{"name":"api","image":"api:1"}`

// many lets hands do something number times in all.
func many(hands, number int, do func(n int)) {
	var all sync.WaitGroup
	var next atomic.Int64
	for range hands {
		all.Go(func() {
			for n := int(next.Add(1)); n <= number; n = int(next.Add(1)) {
				do(n)
			}
		})
	}
	all.Wait()
}

// A client that reaches the webhook, or a user who may create pods, makes the injector neither grow beyond the chart's memory limit nor forget to
// answer others.
func TestAdversaryReviewsFillNoMemory(t *testing.T) {
	a := newTarget(t)
	repeat := func(text string, bytes int) string {
		return strings.TrimSuffix(strings.Repeat(text+",", bytes/(len(text)+1)), ",")
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var served, refused atomic.Int64
	var honest sync.WaitGroup
	honest.Go(func() { // as an API server does: it retries when the answer says so, for ten seconds
		for ctx.Err() == nil {
			begun := time.Now()
			for {
				status, text := a.post(podReview(nil, container))
				if status == http.StatusOK && strings.Contains(text, `"patch":`) {
					served.Add(1)
					break
				}
				if ctx.Err() != nil {
					return
				}
				if time.Since(begun) > 10*time.Second {
					refused.Add(1)
					t.Errorf("a pod was not injected for 10 s: %d %.200s", status, text)
					break
				}
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		}
	})
	attack := func(name string, do func()) {
		before := served.Load()
		begun := time.Now()
		do()
		peak := a.peak()
		t.Logf("%s: %s, %d MB at most so far, %d others served", name, time.Since(begun).Round(time.Millisecond), peak>>20, served.Load()-before)
		if peak > chartLimit {
			t.Errorf("%s: the injector took %d MB, more than the chart's limit of %d", name, peak>>20, chartLimit>>20)
		}
	}
	const hands = 32
	attack("200 reviews with annotations of 250 KB", func() {
		many(hands, 200, func(n int) {
			a.post(podReview(map[string]string{"hyvve.app/template.x": fmt.Sprint(n) + strings.Repeat("x", 250_000)}, container))
		})
	})
	attack("300 reviews with what annotations may hold at most", func() {
		many(hands, 300, func(n int) {
			long := fmt.Sprint(n) + strings.Repeat("\n", 15_000)
			a.post(podReview(map[string]string{"hyvve.app/template.x": long, "hyvve.app/template.y": long}, container))
		})
	})
	attack("bodies of 7 MB in parallel", func() {
		body := podReview(map[string]string{"a": strings.Repeat("x", 7_000_000)}, container)
		many(hands, 200, func(int) { a.post(body) })
	})
	attack("bodies of 2 MB in parallel", func() {
		body := podReview(map[string]string{"a": strings.Repeat("x", 2_000_000)}, container)
		many(hands, 200, func(int) { a.post(body) })
	})
	for name, element := range map[string]string{"empty containers": "{}", "numbers in place of containers": "0"} {
		attack("bodies full of "+name, func() {
			large, small := podReview(nil, repeat(element, 2_000_000)), podReview(nil, repeat(element, 4000*(len(element)+1)))
			many(hands, 100, func(n int) { a.post([]string{large, small}[n%2]) })
		})
	}
	attack("expressions that repeat", func() {
		body := podReview(map[string]string{"hyvve.app/reload": "signal", "hyvve.app/cmdline": strings.Repeat(`(ab|\pL){999}`, 300)}, container)
		many(hands, 100, func(int) { a.post(body) })
	})
	attack("2000 half-sent reviews", func() {
		head := "POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
		holds, release := context.WithTimeout(ctx, 12*time.Second)
		defer release()
		many(500, 2000, func(n int) {
			switch n % 4 {
			case 0:
				a.half(holds, head) // never ends
			case 1:
				a.half(holds, head+"Content-Length: 2000000\r\n\r\n{")
			case 2:
				a.half(holds, head+"Content-Length: 2000000\r\n\r\n"+strings.Repeat(" ", 1_900_000))
			case 3:
				a.half(holds, head+"Transfer-Encoding: chunked\r\n\r\n1\r\n{")
			}
		})
	})
	stop()
	honest.Wait()
	if served.Load() < 50 {
		t.Errorf("%d others were served during all attacks", served.Load())
	}
	kit.Until(t, "it answers at once again", func() bool {
		status, text := a.post(podReview(nil, container))
		return status == http.StatusOK && strings.Contains(text, `"patch":`)
	}, a.r.Tail)
	if log, err := os.ReadFile(a.r.LogPath); err != nil || bytes.Contains(log, []byte(`"level":"ERROR"`)) {
		t.Errorf("%v: %s", err, a.r.Tail())
	}
}

// A pod cannot have another program run with its identity, nor show its token to another server, unless the operator lets it.
func TestAdversaryLockedAnnotations(t *testing.T) {
	values := map[string]string{
		"hyvve.app/image": "evil.example/sidecar:1", "hyvve.app/vault-addr": "https://evil.example", "hyvve.app/audience": "api", "hyvve.app/mount": "evil",
	}
	locked, open := newTarget(t), newTarget(t, "--locked=none")
	for name, value := range values {
		body := podReview(map[string]string{name: value}, container)
		if status, text := locked.post(body); status != http.StatusOK || strings.Contains(text, `"patch":`) || !strings.Contains(text, `"code":422`) || !strings.Contains(text, "annotation "+name+" is locked") {
			t.Errorf("%s: %d %s", name, status, text)
		}
		if status, text := open.post(body); status != http.StatusOK || !strings.Contains(text, `"patch":`) {
			t.Errorf("%s, unlocked: %d %s", name, status, text)
		}
	}
}
