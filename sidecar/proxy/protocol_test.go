// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// raw sends bytes as they are, and returns the answers that came until the connection was closed or asked to be.
func raw(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // of a test
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("%v after %q", err, answer)
	}
	return string(answer)
}

// What two parsers could read as a different number of requests is refused, or passed on in one reading only.
func TestNoRequestIsSmuggled(t *testing.T) {
	app := &application{}
	var paths []string
	app.then = func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		paths = append(paths, fmt.Sprintf("%s %q %v %d", r.URL.Path, body, r.TransferEncoding, r.ContentLength))
	}
	app.start(1)
	p, address := before(t, app, "")
	take(t, p, 1)
	take(t, p, 2, 1)
	const chunked = "0\r\n\r\n"
	inner := "GET /smuggled HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token(1) + "\r\n\r\n"
	head := "POST /outer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + token(2) + "\r\n"
	for name, c := range map[string]struct {
		request string
		status  string
		paths   string // at the application
	}{
		"CL.TE":         {head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s%s", len(chunked)+len(inner), chunked, inner), "200", `[/outer "" [chunked] -1]`},
		"TE.CL":         {head + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5\r\nhello\r\n" + chunked + inner, "200", `[/outer "hello" [chunked] -1]`},
		"TE.TE":         {head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked + inner, "501", "[]"},
		"TE with space": {head + "Transfer-Encoding : chunked\r\n\r\n" + chunked + inner, "400", "[]"},
		"TE obfuscated": {head + "Transfer-Encoding: xchunked\r\n\r\n" + chunked + inner, "501", "[]"},
		"TE tab":        {head + "Transfer-Encoding:\tchunked\r\n\r\n" + chunked + inner, "200", `[/outer "" [chunked] -1]`},
		"two lengths":   {head + "Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello", "400", "[]"},
		"signed length": {head + "Content-Length: +5\r\n\r\nhello", "400", "[]"},
		"length in Connection": {"POST /outer HTTP/1.1\r\nHost: x\r\nConnection: close, Content-Length\r\nAuthorization: Bearer " + token(2) +
			"\r\nContent-Length: 5\r\n\r\nhello", "200", `[/outer "hello" [] 5]`},
		"folded header":     {head + "X-A: b\r\n Authorization: Bearer " + token(1) + "\r\n\r\n", "200", `[/outer "" [] 0]`},
		"bare line feed":    {head + "X-A: b\nContent-Length: 0\r\n\r\n", "200", `[/outer "" [] 0]`},
		"two hosts":         {head + "Host: y\r\n\r\n", "400", "[]"},
		"HTTP/1.0 chunked":  {strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n" + chunked + inner, "200", `[/outer "" [] 0]`},
		"absolute form":     {strings.Replace(head, " /outer", " http://elsewhere.example/outer", 1) + "Content-Length: 0\r\n\r\n", "200", `[/outer "" [] 0]`},
		"tunnel":            {strings.Replace(head, "POST /outer", "CONNECT x:1", 1) + "\r\n", "405", "[]"},
		"a header too long": {head + "X-A: " + strings.Repeat("a", 2*maxHeaders) + "\r\n\r\n", "431", "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			paths = nil
			answer := raw(t, address, c.request)
			if !strings.HasPrefix(answer, "HTTP/1.1 "+c.status) && !strings.HasPrefix(answer, "HTTP/1.0 "+c.status) {
				t.Errorf("answer %q, want %s", answer, c.status)
			}
			if got := fmt.Sprint(paths); got != c.paths {
				t.Errorf("the application saw %s, want %s", got, c.paths)
			}
			if strings.Contains(answer, "canary") || strings.Count(answer, "HTTP/1") != 1 {
				t.Errorf("answer %q", answer)
			}
		})
	}
}

// Headers that say something about headers must not make a request another one.
func TestHopByHopAndRepeatedHeaders(t *testing.T) {
	app := &application{}
	app.start(1)
	p, address := before(t, app, "")
	take(t, p, 1)
	take(t, p, 2, 1)
	for name, c := range map[string]struct{ headers, status, seen string }{
		"Connection names it":    {"Connection: close, Authorization\r\nAuthorization: Bearer " + token(2), "200", "[Bearer " + token(1) + "]"},
		"and it is unknown":      {"Connection: close, Authorization\r\nAuthorization: Bearer x", "401", "[Bearer x]"},
		"twice, unknown first":   {"Connection: close\r\nAuthorization: Bearer x\r\nAuthorization: Bearer " + token(2), "401", "[Bearer x Bearer " + token(2) + "]"},
		"twice, the same":        {"Connection: close\r\nAuthorization: Bearer " + token(2) + "\r\nAuthorization: Bearer " + token(2), "401", "[Bearer " + token(2) + " Bearer " + token(2) + "]"},
		"empty":                  {"Connection: close\r\nAuthorization: ", "401", "[]"},
		"spaces around":          {"Connection: close\r\nAuthorization:  \t Bearer " + token(2) + " \t ", "200", "[Bearer " + token(1) + "]"},
		"Proxy-Authorization":    {"Connection: close\r\nProxy-Authorization: Bearer " + token(2), "401", "[]"},
		"Connection, Forwarded":  {"Connection: close, X-Forwarded-For\r\nX-Forwarded-For: 10.0.0.9\r\nAuthorization: Bearer " + token(2), "200", "[Bearer " + token(1) + "]"},
		"another upgrade (h2c)":  {"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nAuthorization: Bearer " + token(2), "200", "[Bearer " + token(1) + "]"},
		"a scheme in lower case": {"Connection: close\r\nAuthorization: bearer " + token(2), "401", "[bearer " + token(2) + "]"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := raw(t, address, "GET / HTTP/1.1\r\nHost: the.host\r\n"+c.headers+"\r\n\r\n")
			saw := *app.saw.Load()
			if !strings.HasPrefix(answer, "HTTP/1.1 "+c.status) || strings.TrimSpace(fmt.Sprint(saw["Authorization"])) != c.seen {
				t.Errorf("%q; the application saw %v", answer, saw)
			}
			if saw.Get("Upgrade") != "" || strings.Contains(c.headers, "X-Forwarded-For: 10.0.0.9") != (saw.Get("X-Forwarded-For") == "10.0.0.9") {
				t.Errorf("the application saw %v", saw)
			}
		})
	}
}

