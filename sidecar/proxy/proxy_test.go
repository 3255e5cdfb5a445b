// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

const env = "AGENT_SERVICE_TOKEN"

// token is a value of a version; all of them are canaries.
func token(version int) string { return fmt.Sprintf("canary-%d-0123456789abcdef", version) }

// bundle accepts versions, newest first.
func bundle(versions ...int) client.Bundle {
	b := client.Bundle{Accepts: map[string][]key.Value{}, AcceptVersions: map[string][]int{env: versions}}
	for _, v := range versions {
		b.Accepts[env] = append(b.Accepts[env], key.NewValue(token(v)))
	}
	return b
}

// application is as the platform's is: it reads one token when it starts, and compares in constant time.
type application struct {
	token atomic.Pointer[string]
	then  http.HandlerFunc // after the guard
	calls atomic.Int64
	saw   atomic.Pointer[http.Header]
}

func (a *application) start(version int) {
	value := token(version)
	a.token.Store(&value)
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.calls.Add(1)
	header := r.Header.Clone()
	a.saw.Store(&header)
	given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if subtle.ConstantTimeCompare([]byte(given), []byte(*a.token.Load())) != 1 {
		http.Error(w, "the application's own refusal", http.StatusUnauthorized)
		return
	}
	if a.then != nil {
		a.then(w, r)
	}
}

// quiet fails the test if a token stands in what was logged.
func quiet(t *testing.T) *slog.Logger {
	l := &kit.Log{}
	t.Cleanup(func() {
		if strings.Contains(l.String(), "canary") {
			t.Errorf("a token stands in the log: %s", l)
		}
	})
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// before serves a proxy before an application, and returns its address.
func before(t *testing.T, upstream http.Handler, state string) (*Proxy, string) {
	t.Helper()
	server := httptest.NewServer(upstream)
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, at, state)
}

