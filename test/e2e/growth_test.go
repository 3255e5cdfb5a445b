// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// usage is what a sidecar says that it takes.
type usage struct {
	goroutines, descriptors, threads, heap float64 // heap in bytes in use
	files                                  int     // in its directory
}

func (w *growing) usage() usage {
	w.t.Helper()
	resp, err := status.Get(w.t.Context(), filepath.Join(w.dir, ".status-.env.hyvve"), "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	value := func(name string) float64 {
		f, ok := all[name]
		if !ok {
			w.t.Fatalf("no %s", name)
		}
		return f.GetMetric()[0].GetGauge().GetValue()
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return usage{value("go_goroutines"), value("process_open_fds"), value("go_threads"), value("go_memstats_heap_inuse_bytes"), len(entries)}
}

// growing is one sidecar of one workload on a Vault.
type growing struct {
	t      *testing.T
	dir    string
	engine *client.Client
}

// rotate rotates a number of times, and waits until the file is that of the last one and the status has settled.
func (w *growing) rotate(times int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := range times {
		r, err := w.engine.Rotate(ctx, "growth", "token")
		for err == nil && !r.Ended() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				w.t.Fatalf("rotation %d is %s %s: %s", n, r.State, r.Step, r.NextGate)
			}
			r, err = w.engine.Rotation(ctx, r.ID)
		}
		if err != nil || r.State != "done" {
			w.t.Fatalf("rotation %d: %s, %v", n, r.State, err)
		}
	}
}

// A hundred rotations later a sidecar has as many goroutines, descriptors and files as after ten, and its heap has not grown.
func TestSidecarDoesNotGrow(t *testing.T) {
	t.Parallel() // it waits most of the time
	b := bed.ForTest(t)
	v, err := b.Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, write := range []struct {
		path string
		data map[string]any
	}{
		{"config", map[string]any{"soak": 0, "observe": 0}},
		{"keys/token", map[string]any{"generate": true, "format": "hex"}},
		{"workloads/app", map[string]any{"presents": "token", "verifies": "token", "max_unavailable": "100%"}},
	} {
		if _, err := v.Client.Logical().WriteWithContext(t.Context(), bed.Mount+"/"+write.path, write.data); err != nil {
			t.Fatal(err)
		}
	}
	w := &growing{t: t, dir: filepath.Join(b.Dir, "app"), engine: client.New(v.Client, bed.Mount)}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(b.Dir, "token")
	config := filepath.Join(b.Dir, "sidecar.hcl")
	for path, text := range map[string]string{token: v.Token, config: fmt.Sprintf(`
workload = "app"
vault {
  address = %q
  auth "token_file" { path = %q }
}
render "dotenv" {
  path     = "%[3]s/.env"
  accepts  = true
  previous = true
}
render "json" { path = "%[3]s/keys.json" }
render "template" {
  path     = "%[3]s/rendered"
  template = "{{ value \"TOKEN\" }} {{ join (accepts \"TOKEN\") \",\" }}"
}
reload "command" { command = ["true"] }
health "command" { command = ["true"] }
`, v.Addr, token, w.dir)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sidecar, err := b.Program("sidecar", bed.Tool("bin", "hyvve-sidecar"), []string{"agent", "--config=" + config}, nil)
	if err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "all is rendered", func() bool {
		data, err := os.ReadFile(filepath.Join(w.dir, "rendered"))
		return err == nil && strings.Contains(string(data), " ")
	}, sidecar.Tail)
	w.rotate(10)
	before := w.usage()
	w.rotate(100)
	const slack = 3 // goroutines, descriptors or threads of what is under way at the moment
	var after usage
	for end := time.Now().Add(30 * time.Second); ; { // until what was under way has ended
		after = w.usage()
		grown := after.goroutines > before.goroutines+slack || after.descriptors > before.descriptors+slack || after.heap > before.heap+2<<20
		if !grown || time.Now().After(end) {
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	t.Logf("after 10 rotations %+v, after 110 %+v", before, after)
	if after.goroutines > before.goroutines+slack || after.descriptors > before.descriptors+slack || after.threads > before.threads+2*slack || after.files != before.files {
		t.Errorf("it has grown: %+v after 10 rotations, %+v after 110", before, after)
	}
	if after.heap > before.heap+2<<20 {
		t.Errorf("its heap was %.1f MB after 10 rotations, and is %.1f MB after 110", before.heap/(1<<20), after.heap/(1<<20))
	}
}
