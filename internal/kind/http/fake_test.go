// SPDX-License-Identifier: Apache-2.0

package http_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

const administrator = "admin-token-7Qx4"

// token is a value that the provider has made.
type token struct {
	ID    int    `json:"id"`
	Name  string `json:"name,omitempty"`
	value string
}

// provider is an API of tokens, with faults on demand. It lists two tokens a page.
type provider struct {
	address string
	server  *httptest.Server

	mu                sync.Mutex
	tokens            []token
	made              int // so far
	nameless, cursors bool

	lost   int  // so many creations lose their answer
	broken int  // so many answer 500, after they have made a token
	keeps  bool // revocations succeed and do nothing
	unseen int  // id that lists leave out
	frozen chan struct{}
	answer func(t token) any // in the place of that to a creation
	asked  []string
}

func (p *provider) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/users/{user}/tokens", p.admin(p.create))
	mux.HandleFunc("GET /v1/users/{user}/tokens", p.admin(p.list))
	mux.HandleFunc("DELETE /v1/tokens/{id}", p.admin(p.revoke))
	mux.HandleFunc("GET /v1/me", p.me)
	return mux
}

// admin wants the administrative token.
func (p *provider) admin(do http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		frozen := p.frozen
		p.asked = append(p.asked, r.Method+" "+r.URL.String())
		p.mu.Unlock()
		if frozen != nil {
			<-frozen
			panic(http.ErrAbortHandler) // the client has gone
		}
		if r.Header.Get("Authorization") != "Bearer "+administrator {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprintf(w, "%s is wrong", r.Header.Get("Authorization"))
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		do(w, r)
	}
}

func (p *provider) create(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Name  string `json:"name"`
		Scope string `json:"scope"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Scope != "read" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	t := p.add(asked.Name)
	switch {
	case p.lost > 0:
		p.lost--
		panic(http.ErrAbortHandler)
	case p.broken > 0:
		p.broken--
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprint(w, t.value)
		return
	}
	w.WriteHeader(http.StatusCreated)
	var said any = map[string]any{"data": map[string]any{"id": t.ID, "token": t.value}}
	if p.answer != nil {
		said = p.answer(t)
	}
	_ = json.NewEncoder(w).Encode(said)
}

// add makes a token.
func (p *provider) add(name string) token {
	random := make([]byte, 12)
	_, _ = rand.Read(random)
	p.made++
	t := token{ID: 9007199254740993 + p.made, Name: name, value: "tok_" + base64.RawURLEncoding.EncodeToString(random)}
	if p.nameless {
		t.Name = ""
	}
	p.tokens = append(p.tokens, t)
	return t
}

func (p *provider) list(w http.ResponseWriter, r *http.Request) {
	const size = 2
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	shown := slices.DeleteFunc(slices.Clone(p.tokens), func(t token) bool { return t.ID == p.unseen })
	from, to := min(page*size, len(shown)), min(page*size+size, len(shown))
	said := map[string]any{"tokens": append([]token{}, shown[from:to]...)}
	if next := fmt.Sprintf("/v1/users/%s/tokens?page=%d", r.PathValue("user"), page+1); to < len(shown) && !p.cursors {
		w.Header().Set("Link", "<"+next+`>; rel="next", </v1/users/x/tokens>; rel="first"`)
	} else if to < len(shown) {
		said["next"] = page + 1
	}
	_ = json.NewEncoder(w).Encode(said)
}

func (p *provider) revoke(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	n := slices.IndexFunc(p.tokens, func(t token) bool { return t.ID == id })
	if err != nil || n < 0 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if !p.keeps {
		p.tokens = slices.Delete(p.tokens, n, n+1)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (p *provider) me(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	if frozen != nil {
		<-frozen
		panic(http.ErrAbortHandler)
	}
	if !p.valid(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprint(w, r.Header.Get("Authorization"))
	}
}

func (p *provider) valid(value string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.tokens, func(t token) bool { return t.value == value })
}

func (p *provider) ids() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tokens {
		all = append(all, strconv.Itoa(t.ID))
	}
	return all
}

// set changes the provider's behavior.
func (p *provider) set(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

func (p *provider) start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	p.address = l.Addr().String()
	p.server = &httptest.Server{Listener: &inOrder{Listener: l, free: make(chan struct{}, 1), closed: make(chan struct{})}, Config: &http.Server{Handler: p.routes()}}
	p.server.Start()
}

// inOrder accepts a connection when the one before has ended: what a client has asked that is gone is done before what is asked next.
type inOrder struct {
	net.Listener
	free   chan struct{} // has room: no connection is open
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *inOrder) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &lastConn{Conn: conn, ended: func() { <-l.free }}, nil
}

// Close implements net.Listener.
func (l *inOrder) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type lastConn struct {
	net.Conn
	once  sync.Once
	ended func()
}

// Close implements net.Conn.
func (c *lastConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.ended)
	return err
}

func (p *provider) stop(testing.TB) { p.server.Close() }

// freeze has requests wait until thaw.
func (p *provider) freeze(testing.TB) (thaw func()) {
	frozen := make(chan struct{})
	p.set(func() { p.frozen = frozen })
	return func() {
		p.set(func() { p.frozen = nil })
		close(frozen)
	}
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	p := &provider{address: "127.0.0.1:0"}
	p.start(t)
	t.Cleanup(func() { p.stop(t) })
	return p
}

// connection describes the provider.
func (p *provider) connection() kind.Connection {
	c := kind.Connection{
		Name: "provider", Kind: "http", Options: kind.Options{
			"api_url": "http://" + p.address + "/v1", "allowed_hosts": "127.0.0.1",
			"create_path": "/users/{{parameter.user}}/tokens", "create_body": `{"name": "{{label}}", "scope": "{{parameter.scope}}"}`, "create_id": "data.id", "create_value": "data.token",
			"list_path": "/users/deploy/tokens", "list_items": "tokens", "list_id": "id", "list_label": "name",
			"revoke_path": "/tokens/{{id}}", "verify_path": "/me",
		},
		Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue(administrator)},
	}
	if p.nameless {
		delete(c.Options, "list_label")
	}
	if p.cursors {
		c.Options["list_next"], c.Options["list_cursor"] = "next", "page"
	}
	return c
}

var parameters = kind.Options{"connection": "provider", "parameters": "user=deploy,scope=read"}
