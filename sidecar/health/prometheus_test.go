// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// exposed is a workload that exposes metrics, and its clock.
type exposed struct {
	t      *testing.T
	gate   *Prometheus
	server *httptest.Server
	text   string
	status int
	token  string // that it takes; empty: it asks for none
	asked  []string
	at     time.Time
	warned []error
}

func expose(t *testing.T, labels map[string]string, most float64) *exposed {
	t.Helper()
	e := &exposed{t: t, status: http.StatusOK, at: time.Now()}
	e.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.asked = append(e.asked, r.Header.Get("Authorization"))
		if e.token != "" && r.Header.Get("Authorization") != "Bearer "+e.token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.WriteHeader(e.status)
		fmt.Fprint(w, e.text)
	}))
	t.Cleanup(e.server.Close)
	matchers, err := ParseMatchers(labels)
	if err != nil {
		t.Fatal(err)
	}
	e.gate = &Prometheus{
		Metrics:     Metrics{URL: e.server.URL, Metric: "http_requests_total", Matchers: matchers, Timeout: 10 * time.Second},
		MaxIncrease: most, Window: time.Minute, Path: filepath.Join(t.TempDir(), "gate"),
	}
	e.wire()
	return e
}

func (e *exposed) wire() {
	e.gate.Warn, e.gate.now = func(err error) { e.warned = append(e.warned, err) }, func() time.Time { return e.at }
}

// restart is one of the sidecar.
func (e *exposed) restart() {
	before := e.gate
	e.gate = &Prometheus{Metrics: before.Metrics, MaxIncrease: before.MaxIncrease, Window: before.Window, Path: before.Path}
	e.wire()
}

func (e *exposed) begin(change string) {
	e.t.Helper()
	if err := e.gate.Begin(e.t.Context(), change); err != nil {
		e.t.Fatal(err)
	}
}

func (e *exposed) check(want string) {
	e.t.Helper()
	err := e.gate.Check(e.t.Context(), "")
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		e.t.Errorf("%v, want %q", err, want)
	}
	if strings.HasPrefix(want, "grown") && !Proven(err) {
		e.t.Errorf("%v is no verdict", err)
	}
}

func (e *exposed) counts(value float64) {
	e.text = fmt.Sprintf("# TYPE http_requests_total counter\nhttp_requests_total{status=\"200\"} 1000\nhttp_requests_total{status=\"401\"} %g\n", value)
}

var of401 = map[string]string{"status": "401"}

// What was before does not count; what comes after does, until the window has ended.
func TestGate(t *testing.T) {
	e := expose(t, of401, 5)
	e.counts(100)
	e.begin("a")
	e.counts(103)
	e.check("")
	e.at = e.at.Add(20 * time.Second)
	e.counts(105)
	e.check("")
	e.begin("a") // the same change
	e.counts(107)
	e.check(`grown by 7 in the 20s after the change, and max_increase is 5`)
	e.counts(108)
	e.at = e.at.Add(50 * time.Second)
	e.check(`http_requests_total{status="401"} has grown by 7 in the 20s`) // within the second window
	e.counts(120)
	e.check("grown by 7 in the 20s") // a third one begins; the words stay
	e.at = e.at.Add(59 * time.Second)
	e.check("grown by 7")
	e.at = e.at.Add(time.Second)
	e.counts(125)
	e.check("") // a whole window passed
	asked := len(e.asked)
	e.counts(1e9)
	e.at = e.at.Add(time.Hour)
	e.check("")
	if len(e.asked) != asked {
		t.Error("the workload is asked although the window has ended")
	}
	e.begin("b")
	e.counts(1e9 + 6)
	e.check("grown by 6")
	if len(e.warned) > 0 {
		t.Error(e.warned)
	}
}

// The last look is not before the window's end.
func TestGateLooksAtTheEnd(t *testing.T) {
	e := expose(t, of401, 0)
	e.counts(1)
	e.begin("a")
	e.at = e.at.Add(2 * time.Minute)
	e.status = http.StatusInternalServerError
	e.check("answered 500")
	e.status = http.StatusOK
	e.counts(2)
	e.check("grown by 1 in the 2m")
	e.status = http.StatusInternalServerError
	e.check("grown by 1 in the 2m") // it is not the lesser of the two
}

