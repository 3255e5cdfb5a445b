// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/kinds"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

var update = flag.Bool("update", false, "write the golden responses and the generated pages")

// golden records what paths answer, one file for each first word of a path.
type golden struct {
	*backendTest
	name  string
	files map[string]*bytes.Buffer
	calls []goldenCall
}

// goldenCall is a call and its answer.
type goldenCall struct {
	operation logical.Operation
	path      string
	detailed  bool
	response  *logical.Response
}

// varying is what differs from run to run in the JSON of an answer.
var varying = []struct {
	find *regexp.Regexp
	put  string
}{
	{regexp.MustCompile(`"(fingerprint|from_fingerprint|to_fingerprint|hash|prev|head|etag|etag_issued|etag_loaded|instance_secret|accessor_fingerprint)": "[^"]+"`), `"$1": "<$1>"`},
	{regexp.MustCompile(`(?s)"held_back": \[\s+\{.*?\n\s+\],`), `"held_back": "<gates and times>",`},
	{regexp.MustCompile(`(?s)"journal": \[\s+\{.*?\n    \],`), `"journal": "<entries>",`}, // whose numbers vary
	{regexp.MustCompile(`"evidence_json": ".*"`), `"evidence_json": "<JSON>"`},
	{regexp.MustCompile(`("line_\d+": ".*",?\s+)+`), "\"line_001\": \"<lines>\"\n  "},
	{regexp.MustCompile(`"(age|last_heard|lease|free_in)": (\d+|"[\dhms]+")`), `"$1": "<duration>"`},
	{regexp.MustCompile(`"(count|entries|last|revision)": \d+`), `"$1": "<number>"`},
	{regexp.MustCompile(`fingerprint [0-9a-f]{8,16}`), `fingerprint <fingerprint>`},
	{regexp.MustCompile(`held it back for [0-9.]+m?s`), `held it back for <duration>`},
	{regexp.MustCompile(`last seen \d+s ago`), `last seen <duration> ago`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z`), "<nanoseconds>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "<seconds>"},
	{regexp.MustCompile(`_timestamp_seconds(.*": )[0-9.]+`), "_timestamp_seconds$1<seconds>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d`), "<minute>"},
	{regexp.MustCompile(`\d[0-9.ms]*s old`), "<age> old"},
	{regexp.MustCompile(`\d[0-9.µms]*s, the median`), "<duration>, the median"},
	{regexp.MustCompile(`lease-[0-9a-f]{8,}`), "lease-<id>"},
	{regexp.MustCompile(`\b[0-9a-f]{32,}\b`), "<hex>"},
}

var rotationID = regexp.MustCompile(`\d{8}t\d{6}\.\d{3}-[0-9a-f]{6}`)

// record calls a path and notes what it answers.
func (g *golden) record(operation logical.Operation, path string, data map[string]any) *logical.Response {
	g.t.Helper()
	resp := g.call(operation, path, data)
	g.calls = append(g.calls, goldenCall{operation, path, data["detailed"] == true, resp})
	answer := struct {
		Operation logical.Operation `json:"operation"`
		Path      string            `json:"path"`
		Request   map[string]any    `json:"request,omitempty"`
		Data      map[string]any    `json:"data"`
		Warnings  []string          `json:"warnings,omitempty"`
		Lease     string            `json:"lease,omitempty"`
		Raw       string            `json:"raw,omitempty"`
	}{Operation: operation, Path: path, Request: data}
	if resp != nil {
		answer.Data, answer.Warnings = resp.Data, resp.Warnings
		if resp.Secret != nil {
			answer.Lease = fmt.Sprintf("ttl %s, renewable %t", resp.Secret.TTL, resp.Secret.Renewable)
		}
		if raw, ok := resp.Data[logical.HTTPRawBody].([]byte); ok {
			answer.Data, answer.Raw = nil, string(raw)
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(answer); err != nil {
		g.t.Fatal(err)
	}
	first, _, _ := strings.Cut(path, "/")
	if g.files[first] == nil {
		g.files[first] = &bytes.Buffer{}
	}
	g.files[first].Write(text.Bytes())
	return resp
}

// check compares the files with those of testdata/golden, or writes them.
func (g *golden) check() {
	g.t.Helper()
	for first, file := range g.files {
		text := file.String()
		for _, v := range varying {
			text = v.find.ReplaceAllString(text, v.put)
		}
		var ids []string
		text = rotationID.ReplaceAllStringFunc(text, func(id string) string {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
			return fmt.Sprintf("<rotation %d>", slices.Index(ids, id)+1)
		})
		path := filepath.Join("testdata", "golden", g.name+"-"+first+".json")
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				g.t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			g.t.Fatal(err)
		}
		if text != string(want) {
			g.t.Errorf("%s differs; go test -run %s ./plugin -update writes it:\n%s", path, g.t.Name(), firstDifference(string(want), text))
		}
	}
}

// firstDifference shows the first lines that differ.
func firstDifference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for n := range max(len(a), len(b)) {
		if n >= len(a) || n >= len(b) || a[n] != b[n] {
			from := max(0, n-3)
			return fmt.Sprintf("line %d\nwant:\n%s\ngot:\n%s", n+1, strings.Join(a[min(from, len(a)):min(n+3, len(a))], "\n"), strings.Join(b[min(from, len(b)):min(n+3, len(b))], "\n"))
		}
	}
	return ""
}

// goldenFresh drives a fresh mount through all its paths.
func goldenFresh(t *testing.T) *golden {
	t.Helper()
	return goldenFreshAt(t, "hyvve/")
}

// goldenFreshAt is [goldenFresh] of an engine that is mounted somewhere.
func goldenFreshAt(t *testing.T, mount string) *golden {
	t.Helper()
	directory := toy.NewDirectory("root-password", time.Millisecond)
	directory.Add("legacy", "legacy-password")
	b := newBackendTestOf(t, func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		made := newBackend(append(kinds.All(), toy.New(directory)))
		return made, made.Setup(ctx, conf)
	})
	b.mount = mount
	g := &golden{backendTest: b, name: "fresh", files: map[string]*bytes.Buffer{}}
	g.recordDefinitions()
	g.recordInstances()
	g.recordRotations()
	g.recordTripwires()
	g.recordEscalations()
	g.recordVersions()
	g.recordJournal()
	return g
}

// goldenEarlier reads the mount of testdata/mount-436b301.json, whose rotations re-encrypt rows.
func goldenEarlier(t *testing.T) *golden {
	t.Helper()
	b, m := openEarlier(t)
	g := &golden{backendTest: b, name: "earlier", files: map[string]*bytes.Buffer{}}
	b.write("config", map[string]any{"look_every": 0})
	for _, id := range b.list("rotations") {
		if id != m.Active {
			g.record(logical.ReadOperation, "rotations/"+id, nil)
		}
	}
	for _, name := range b.list("keys") {
		if name != "metrics-api-key" && name != "weekly-token" { // they rotate by themselves as the file grows old
			g.record(logical.ReadOperation, "keys/"+name, nil)
		}
	}
	for after := 0; after < 50; after += 10 {
		g.record(logical.ReadOperation, "journal", map[string]any{"after": fmt.Sprint(after), "limit": 10})
	}
	return g
}

func TestGoldenResponses(t *testing.T) {
	for name, drive := range map[string]func(*testing.T) *golden{"fresh": goldenFresh, "earlier": goldenEarlier} {
		t.Run(name, func(t *testing.T) { drive(t).check() })
	}
}
