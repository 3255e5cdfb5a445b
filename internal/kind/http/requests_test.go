// SPDX-License-Identifier: Apache-2.0

package http_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	of "github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/http"
)

// No request goes elsewhere than to the hosts of the connection.
func TestHosts(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	p := newProvider(t)
	w := newWorld(t, p, parameters, 0)

	closed := w.change
	closed.Connection.Options = kind.Options{}
	for name, value := range w.change.Connection.Options {
		closed.Connection.Options[name] = value
	}
	closed.Connection.Options["allowed_hosts"] = "10.0.0.0/8"
	p.set(func() { p.asked = nil })
	_, _, err := of.Kind{}.Preflight(t.Context(), closed)
	if w.fails(w.silent(err), "127.0.0.1", "not one of the internet", "allowed_hosts"); len(p.asked) > 0 {
		t.Error("a private address that nobody allows was called")
	}

	for name, of := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
		"the next page":       func(w http.ResponseWriter, _ *http.Request) { linked(w, "<"+other.URL+`/v1/x>; rel="next"`) },
		"a page of dots":      func(w http.ResponseWriter, _ *http.Request) { linked(w, `</v1/../x>; rel=next`) },
		"a page that returns": func(w http.ResponseWriter, _ *http.Request) { linked(w, `</v1/users/deploy/tokens>; rel=next`) },
		"no list": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"error": "`+administrator+`"}`)
		},
		"no JSON":       func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, administrator) },
		"an id of dots": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"tokens": [{"id": ".."}]}`) },
		"a password as an id": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"tokens": [{"id": "`+administrator+`"}]}`)
		},
		"an endless answer": func(w http.ResponseWriter, _ *http.Request) {
			for range 3000 {
				_, _ = io.WriteString(w, strings.Repeat(" ", 1000))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(of)
			defer s.Close()
			w.change.Connection.Options["api_url"] = s.URL + "/v1"
			before := elsewhere.Load()
			_, err := w.issueAt(t)
			if w.silent(err) == nil || elsewhere.Load() != before {
				t.Errorf("%v; %d requests went elsewhere", err, elsewhere.Load()-before)
			}
		})
	}
}

func (w *world) issueAt(t *testing.T) (kind.Issued, error) {
	order, _ := of.Kind{}.Attempt(w.change.To.Value)
	c := w.change
	c.To.Value = order
	return of.Kind{}.Issue(t.Context(), c)
}

func linked(w http.ResponseWriter, link string) {
	w.Header().Set("Link", link)
	_, _ = io.WriteString(w, `{"tokens": []}`)
}

// What keys say of themselves stands in requests as one segment, one parameter or one text.
func TestParametersAreEscaped(t *testing.T) {
	for _, evil := range []string{`../../admin?x=1&y=2#z`, `a"b\c`, `a/b`, "a b+c%2f", `","admin":true,"x":"`} {
		var path, query, body string
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				_, _ = io.WriteString(w, `{"tokens": []}`)
				return
			}
			data, _ := io.ReadAll(r.Body)
			path, query, body = r.URL.EscapedPath(), r.URL.RawQuery, string(data)
			_, _ = io.WriteString(w, `{"data": {"id": 7, "token": "value-of-a-token"}}`)
		}))
		p := newProvider(t)
		text := strings.ReplaceAll(evil, ",", ";")
		w := newWorld(t, p, kind.Options{"connection": "provider", "parameters": "user=" + text + ",scope=" + text}, 0)
		o := w.change.Connection.Options
		o["api_url"], o["create_path"] = s.URL+"/v1", "/users/{{parameter.user}}/tokens?for={{parameter.user}}"
		if _, err := w.issueAt(t); err != nil {
			t.Errorf("%q: %v", evil, err)
		}
		var sent map[string]any
		if err := json.Unmarshal([]byte(body), &sent); err != nil || len(sent) != 2 || sent["scope"] != text || strings.Count(path, "/") != 4 || strings.Contains(query, "&") {
			t.Errorf("%q becomes %s ? %s with %s", evil, path, query, body)
		}
		s.Close()
	}
}

func TestTLS(t *testing.T) {
	p := newProvider(t)
	s := httptest.NewUnstartedServer(p.routes())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	w := newWorld(t, p, imported(p), 0)
	o := w.change.Connection.Options
	o["api_url"] = s.URL + "/v1"
	w.fails(w.issue(), "certificate is not trusted", "set ca")
	o["ca"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	w.ok(w.issue())
	w.through()
}

func TestSlowProviders(t *testing.T) {
	p := newProvider(t)
	w := newWorld(t, p, parameters, 0)
	w.change.Connection.Options["timeout"] = "100ms"
	thaw := p.freeze(t)
	defer thaw()
	begin := time.Now()
	w.fails(w.issue(), "no answer in time", "timeout is 100ms")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (of.Kind{}).Stage(ctx, w.change); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a context that has ended: %v", err)
	}
	if time.Since(begin) > 5*time.Second {
		t.Error("a slow provider holds the caller")
	}
}
