// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// faulty stands for an API server in trouble, in which a real one cannot be put at will.
func faulty(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewTLSServer(answer)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	c := &Client{Address: server.URL, CACert: filepath.Join(dir, "ca.pem"), TokenPath: filepath.Join(dir, "token")}
	for path, text := range map[string][]byte{
		c.CACert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), c.TokenPath: []byte(canary + "-token"),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestServerThatIsOverloaded(t *testing.T) {
	for header, want := range map[string]time.Duration{"7": 7 * time.Second, "86400": longestWait, "": 0, "soon": 0} {
		for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			c := faulty(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", header)
				w.WriteHeader(status)
			})
			_, err := bring(t.Context(), &Secret{Client: c, Namespace: "a", Name: "b"}, texts("token", canary))
			e := (*Error)(nil)
			if !errors.As(err, &e) || e.Code != status || e.RetryAfter() != want || !Away(err) {
				t.Errorf("Retry-After: %s: %v", header, err)
			}
		}
	}
}

// What leads elsewhere is not followed, with a token; what is no answer of an API server is not quoted.
func TestServerThatIsNone(t *testing.T) {
	asked := 0
	c := faulty(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch asked {
		case 1:
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		case 2:
			_, _ = w.Write([]byte("<html>" + r.Header.Get("Authorization")))
		default:
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte("<html>" + r.Header.Get("Authorization")))
		}
	})
	s := &Secret{Client: c, Namespace: "a", Name: "b"}
	for _, want := range []string{"answered 307", "has another form", "answered 502"} {
		_, err := bring(t.Context(), s, texts("token", canary))
		refuses(t, err, want)
	}
	if asked != 3 {
		t.Errorf("it was asked %d times", asked)
	}
}

// A token that has just been replaced is read again within the request.
func TestTokenIsReplacedMeanwhile(t *testing.T) {
	var c *Client
	asked := 0
	c = faulty(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("Authorization") != "Bearer fresh" {
			if err := os.WriteFile(c.TokenPath, []byte("fresh"), 0o600); err != nil {
				t.Error(err)
			}
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	if _, err := (&Secret{Client: c, Namespace: "a", Name: "b"}).get(t.Context()); err != nil || asked != 2 {
		t.Errorf("%v, after %d requests", err, asked)
	}
}

// The answer to a write is lost: the next look finds that it was made, and that a reload is pending.
func TestAnswerIsLost(t *testing.T) {
	c := newCluster(t, true)
	s := c.secret()
	plan, err := s.Prepare(t.Context(), texts("token", canary))
	if err != nil {
		t.Fatal(err)
	}
	other := c.secret() // whose write is made in the place of that whose answer is lost
	if _, err := bring(t.Context(), other, texts("token", canary)); err != nil {
		t.Fatal(err)
	}
	s.Client = &Client{Address: "https://127.0.0.1:1", CACert: c.CAFile, TokenPath: c.tokenPath}
	_, err = plan.Commit(t.Context())
	refuses(t, err, "does not answer")
	s.Client = c.client
	c.brings(s, false, texts("token", canary))
	if s.changed == "" || s.changed != c.live("metrics-auth").Metadata.Annotations[changedKey] {
		t.Error("what is written is not known")
	}
}