// A restart sets counters back; what they have come to since counts.
func TestCounterReset(t *testing.T) {
	e := expose(t, of401, 5)
	e.counts(100)
	e.begin("a")
	e.counts(3)
	e.check("")
	e.counts(5)
	e.check("")
	e.counts(2)
	e.check("grown by 7")
}

// A process that has come farther than the one before is known by its start.
func TestCounterResetByStart(t *testing.T) {
	e := expose(t, of401, 5)
	born := func(at, value float64) {
		e.counts(value)
		e.text += fmt.Sprintf("# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %g\n", at)
	}
	born(1.7e9, 2)
	e.begin("a")
	born(1.7e9+0.5, 3)
	e.check("")
	born(1.7e9+60, 6)
	e.check("grown by 7")
}

func TestSeriesThatAppears(t *testing.T) {
	e := expose(t, map[string]string{"status": "=~4.."}, 5)
	e.text = "# TYPE http_requests_total counter\n"
	e.begin("a")
	e.text += "http_requests_total{status=\"401\",path=\"/a\"} 3\nhttp_requests_total{status=\"404\"} 2\nhttp_requests_total{status=\"500\"} 99\n"
	e.check("")
	e.text += "http_requests_total{path=\"/b\",status=\"401\"} 1\n"
	e.check("grown by 6")
}

// One that does not run yet counts from 0; one that cannot be asked is taken as it is at the next look.
func TestNothingBefore(t *testing.T) {
	e := expose(t, of401, 5)
	url := e.gate.URL
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.gate.URL = "http://" + l.Addr().String()
	_ = l.Close()
	e.begin("a")
	e.check("connection refused")
	e.gate.URL = url
	e.counts(6)
	e.check("grown by 6")

	e = expose(t, of401, 5)
	e.status = http.StatusInternalServerError
	if err := e.gate.Begin(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "before the change is not known") {
		t.Error(err)
	}
	e.status = http.StatusOK
	e.counts(100)
	e.check("")
	e.counts(106)
	e.check("grown by 6")
}

