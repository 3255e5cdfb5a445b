// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// node has Node's crypto open all rows: an implementation that shares nothing with ours.
func (f *fixture) node(mode string, master, auth key.Value) {
	f.t.Helper()
	type item struct {
		Layout   key.Layout `json:"layout"`
		Secret   string     `json:"secret"`
		Envelope string     `json:"envelope"`
	}
	var items []item
	for _, r := range f.rows {
		secret := master
		if r.Layout == key.TagLast {
			secret = auth
		}
		items = append(items, item{r.Layout, secret.Reveal(), f.read(r).String()})
	}
	input, err := json.Marshal(items)
	if err != nil {
		f.t.Fatal(err)
	}
	run := exec.CommandContext(f.t.Context(), "node", filepath.Join(bed.Repo(), "internal/envelope/testdata/open.mjs"))
	run.Stdin, run.Stderr = bytes.NewReader(input), os.Stderr
	output, err := run.Output()
	if err != nil {
		f.t.Fatalf("%s: node: %v", mode, err)
	}
	var plaintexts []string
	if err := json.Unmarshal(output, &plaintexts); err != nil {
		f.t.Fatal(err)
	}
	for n, r := range f.rows {
		if plaintexts[n] != r.Plaintext {
			f.t.Errorf("%s: Node reads another plaintext of %s %s", mode, r.Table, r.ID)
		}
	}
}

// What each mode writes is in the platform's format.
func TestNodeReadsWhatEachModeWrites(t *testing.T) {
	for _, mode := range []struct {
		name    string
		options Options
		upgrade bool
	}{
		{"staged", Options{AllowSuperuser: true}, false},
		{"in place", Options{AllowSuperuser: true, InPlace: true}, false},
		{"a salt a row", Options{AllowSuperuser: true, SaltPerRow: true}, false},
		{"upgraded", Options{AllowSuperuser: true}, true},
	} {
		f := newFixture(t)
		w := NewWorker(f.url, mode.options)
		for _, s := range []struct {
			phase workload.Phase
			now   key.Value
		}{{workload.PhaseStage, f.oldKey}, {workload.PhaseFlip, f.newKey}, {workload.PhaseRevert, f.oldKey}} {
			work := f.work(s.phase)
			work.Upgrade = mode.upgrade
			if _, err := w.Do(t.Context(), work, f.accepts()); err != nil {
				t.Fatalf("%s: %s: %v", mode.name, s.phase, err)
			}
			for n := 13; n < 16; n++ { // the legacy rows
				f.rows[n].Layout = key.TagLast
				if mode.upgrade && s.phase == workload.PhaseFlip {
					f.rows[n].Layout = key.TagFirst
				}
			}
			f.node(mode.name+", "+string(s.phase), s.now, f.oldAuth)
		}
	}
}
