// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func newClient(t testing.TB, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	config := api.DefaultConfig()
	config.Address, config.MaxRetries = server.URL, 0
	vault, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return New(vault, "hyvve")
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for status, want := range map[int]error{
		400: ErrRefused, 404: ErrRefused, 403: ErrDenied, 412: ErrUnavailable, 429: ErrUnavailable, 500: ErrUnavailable,
		472: ErrUnavailable, 473: ErrUnavailable, 502: ErrUnavailable, 503: ErrUnavailable,
	} {
		c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, `{"errors":["because"]}`)
		})
		if _, err := c.Creds(t.Context(), "api", "api-1"); !errors.Is(err, want) {
			t.Errorf("status %d: %v, want %v", status, err, want)
		}
	}
	gone := newClient(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if _, err := gone.Report(t.Context(), Report{Workload: "api"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a lost reply: %v", err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	c := newClient(t, func(http.ResponseWriter, *http.Request) { close(asked); <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	begun := time.Now()
	if _, err := c.Watch(ctx, "api", "api-1", "e", 20*time.Second); err == nil || time.Since(begun) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
}

func TestAnswersOfAnotherFormAreNotQuoted(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"data":{"values":["canary-value"]}}`)
	})
	if _, err := c.Creds(t.Context(), "api", "api-1"); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("error is %v", err)
	}
}

// What a read returns is typed, and prints without its secrets.
func TestCreds(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/hyvve/creds/api" || r.URL.Query().Get("instance") != "api 1&" {
			t.Errorf("asked for %s", r.URL)
		}
		_, _ = fmt.Fprint(w, `{"lease_id":"l1","lease_duration":300,"warnings":["careful"],"data":{
			"values":{"A":"canary-value"},"accepts":{"A":["canary-new","canary-old"]},"versions":{"A":2},"created_times":{"A":"2026-11-25T01:02:03Z","B":"never"},
			"accept_versions":{"A":[2,1]},"etag":"e","instance":"api 1&","instance_secret":"canary-secret",
			"work":[{"id":"w","phase":"stage","env":"A","columns":[{"table":"t","column":"c","layout":"tag-last"}]}]}}`)
	})
	b, err := c.Creds(t.Context(), "api", "api 1&")
	if err != nil {
		t.Fatal(err)
	}
	if b.Values["A"].Reveal() != "canary-value" || b.Accepts["A"][1].Reveal() != "canary-old" || b.Secret.Reveal() != "canary-secret" {
		t.Error("values are not those of the answer")
	}
	if b.LeaseID != "l1" || b.LeaseDuration != 5*time.Minute || b.AcceptVersions["A"][1] != 1 || b.Work[0].Columns[0].Table != "t" || len(b.Warnings) != 1 {
		t.Errorf("%+v", b)
	}
	if at := b.Created["A"]; len(b.Created) != 1 || !at.Equal(time.Date(2026, 11, 25, 1, 2, 3, 0, time.UTC)) {
		t.Errorf("versions were made at %v", b.Created)
	}
	if text := fmt.Sprintf("%v %+v %#v", b, b, b); strings.Contains(text, "canary") {
		t.Errorf("a bundle prints its secrets: %s", text)
	}
}

func TestReport(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Method != http.MethodPut {
			t.Errorf("%s: %v", r.Method, err)
		}
		work, _ := body["work"].([]any)
		if body["instance_secret"] != "s" || body["healthy"] != false || body["reason"] != "ill" || len(work) != 1 {
			t.Errorf("reported %v", body)
		}
		_, _ = fmt.Fprint(w, `{"data":{"accepted":true,"etag":"next","lease_duration":60}}`)
	})
	answer, err := c.Report(t.Context(), Report{
		Workload: "api", Instance: "i", Secret: key.NewValue("s"), Reason: "ill", Work: []workload.WorkReport{{ID: "w", Done: true}},
	})
	if err != nil || answer.Etag != "next" || answer.Lease() != time.Minute {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestExtendAndLeave(t *testing.T) {
	var asked []string
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		asked = append(asked, fmt.Sprint(r.URL.Path, body))
		if strings.HasSuffix(r.URL.Path, "/leave/api") {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = fmt.Fprint(w, `{"data":{"accepted":true,"etag":"e","lease_duration":60}}`)
	})
	if a, err := c.Extend(t.Context(), "api", "i", key.NewValue("s")); err != nil || a.Lease() != time.Minute || a.Etag != "e" {
		t.Errorf("%+v, %v", a, err)
	}
	if err := c.Leave(t.Context(), "api", "i", key.NewValue("s")); err != nil {
		t.Error(err)
	}
	want := "/v1/hyvve/report/apimap[extend_lease:true instance:i instance_secret:s] /v1/hyvve/leave/apimap[instance:i instance_secret:s]"
	if got := strings.Join(asked, " "); got != want {
		t.Errorf("asked for %s", got)
	}
}

// Names become lines, paths, variables and labels, wherever they stand in an answer.
func TestNamesInAnswersAreChecked(t *testing.T) {
	for _, data := range []string{
		`{"values":{"A\nB":"x"}}`, `{"accepts":{"../A":["x"]}}`, `{"versions":{"a":1}}`, `{"accept_versions":{"A B":[1]}}`, `{"values":{"":"x"}}`,
		`{"work":[{"id":"r/stage\u0007"}]}`, `{"work":[{"id":"r","env":"A\nB"}]}`,
	} {
		c := newClient(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, `{"data":%s}`, data) })
		if b, err := c.Creds(t.Context(), "api", "api-1"); err == nil || !strings.Contains(err.Error(), "nothing of the bundle is taken") || strings.ContainsAny(err.Error(), "\n\a") {
			t.Errorf("%s: %v, %q", data, b, err)
		}
	}
}

// A write is how an instance reads; its secret is in the body alone. A refusal of the write alone has an error of its own.
func TestRead(t *testing.T) {
	status := http.StatusOK
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		var body engineapi.CredsRequest
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Method != http.MethodPut || r.URL.Path != "/v1/hyvve/creds/api" || r.URL.RawQuery != "" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		if want := (engineapi.CredsRequest{Instance: "api-1", OneLine: []string{"none"}, Secret: "canary", Pod: "p", Node: "n"}); !reflect.DeepEqual(body, want) {
			t.Errorf("body %+v", body)
		}
		w.WriteHeader(status)
		if status != http.StatusOK {
			_, _ = fmt.Fprint(w, `{"errors":["because"]}`)
			return
		}
		_, _ = fmt.Fprint(w, `{"lease_duration":300,"data":{"values":{"A":"v"},"versions":{"A":2},"etag":"e","instance":"api-1","instance_secret":"next"}}`)
	})
	reader := Reader{Workload: "api", Instance: "api-1", OneLine: Carries(), Secret: key.NewValue("canary"), Pod: "p", Node: "n"}
	b, err := c.Read(t.Context(), reader)
	if err != nil || b.Secret.Reveal() != "next" || b.LeaseDuration != 5*time.Minute {
		t.Errorf("%+v, %v", b, err)
	}
	asked := map[string]string{}
	narrow := newClient(t, func(_ http.ResponseWriter, r *http.Request) { _ = json.NewDecoder(r.Body).Decode(&asked) })
	_, _ = narrow.Read(t.Context(), Reader{Workload: "api", Instance: "api-1"})
	if _, says := asked["one_line"]; says || asked["instance"] != "api-1" {
		t.Errorf("a reader that can carry one line alone asks for %v", asked)
	}
	for code, want := range map[int]error{403: ErrNoWrite, 405: ErrNoWrite, 400: ErrRefused, 503: ErrUnavailable} {
		status = code
		_, err := c.Read(t.Context(), reader)
		if !errors.Is(err, want) || errors.Is(err, ErrNoWrite) != (want == ErrNoWrite) || strings.Contains(err.Error(), "canary") { //nolint:errorlint // the very one
			t.Errorf("status %d: %v", code, err)
		}
	}
}

// A bundle that does not come in one piece is read to its end.
func TestLongBundle(t *testing.T) {
	value := strings.Repeat("x", 300_000)
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		text := fmt.Sprintf(`{"data":{"instance":"api-1","etag":"e","values":{"LONG":%q},"accepts":{"LONG":[%q]},"versions":{"LONG":1}}}`, value, value)
		for part := range slices.Chunk([]byte(text), 50_000) {
			_, _ = w.Write(part)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // an answer that takes its time
		}
	})
	for range 3 {
		bundle, err := c.Read(t.Context(), Reader{Workload: "api", Instance: "api-1"})
		if err != nil || bundle.Values["LONG"].Reveal() != value {
			t.Fatalf("%v", err)
		}
	}
}