func serve(t *testing.T, upstream *url.URL, state string) (*Proxy, string) {
	t.Helper()
	p := New(Options{Upstream: upstream, Log: quiet(t), Keys: []Key{{Env: env, Header: "Authorization", State: state}}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return p, l.Addr().String()
}

func take(t *testing.T, p *Proxy, versions ...int) {
	t.Helper()
	if err := p.Take(bundle(versions...)); err != nil {
		t.Fatal(err)
	}
}

// call makes a request with a header, and returns status and body.
func call(t *testing.T, address, authorization string, body ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/call", strings.NewReader(strings.Join(body, "")))
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// A whole rotation under load: no client is refused, whichever version it presents, and whenever the application restarts.
func TestRotationWithoutARefusal(t *testing.T) {
	app := &application{}
	app.start(1)
	p, address := before(t, app, filepath.Join(t.TempDir(), "state"))
	take(t, p, 1)
	var presented atomic.Pointer[[]int]
	present := func(versions ...int) { presented.Store(&versions) }
	present(1)
	load, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var served atomic.Int64
	for n := range 4 {
		clients.Go(func() {
			for i := n; load.Err() == nil; i++ {
				versions := *presented.Load()
				version := versions[i%len(versions)]
				if status, body := call(t, address, "Bearer "+token(version), "a body"); status != http.StatusOK {
					t.Errorf("version %d: %d %s", version, status, body)
					return
				}
				served.Add(1)
			}
		})
	}
	more := func() { // lets each client make some requests
		for until := served.Load() + 40; served.Load() < until && !t.Failed(); {
			call(t, address, "Bearer "+token((*presented.Load())[0]))
		}
	}
	more()
	take(t, p, 2, 1)
	more()
	present(1, 2)
	more()
	present(2)
	more()
	take(t, p, 2)
	more()
	// The application was never restarted, and holds what nobody may present any more.
	if status, body := call(t, address, "Bearer "+token(1)); status != http.StatusUnauthorized || !strings.Contains(body, "own refusal") {
		t.Errorf("the retired version: %d %s", status, body)
	}
	app.start(2)
	more()
	take(t, p, 3, 2)
	more()
	app.start(3) // while clients present the version before
	more()
	stop()
	clients.Wait()
	if status, body := call(t, address, "Bearer nobody's"); status != http.StatusUnauthorized || body != "the application's own refusal\n" {
		t.Errorf("an unknown token: %d %q", status, body)
	}
	seen := p.Sightings()
	if len(seen) != 1 || seen[0].Version != 2 || seen[0].Count == 0 || seen[0].From != "127.0.0.1" || seen[0].Last.IsZero() {
		t.Errorf("sightings are %+v", seen)
	}
}

func TestHeaders(t *testing.T) {
	app := &application{}
	app.start(1)
	p, address := before(t, app, "")
	take(t, p, 1)
	take(t, p, 2, 1)
	take(t, p, 2) // the application continues holding 1
	const ok, no = http.StatusOK, http.StatusUnauthorized
	for header, want := range map[string]int{
		"Bearer " + token(2):            ok,
		"Bearer  " + token(2):           no, // as the application reads it: two spaces
		"bearer " + token(2):            no,
		"Bearer " + token(2) + " ":      ok, // the server takes space at the end away
		"Bearer " + token(2) + " more":  no,
		"Bearer x " + token(2):          no,
		token(2):                        no,
		"Basic " + token(2):             no,
		"Bearer":                        no,
		"":                              no,
		"Bearer " + token(1):            no,
		token(1):                        no,
		"Bearer Bearer " + token(1):     no,
		"Bearer " + token(2)[:10]:       no,
		"Bearer " + token(1) + token(2): no,
	} {
		if status, body := call(t, address, header); status != want {
			t.Errorf("%q: %d %s, want %d", header, status, body, want)
		}
		if seen := (*app.saw.Load()).Get("Authorization"); !strings.Contains(header, token(2)) && strings.Contains(seen, token(1)) {
			t.Errorf("%q: the application was handed its own value: %q", header, seen)
		}
	}
	if status, _ := call(t, address, "Basic dXNlcjpwYXNz"); status != no || (*app.saw.Load()).Get("Authorization") != "Basic dXNlcjpwYXNz" {
		t.Errorf("another scheme does not reach the application as it is: %v", *app.saw.Load())
	}
}

// Where the application refuses whatever it is asked with, its client gets the answer to the value that it holds.
func TestARefusalIsTheApplicationsOwn(t *testing.T) {
	app := &application{}
	long := strings.Repeat("x", 2*maxReplayed)
	for _, text := range []string{"not for you", long} {
		app.then = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, http.StatusForbidden) }
		p, address := before(t, app, "")
		take(t, p, 1)
		take(t, p, 2, 1)
		for _, holds := range []int{1, 2} {
			app.start(holds)
			if status, body := call(t, address, "Bearer "+token(2), "body"); status != http.StatusForbidden || body != text+"\n" {
				t.Errorf("it holds %d: %d, %d bytes", holds, status, len(body))
			}
		}
		app.start(3)
		if status, body := call(t, address, "Bearer "+token(2), "body"); status != http.StatusUnauthorized || !strings.Contains(body, "own refusal") {
			t.Errorf("it holds another: %d %s", status, body)
		}
	}
}

// A request with a small body is replayed whole; a large one streams, and is answered as the application answers.
func TestBodiesWhileTheApplicationMayHoldSeveral(t *testing.T) {
	app := &application{}
	var got atomic.Int64
	app.then = func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		got.Store(n)
	}
	app.start(2)
	p, address := before(t, app, "")
	take(t, p, 1)
	take(t, p, 2, 1)
	if status, _ := call(t, address, "Bearer "+token(1), strings.Repeat("x", maxReplayed+1)); status != http.StatusUnauthorized {
		t.Errorf("a body too large to be kept: %d", status)
	}
	if status, _ := call(t, address, "Bearer "+token(1), strings.Repeat("x", maxReplayed)); status != http.StatusOK || got.Load() != maxReplayed {
		t.Errorf("%d, %d bytes arrived", status, got.Load())
	}
	calls := app.calls.Load()
	if status, _ := call(t, address, "Bearer "+token(1), strings.Repeat("x", 50<<20)); status != http.StatusOK || got.Load() != 50<<20 || app.calls.Load() != calls+1 {
		t.Errorf("%d, %d bytes arrived; %d calls", status, got.Load(), app.calls.Load()-calls)
	}
}

func TestUpstreamFailures(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := closed.Addr().String()
	_ = closed.Close()
	mute := kit.Serve(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<10)) })
	babble := kit.Serve(t, func(conn net.Conn) {
		request := make([]byte, 1<<10)
		n, _ := conn.Read(request)
		_, _ = conn.Write(request[:n])
	})
	for at, want := range map[string]string{
		gone: "does not listen there", mute: "closed the connection", babble: "something else than HTTP",
	} {
		p, address := serve(t, &url.URL{Scheme: "http", Host: at}, "")
		take(t, p, 1)
		status, body := call(t, address, "Bearer "+token(1), "body")
		if status != http.StatusBadGateway || !strings.Contains(body, want) || !strings.Contains(body, at) || strings.Contains(body, "canary") {
			t.Errorf("%d %q, want %q", status, body, want)
		}
	}
}

func TestStateSurvivesAndIsNotWide(t *testing.T) {
	app := &application{}
	app.start(1)
	state := filepath.Join(t.TempDir(), "state")
	p, _ := before(t, app, state)
	if err := p.Restore(); err != nil {
		t.Fatal(err)
	}
	take(t, p, 1)
	take(t, p, 2, 1)
	take(t, p, 2)
	if info, err := os.Stat(state); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	// Killed, and started again while Vault is away: nothing but the state is known.
	q, address := before(t, app, state)
	if err := q.Restore(); err != nil {
		t.Fatal(err)
	}
	if status, _ := call(t, address, "Bearer "+token(2)); status != http.StatusOK {
		t.Errorf("%d after a restart", status)
	}
	if status, _ := call(t, address, "Bearer "+token(1)); status != http.StatusUnauthorized {
		t.Errorf("%d for a retired version after a restart", status)
	}
}
