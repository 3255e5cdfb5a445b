// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// What is shown as lines, by the first part of the path. The rest is to follow; creds/ is for programs.
var shownAsLines = []string{"rotate", "rotations", "status", "identify", "workloads"}

// Without detailed=true, an answer is readable as the command line of Vault prints it: no Go map, and no endless line.
func TestPlainAnswersAreReadable(t *testing.T) {
	seen := 0
	for _, g := range []*golden{goldenFresh(t), goldenEarlier(t)} {
		for _, c := range g.calls {
			first, _, _ := strings.Cut(c.path, "/")
			if c.response == nil || c.response.IsError() || c.detailed || c.operation == logical.ListOperation || !slices.Contains(shownAsLines, first) || strings.Contains(c.path, "/instances") {
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
	if seen < 15 {
		t.Errorf("%d answers were read", seen)
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
