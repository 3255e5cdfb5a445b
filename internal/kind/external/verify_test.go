// SPDX-License-Identifier: Apache-2.0

package external

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

const good = "sk_live_good7Qx3"

// proxied counts what arrives at a proxy that the environment names for the whole test binary.
var proxied atomic.Int64

func TestMain(m *testing.M) {
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		if err := os.Setenv(name, proxy.URL); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	proxy.Close()
	os.Exit(code)
}

func try(ctx context.Context, options kind.Options, value string) error {
	c := kind.Change{Key: key.Key{Name: "k", Env: "K", Options: options}, To: key.Version{Number: 2, Value: key.NewValue(value)}}
	return Kind{}.Verify(ctx, c)
}

// serve starts a server that answers with a status, and in which the caller sees requests.
func serve(t *testing.T, see func(w http.ResponseWriter, r *http.Request)) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(see))
	t.Cleanup(s.Close)
	return s
}

func TestRequest(t *testing.T) {
	for name, c := range map[string]struct {
		options        kind.Options
		method, header string
		want           string
	}{
		"by default":    {nil, "GET", "Authorization", "Bearer " + good},
		"another way":   {kind.Options{"verify_method": "POST", "verify_header": "x-api-key", "verify_format": "{{value}}"}, "POST", "X-Api-Key", good},
		"with an end":   {kind.Options{"verify_method": "head", "verify_format": "token={{value}};v=1"}, "HEAD", "Authorization", "token=" + good + ";v=1"},
		"no user agent": {kind.Options{"verify_format": "{{value}}"}, "GET", "User-Agent", "vault-plugin-secrets-hyvve"},
	} {
		var seen *http.Request
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			seen = r
			w.WriteHeader(http.StatusNoContent)
		})
		options := kind.Options{"verify_url": s.URL + "/v1/me?full=1"}
		for name, v := range c.options {
			options[name] = v
		}
		if err := try(t.Context(), options, good); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := seen.Header.Get(c.header); seen.Method != c.method || got != c.want || seen.URL.RequestURI() != "/v1/me?full=1" {
			t.Errorf("%s: %s %s with %q", name, seen.Method, seen.URL.RequestURI(), got)
		}
	}
	if err := try(t.Context(), nil, good); err != nil {
		t.Errorf("without a URL nothing is tried: %v", err)
	}
}

// Errors name only the status of the server's answer: the body, the headers and the query repeat the value.
func TestAnswers(t *testing.T) {
	for status, want := range map[int]string{
		200: "", 204: "", 299: "",
		401: "the value is refused (status 401 Unauthorized)",
		403: "the value is refused (status 403 Forbidden)",
		302: "redirects are not followed", 308: "redirects are not followed",
		405: "set verify_method", 404: "status 404 Not Found", 429: "status 429", 500: "status 500 Internal Server Error", 599: "status 599,",
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://"+r.Host+"/login?token="+good)
			w.Header().Set("X-Echo", good)
			w.WriteHeader(status)
			fmt.Fprintln(w, good)
		})
		err := try(t.Context(), kind.Options{"verify_url": s.URL + "/v1/me?old=" + good}, good)
		if (want == "") != (err == nil) {
			t.Errorf("status %d: %v", status, err)
		}
		if err == nil {
			continue
		}
		if text := err.Error(); !strings.Contains(text, want) || !strings.Contains(text, s.URL+"/v1/me:") || strings.Contains(text, "good7") {
			t.Errorf("status %d: %v, want %q", status, err, want)
		}
	}
}

func TestRedirectsGetNoValue(t *testing.T) {
	var elsewhere atomic.Int64
	other := serve(t, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	if err := try(t.Context(), kind.Options{"verify_url": s.URL}, good); err == nil {
		t.Error("a redirect counts as valid")
	}
	if elsewhere.Load() != 0 {
		t.Error("the value was taken elsewhere")
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+good {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are to fail
	s.StartTLS()
	defer s.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	if err := try(t.Context(), kind.Options{"verify_url": s.URL, "verify_ca": ca}, good); err != nil {
		t.Error(err)
	}
	if err := try(t.Context(), kind.Options{"verify_url": s.URL, "verify_ca": ca}, "other"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a wrong value: %v", err)
	}
	if err := try(t.Context(), kind.Options{"verify_url": s.URL}, good); err == nil || !strings.Contains(err.Error(), "set verify_ca") {
		t.Errorf("a certificate of an unknown authority: %v", err)
	}
	plain := "http" + strings.TrimPrefix(s.URL, "https")
	if err := try(t.Context(), kind.Options{"verify_url": plain}, good); err == nil || strings.Contains(err.Error(), "good7") {
		t.Errorf("http to a server of https: %v", err)
	}
}

func TestSlowServers(t *testing.T) {
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	options := kind.Options{"verify_url": s.URL, "verify_timeout": "100ms"}
	if err := try(t.Context(), options, good); err == nil || !strings.Contains(err.Error(), "verify_timeout is 100ms") {
		t.Errorf("a server that does not answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := try(ctx, options, good); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("a context that has ended: %v", err)
	}
	endless := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := io.WriteString(w, "more "); err != nil {
				return
			}
		}
	})
	if err := try(t.Context(), kind.Options{"verify_url": endless.URL}, good); err != nil {
		t.Errorf("a body without an end, which nobody reads: %v", err)
	}
}

// A server that is none of HTTP, and repeats what it hears.
func TestServersThatEcho(t *testing.T) {
	address := kit.Serve(t, func(conn net.Conn) {
		buffer := make([]byte, 4096)
		n, _ := conn.Read(buffer)
		_, after, _ := strings.Cut(string(buffer[:n]), "Authorization: ")
		_, _ = io.WriteString(conn, after)
	})
	err := try(t.Context(), kind.Options{"verify_url": "http://" + address + "/"}, good)
	if err == nil || !strings.Contains(err.Error(), "does not answer in HTTP") || strings.Contains(err.Error(), "good7") {
		t.Errorf("a server that echoes: %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	s := httptest.NewServer(nil)
	s.Close()
	if err := try(t.Context(), kind.Options{"verify_url": s.URL + "/?key=" + good}, good); err == nil || !strings.Contains(err.Error(), "cannot be reached") || strings.Contains(err.Error(), "good7") {
		t.Errorf("nobody listens: %v", err)
	}
}

// The environment names a proxy, which would be given a value over plain HTTP.
func TestProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	err := try(t.Context(), kind.Options{"verify_url": "http://hyvve.invalid/", "verify_timeout": "500ms"}, good)
	if err == nil || proxied.Load() != 0 {
		t.Errorf("%d requests went to the proxy (%v)", proxied.Load(), err)
	}
}
