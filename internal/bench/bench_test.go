// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestRatiosSayHowMuchBetterOursIs(t *testing.T) {
	if r := rates("x", "rows/s", 100, 20); r.Ratio != 5 || r.Holds != nil {
		t.Errorf("%+v", r)
	}
	if r := times("x", 10*time.Millisecond, 50*time.Millisecond); r.Ratio != 5 || r.Ours != 10 {
		t.Errorf("%+v", r)
	}
	if r := rates("x", "", 5, 1).against(4); !*r.Holds || *r.Bar != 4 {
		t.Errorf("%+v", r)
	}
	if r := rates("x", "", 3, 1).against(4); *r.Holds {
		t.Errorf("%+v", r)
	}
}

func TestRunWritesTableAndFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "bench.json")
	var out bytes.Buffer
	if err := Run(t.Context(), regexp.MustCompile("^pbkdf2-single$"), &out, path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var results []map[string]any
	if err := json.Unmarshal(data, &results); err != nil || len(results) != 1 {
		t.Fatalf("%v: %s", err, data)
	}
	for _, field := range []string{"name", "unit", "ours", "peer", "ratio", "bar", "holds"} {
		if _, ok := results[0][field]; !ok {
			t.Errorf("field %s is missing", field)
		}
	}
	if !strings.Contains(out.String(), "pbkdf2-single") {
		t.Errorf("no table:\n%s", out.String())
	}
	if err := Run(t.Context(), regexp.MustCompile("nothing"), &out, path); err == nil {
		t.Error("a name that matches nothing is no error")
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