// A restart of the sidecar, wherever it is, loses neither what was before nor the verdict.
func TestGateOutlivesTheSidecar(t *testing.T) {
	e := expose(t, of401, 5)
	e.counts(100)
	e.begin("a")
	e.restart()
	e.counts(104)
	e.begin("a")
	e.check("")
	e.counts(1) // the workload is restarted
	e.check("")
	e.restart()
	e.counts(2)
	e.check("grown by 6")
	e.restart()
	e.check("grown by 6")
	e.restart()
	e.at = e.at.Add(time.Minute)
	e.check("")
	e.restart()
	e.counts(1e6)
	e.check("")
	e.begin("a")
	e.check("")
	if info, err := os.Stat(e.gate.Path); err != nil || info.Mode().Perm() != 0o600 || len(e.warned) > 0 {
		t.Errorf("%v, %v, %v", info, err, e.warned)
	}
	e.restart()
	e.at = e.at.Add(-time.Hour) // the clock was set back
	e.begin("b")
	e.restart()
	e.at = e.at.Add(-time.Hour)
	e.check("")
	e.at = e.at.Add(59 * time.Second)
	e.counts(1e6 + 6)
	e.check("grown by 6 in the 59s")
	if err := os.WriteFile(e.gate.Path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.restart()
	e.check("")
	if len(e.warned) != 1 || !strings.Contains(e.warned[0].Error(), "starts empty") {
		t.Error(e.warned)
	}
}

func TestMetricsThatCannotBeCompared(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"gauge":   {"# TYPE http_requests_total gauge\nhttp_requests_total 1\n", "is a gauge, and only a counter"},
		"garbage": {"http_requests_total{status=401} 1\n", "cannot be read"},
		"number":  {"http_requests_total{status=\"401\"} many\n", "cannot be read"},
		"NaN":     {"http_requests_total{status=\"401\"} NaN\n", ""},
		"untyped": {"http_requests_total{status=\"401\"} 1", ""},
	} {
		e := expose(t, of401, 5)
		e.text = c.text
		e.gate.recalled = true
		e.check(c.want)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	e := expose(t, of401, 5)
	e.text = "other_total 1\nhttp_requests_total_other 1\n"
	e.begin("a")
	e.at = e.at.Add(time.Minute)
	e.check("")
	if len(e.warned) != 1 || !strings.Contains(e.warned[0].Error(), "never was there") {
		t.Errorf("a metric that is not there is not told: %v", e.warned)
	}
}

// Many series, among many lines that are not wanted, and longer ones than fit.
func TestLargeExposition(t *testing.T) {
	e := expose(t, of401, 1e9)
	var text strings.Builder
	text.WriteString("# HELP http_requests_total of all\n# TYPE http_requests_total counter\n")
	for n := range 5000 {
		fmt.Fprintf(&text, "other_metric_bucket{le=\"%d\",x=\"%s\"} 7\n", n, strings.Repeat("y", 200))
		fmt.Fprintf(&text, "http_requests_total{path=\"/p%d\",status=\"401\"} 2\n", n)
	}
	fmt.Fprintf(&text, "other_total{x=\"%s\"} 1\n", strings.Repeat("z", 3*batchSize))
	fmt.Fprintf(&text, "http_requests_total{x=\"%s\",status=\"401\"} 5\n", strings.Repeat("z", 3*batchSize))
	e.text = text.String()
	s, err := e.gate.read(t.Context())
	total := 0.0
	for _, v := range s.series {
		total += v
	}
	if err != nil || len(s.series) != 5001 || total != 10005 {
		t.Errorf("%d series, %g in all, %v", len(s.series), total, err)
	}
}

// Of several values that the workload may hold, the one that it took last comes first: each wrong one is a refusal.
func TestGateWithTokens(t *testing.T) {
	e := expose(t, of401, 5)
	held := []string{"new", "old"}
	e.gate.Tokens = func() []string { return held }
	e.token = "old"
	e.counts(1)
	e.begin("a")
	e.check("")
	e.check("")
	e.token = "new" // it is restarted
	e.check("")
	e.check("")
	want := "Bearer new,Bearer old,Bearer old,Bearer old,Bearer old,Bearer new,Bearer new"
	if got := strings.Join(e.asked, ","); got != want {
		t.Errorf("asked with %s, want %s", got, want)
	}
	e.token = canary
	e.check("answered 401 Unauthorized: the token is not taken")
	held = nil
	e.check("no value of its key")

	path := filepath.Join(t.TempDir(), "token")
	e = expose(t, of401, 5)
	e.gate.BearerTokenFile = path
	for _, e.token = range []string{"one", "two"} { // it is read again
		if err := os.WriteFile(path, []byte(e.token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		e.counts(1)
		e.check("")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	e.check("bearer_token_file")
}

func TestMatchers(t *testing.T) {
	for text, c := range map[string]struct{ yes, no string }{
		"401":     {"401", "4011"},
		"4..":     {"4..", "401"},
		"=~4..":   {"401", "4010"},
		"=~ 4..":  {"404", ""},
		"=~a|b":   {"b", "ab"},
		"!=200":   {"", "200"},
		"!~2..":   {"401", "204"},
		"":        {"", "x"},
		"=~.*":    {"a\nb", "none"},
		"= equal": {"= equal", "equal"},
	} {
		m, err := ParseMatchers(map[string]string{"l": text})
		if err != nil || !m[0].matches(c.yes) || c.no != "none" && m[0].matches(c.no) {
			t.Errorf("%q: %v, %v", text, m, err)
		}
	}
	for label, text := range map[string]string{"a-b": "x", "a": "=~("} {
		if _, err := ParseMatchers(map[string]string{label: text}); err == nil || !strings.Contains(err.Error(), "labels: ") {
			t.Errorf("%s=%s: %v", label, text, err)
		}
	}
}

// It is used by one goroutine at a time, but not always the same.
func TestGateAmongOthers(t *testing.T) {
	e := expose(t, of401, 0)
	e.counts(1)
	var checks atomic.Int64
	all := All{e.gate, checkerFunc(func() error { checks.Add(1); return nil })}
	if err := all.Begin(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	e.counts(2)
	for range 3 {
		if err := all.Check(t.Context(), ""); !Proven(err) {
			t.Error(err)
		}
	}
	if checks.Load() != 3 {
		t.Errorf("%d other checks", checks.Load())
	}
}