// A header with a bare value; and its other spelling, which some gateway interfaces take for it.
func TestBareHeader(t *testing.T) {
	var saw http.Header
	app := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { saw = r.Header.Clone() })
	p, address := before(t, app, "")
	p.keys[0].header = "X-Metrics-Key"
	take(t, p, 1)
	take(t, p, 2)
	raw(t, address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-metrics-key: "+token(2)+"\r\nX_Metrics_Key: "+token(1)+"\r\n\r\n")
	if saw.Get("X-Metrics-Key") != token(1) || strings.Contains(fmt.Sprint(saw["X_metrics_key"]), token(1)) || len(saw["X_metrics_key"]) != 1 {
		t.Errorf("the application saw %v", saw)
	}
	raw(t, address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Metrics-Key: a"+token(1)+"\r\n\r\n")
	if strings.Contains(saw.Get("X-Metrics-Key"), token(1)) {
		t.Errorf("the application saw %v", saw)
	}
}

// Two keys before one application, in one header: each is handed its own.
func TestTwoKeysInOneHeader(t *testing.T) {
	app := &application{}
	p, address := before(t, app, "")
	p.keys = append(p.keys, newHeld(Key{Env: "METRICS_API_KEY", Header: "Authorization"}))
	both := func(tokenVersion, metricsVersion int) client.Bundle {
		return client.Bundle{Accepts: map[string][]key.Value{
			env: {key.NewValue(token(tokenVersion))}, "METRICS_API_KEY": {key.NewValue(token(metricsVersion))},
		}}
	}
	for _, b := range []client.Bundle{both(1, 11), both(2, 12)} {
		if err := p.Take(b); err != nil {
			t.Fatal(err)
		}
	}
	for version, own := range map[int]int{2: 1, 12: 11} {
		app.start(own)
		if status, body := call(t, address, "Bearer "+token(version)); status != http.StatusOK {
			t.Errorf("version %d: %d %s", version, status, body)
		}
	}
	app.start(11)
	if status, _ := call(t, address, "Bearer "+token(11)); status != http.StatusUnauthorized {
		t.Errorf("a retired value of the second key: %d", status)
	}
}

func TestStreamsTrailersAndDisconnects(t *testing.T) {
	app := &application{}
	gone := make(chan struct{})
	app.then = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-After")
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Errorf("answering before the request's end: %v", err)
		}
		line, err := bufio.NewReader(r.Body).ReadString('\n')
		if err != nil {
			t.Errorf("reading: %v", err)
		}
		_, _ = io.WriteString(w, "echo "+line)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("X-After", "got "+r.Trailer.Get("X-Sent"))
		if line == "stay\n" {
			<-r.Context().Done()
			close(gone)
		}
	}
	app.start(1)
	p, address := before(t, app, "")
	take(t, p, 1)
	take(t, p, 2)
	h2c := &http.Protocols{}
	h2c.SetUnencryptedHTTP2(true)
	for name, protocols := range map[string]*http.Protocols{"HTTP/1.1": nil, "HTTP/2.0": h2c} {
		transport := &http.Transport{Protocols: protocols}
		t.Cleanup(transport.CloseIdleConnections)
		for _, first := range []string{"line\n", "stay\n"} {
			reader, writer := io.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/", reader)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token(2))
			req.Trailer = http.Header{"X-Sent": nil}
			go func() { _, _ = io.WriteString(writer, first) }()
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body := bufio.NewReader(resp.Body)
			// The answer comes while the request is still being sent.
			if line, err := body.ReadString('\n'); line != "echo "+first || err != nil || resp.Proto != name {
				t.Errorf("%q %v %s", line, err, resp.Proto)
			}
			req.Trailer.Set("X-Sent", "trailer")
			_ = writer.Close()
			if first == "line\n" {
				if _, err := io.ReadAll(body); err != nil || resp.Trailer.Get("X-After") != "got trailer" {
					t.Errorf("trailers %v %v", resp.Trailer, err)
				}
			} else {
				cancel()
				select {
				case <-gone:
					gone = make(chan struct{})
				case <-time.After(10 * time.Second):
					t.Error("the application does not hear that the client has gone")
				}
			}
			_ = resp.Body.Close()
			cancel()
		}
	}
}

func TestWebSocket(t *testing.T) {
	app := &application{}
	app.then = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			t.Errorf("headers %v", r.Header)
			return
		}
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijacking: %v", err)
			return
		}
		defer conn.Close() //nolint:errcheck // of a test
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		line, _ := both.ReadString('\n')
		_, _ = io.WriteString(conn, "echo "+line)
	}
	app.start(2) // it has restarted, which the proxy finds out by this request
	p, address := before(t, app, "")
	take(t, p, 1)
	take(t, p, 2, 1)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // of a test
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer "+token(1)+"\r\n\r\n")
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", resp, err)
	}
	_ = resp.Body.Close()
	_, _ = io.WriteString(conn, "frame\n")
	if echo, err := io.ReadAll(reader); string(echo) != "echo frame\n" || err != nil {
		t.Errorf("%q %v", echo, err)
	}
}
