// SPDX-License-Identifier: Apache-2.0

package external_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest"
)

// provider is a service that knows some values, and can go away and come back at the same address.
type provider struct {
	address string
	known   []string
	server  *httptest.Server
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(p.known, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func (p *provider) start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	p.address = l.Addr().String()
	p.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: p}}
	p.server.Start()
}

func (p *provider) stop(testing.TB) { p.server.Close() }

func TestContract(t *testing.T) {
	kindtest.Run(t, func(t testing.TB) kindtest.World {
		p := &provider{address: "127.0.0.1:0", known: []string{"sk_live_first7Qx", "sk_live_second7Qx"}}
		p.start(t)
		t.Cleanup(func() { p.stop(t) })
		return kindtest.World{
			Kind: external.Kind{},
			Key: key.Key{Name: "payments", Env: "PAYMENTS_KEY", Options: kind.Options{
				"pattern": "sk_live_[0-9a-zA-Z]+", "verify_url": "http://" + p.address + "/v1/me",
			}},
			First:   key.NewValue("sk_live_first7Qx"),
			Values:  []key.Value{key.NewValue("sk_live_second7Qx"), key.NewValue("sk_live_third7Qx")},
			Refused: key.NewValue("sk_live_refused7Qx"),
			Valid:   func(_ testing.TB, v key.Value) bool { return slices.Contains(p.known, v.Reveal()) },
			Stop:    p.stop,
			Start:   p.start,
		}
	})
}
