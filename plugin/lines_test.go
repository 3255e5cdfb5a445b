// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// Paths that are for programs, by their first part.
var forPrograms = []string{"creds", "watch", "report", "leave"}

// Without detailed=true, an answer is readable as the command line of Vault prints it: no Go map, and no endless line.
func TestPlainAnswersAreReadable(t *testing.T) {
	seen := 0
	for _, g := range []*golden{goldenFresh(t), goldenEarlier(t)} {
		for _, c := range g.calls {
			first, _, _ := strings.Cut(c.path, "/")
			if c.response == nil || c.response.IsError() || c.detailed || c.operation == logical.ListOperation || slices.Contains(forPrograms, first) || c.response.Data[logical.HTTPRawBody] != nil {
				continue
			}
			seen++
			for name, value := range c.response.Data {
				for line := range strings.Lines(fmt.Sprintf("%s    %v", name, value)) {
					if strings.Contains(line, "map[") || len([]rune(line)) > 200 {
						t.Errorf("%s %s: %s", c.operation, c.path, line)
					}
				}
			}
		}
	}
	if seen < 60 {
		t.Errorf("%d answers were read", seen)
	}
}

// The newest entry of the journal has a name.
func TestLatestEntryOfTheJournal(t *testing.T) {
	b := newBackendTest(t)
	if resp := b.read("journal/latest"); resp != nil {
		t.Error(resp.Data)
	}
	b.write("config", map[string]any{"soak": "2m"})
	b.write("keys/one", map[string]any{"generate": true})
	all := b.list("journal")
	if data := b.read("journal/latest").Data; data["id"] != all[len(all)-1] || len(data["keys"].([]map[string]any)) != 1 {
		t.Error(data)
	}
	if data := b.read("journal/1", map[string]any{}).Data; data["change_01"] != "soak: 30s -> 2m" || data["keys"] != "none" {
		t.Error(data)
	}
}

// Nothing to show is said.
func TestEmptyStatusSaysSo(t *testing.T) {
	b := newBackendTest(t)
	if text := fmt.Sprint(b.read("status").Data); !strings.Contains(text, "no key is defined") {
		t.Error(text)
	}
	b.write("presets/hyvve", map[string]any{"generate": true, "workloads": "api,agents"})
	if text := fmt.Sprint(b.read("status", map[string]any{"busy": true}).Data); !strings.Contains(text, "no rotation runs, and nothing is wrong") {
		t.Error(text)
	}
}
