// SPDX-License-Identifier: Apache-2.0

package health

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestHTTP(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		expect bool
		want   string // in the error; empty: none
	}{
		"well":         {func(w http.ResponseWriter) { w.WriteHeader(204) }, false, ""},
		"ill":          {func(w http.ResponseWriter) { w.WriteHeader(503) }, false, "503"},
		"header":       {func(w http.ResponseWriter) { w.Header().Set(EtagHeader, "e1") }, true, ""},
		"json":         {func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"etag":"e1","status":"ok"}`)) }, true, ""},
		"older":        {func(w http.ResponseWriter) { w.Header().Set(EtagHeader, "e0") }, true, "not loaded the new bundle"},
		"says nothing": {func(w http.ResponseWriter) { _, _ = w.Write([]byte(`OK`)) }, true, "does not say which bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.answer(w) }))
			defer server.Close()
			err := HTTP{URL: server.URL, Timeout: 5 * time.Second, ExpectEtag: c.expect}.Check(t.Context(), "e1")
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestTimeoutAndTCP(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	if err := (HTTP{URL: server.URL, Timeout: 20 * time.Millisecond}).Check(t.Context(), ""); err == nil {
		t.Error("a workload that hangs is well")
	}
	address := strings.TrimPrefix(server.URL, "http://")
	if err := (TCP{Address: address, Timeout: time.Second}).Check(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if err := (TCP{Address: "127.0.0.1:1", Timeout: time.Second}).Check(t.Context(), ""); err == nil {
		t.Error("nobody listens, and all is well")
	}
}
