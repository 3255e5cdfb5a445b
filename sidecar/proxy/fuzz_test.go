// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// Whatever stands in the header: the application is handed its own value for an accepted one only, and sees everything
// else as it is, but for what is retired.
func FuzzTranslate(f *testing.F) {
	f.Add("Bearer "+token(2), "", "Authorization", false)
	f.Add("bearer   "+token(2)+" x", token(2), "X-Metrics-Key", true)
	f.Add("Bearer "+token(1), token(1)+token(1), "X_Metrics_Key", false)
	f.Add("Basic "+token(1), "Bearer", "authorization", true)
	upstream := &url.URL{Scheme: "http", Host: "x"}
	f.Fuzz(func(t *testing.T, first, second, name string, twice bool) {
		for _, header := range []string{"Authorization", "X-Metrics-Key"} {
			p := New(Options{Upstream: upstream, Log: slog.New(slog.DiscardHandler), Keys: []Key{{Env: env, Header: header}}})
			for _, v := range []int{1, 2} {
				b := client.Bundle{Accepts: map[string][]key.Value{env: {key.NewValue(token(v))}}}
				if err := p.Take(b); err != nil {
					t.Fatal(err)
				}
			}
			in := http.Header{header: {first}}
			if twice {
				in[header] = append(in[header], second)
			}
			if name != header {
				in[name] = append(in[name], second)
			}
			was, out := in.Clone(), in.Clone()
			_, ok := p.translate(in, out)
			if !reflect.DeepEqual(in, was) {
				t.Errorf("what came in was changed: %q", in)
			}
			presented := first == token(2)
			if header == config.BearerHeader {
				at := len(first) - len(token(2))
				presented = at >= len("Bearer ") && first[at:] == token(2) && strings.EqualFold(first[:len("Bearer ")], "Bearer ") && strings.Trim(first[len("Bearer "):at], " ") == ""
			}
			if ok != (presented && !twice) {
				t.Errorf("%q was taken for an accepted one: %t", in[header], ok)
			}
			for n, values := range out {
				for at, v := range values {
					translated := ok && n == header
					switch has := strings.Contains(v, token(1)); {
					case translated && (v != strings.TrimSuffix(first, token(2))+token(1)):
						t.Errorf("%q became %q", first, v)
					case !translated && has && alike(n, header):
						t.Errorf("%s: %q reaches the application", n, v)
					case !translated && v != in[n][at] && !strings.Contains(in[n][at], token(1)):
						t.Errorf("%s: %q became %q", n, in[n][at], v)
					}
				}
			}
		}
	})
}
