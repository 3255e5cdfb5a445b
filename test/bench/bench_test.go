// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func TestRatiosSayHowMuchBetterOursIs(t *testing.T) {
	if r := rates("x", "rows/s", 100, 20); *r.Ratio != 5 || r.Bar != nil || r.Holds != nil {
		t.Errorf("%+v", r)
	}
	if r := times("x", 10*time.Millisecond, 50*time.Millisecond); *r.Ratio != 5 || r.Ours != 10 || *r.Peer != 50 {
		t.Errorf("%+v", r)
	}
	for ratio, want := range map[float64]bool{3.99: false, 4: true, 5: true} {
		if r := rates("x", "", ratio, 1).against(4); *r.Holds != want || *r.Bar != 4 {
			t.Errorf("ratio %v: %+v", ratio, r)
		}
	}
}

func TestBarsInTheUnit(t *testing.T) {
	for ours, want := range map[float64]bool{1499: false, 1500: true, 1501: true} {
		var out bytes.Buffer
		r := Result{Name: "x", Unit: "reviews/s", Ours: ours}.atLeast(1500)
		table(&out, []Result{r})
		if *r.Holds != want || strings.Contains(out.String(), "BELOW ITS BAR: 1499.0 reviews/s, at least 1500.0") == want {
			t.Errorf("%v: %+v, %s", ours, r, out.String())
		}
	}
}

// What the injector is measured with is a review as an API server sends it.
func TestRealisticReview(t *testing.T) {
	var review struct {
		Kind    string
		Request struct {
			Object struct{ Spec struct{ Containers []any } }
		}
	}
	if err := json.Unmarshal([]byte(realisticReview()), &review); err != nil || len(review.Request.Object.Spec.Containers) != 2 {
		t.Errorf("%v: %+v", err, review)
	}
}

func TestResultsAsJSON(t *testing.T) {
	for want, r := range map[string]Result{
		`{"name":"x","unit":"rows/s","ours":6,"peer":2,"ratio":3,"bar":null,"holds":null}`:   rates("x", "rows/s", 6, 2),
		`{"name":"x","unit":"rows/s","ours":6,"peer":2,"ratio":3,"bar":4,"holds":false}`:     rates("x", "rows/s", 6, 2).against(4),
		`{"name":"x","unit":"ms","ours":1,"peer":null,"ratio":null,"bar":null,"holds":null}`: alone("x", time.Millisecond),
	} {
		if got, err := json.Marshal(r); err != nil || string(got) != want {
			t.Errorf("%s, want %s (%v)", got, want, err)
		}
	}
}

func TestTableShoutsWhereABarDoesNotHold(t *testing.T) {
	var out bytes.Buffer
	table(&out, []Result{rates("low", "x", 1, 1).against(2), rates("high", "x", 3, 1).against(2), alone("none", time.Second)})
	if !strings.Contains(out.String(), "low IS BELOW ITS BAR: 1.00, at least 2.00") || strings.Count(out.String(), "BELOW") != 1 {
		t.Errorf("table:\n%s", out.String())
	}
}

func TestInterleaveTakesTurns(t *testing.T) {
	var order string
	took, err := interleave(3, func() error { order += "o"; return nil }, func() error { order += "p"; return nil })
	if err != nil || order != "opopop" || len(took) != 2 {
		t.Errorf("%s, %v, %v", order, took, err)
	}
	if m := median([]float64{9, 1, 2}); m != 2 {
		t.Errorf("median %v", m)
	}
}

// The runbook's way, which ours is compared with, does what it should: it seals under the new key with a salt of its
// own, and leaves alone what is there already.
func TestReseal(t *testing.T) {
	oldSecret, salt := draw()
	newSecret, _ := draw()
	derived, err := standard(oldSecret, salt)
	if err != nil {
		t.Fatal(err)
	}
	e, err := envelope.Seal(key.TagFirst, derived, salt, []byte("plain"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := reseal(e.String(), oldSecret, newSecret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := envelope.Parse(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if plaintext, err := openStandard(got, newSecret); err != nil || string(plaintext) != "plain" || got.Salt == salt {
		t.Errorf("%q, salt kept: %v, %v", plaintext, got.Salt == salt, err)
	}
	if again, err := reseal(sealed, oldSecret, newSecret); err != nil || again != sealed {
		t.Errorf("a rotated row is changed again: %v", err)
	}
	if _, err := reseal(e.String(), newSecret, newSecret); err == nil {
		t.Error("a row under neither key is no error")
	}
}

func TestRunWritesTableAndFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "bench.json")
	benchmarks := []benchmark{
		{[]string{"one", "two"}, func(context.Context, io.Writer) ([]Result, error) {
			return []Result{rates("one", "x", 3, 1), rates("two", "x", 2, 1)}, nil
		}},
		{[]string{"broken"}, func(context.Context, io.Writer) ([]Result, error) { return nil, errors.New("no server") }},
	}
	var out bytes.Buffer
	if err := run(t.Context(), benchmarks, regexp.MustCompile("^one$"), &out, path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var results []Result
	if err := json.Unmarshal(data, &results); err != nil || len(results) != 1 || results[0].Name != "one" {
		t.Errorf("%v: %s", err, data)
	}
	if !strings.Contains(out.String(), "3.00") {
		t.Errorf("no table:\n%s", out.String())
	}
	for _, wrong := range []string{"broken", "nothing"} {
		if err := run(t.Context(), benchmarks, regexp.MustCompile(wrong), &out, path); err == nil {
			t.Errorf("-run %s is no error", wrong)
		}
	}
}

func TestMemoryOfAProcess(t *testing.T) {
	now, err := memoryOf("/proc/self", "VmRSS")
	if err != nil || now < 1 {
		t.Errorf("%v MB now, %v", now, err)
	}
	if most, err := memoryOf("/proc/self", "VmHWM"); err != nil || most < 1 {
		t.Errorf("%v MB at most, %v", most, err)
	}
	if ended, err := memoryOf("/proc/0", "VmRSS"); err != nil || ended != 0 {
		t.Errorf("a process that is not there has %v MB, %v", ended, err)
	}
}

// The docs explain every name.
func TestDocsExplainEveryName(t *testing.T) {
	docs, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all() {
		for _, name := range b.names {
			if !strings.Contains(string(docs), "`"+name+"`") {
				t.Errorf("docs/benchmarks.md does not explain %s", name)
			}
		}
	}
}
