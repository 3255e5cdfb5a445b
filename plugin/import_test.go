// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// A wrong import is replaced by the same command, until an instance was given it. The answers and the journal say what happened,
// and no value.
func TestWrongImportIsReplacedByTheSameCommand(t *testing.T) {
	b := newBackendTest(t)
	const wrong, right = "wrong-canary-0123456789", "right-canary-0123456789"
	b.write("keys/partner", map[string]any{"kind": "external", "value": wrong})
	b.write("workloads/api", map[string]any{"presents": "partner"})
	b.refuses(logical.UpdateOperation, "keys/partner", map[string]any{"value": wrong}, "key partner has this value already, as version 1; nothing was changed")
	if plan := b.write("keys/partner", map[string]any{"value": right, "dry_run": true}); plan["change_01"] != "value: version 1, which nobody was given → version 2, imported" {
		t.Error(plan)
	}
	answer := b.write("keys/partner", map[string]any{"value": right, "soak": "1m"})
	if text := fmt.Sprint(answer["version_01"], answer["version_02"], answer["soak"]); !strings.HasPrefix(text, "version 2: current") || !strings.Contains(text, "version 1: aborted") || !strings.HasSuffix(text, "1m") {
		t.Error(answer)
	}
	if entry := b.read("journal/latest", map[string]any{}).Data; !strings.HasPrefix(fmt.Sprint(entry["key_01"]), "partner 1 -> 2, fingerprint ") || !strings.Contains(fmt.Sprint(entry["what"]), "replaced") {
		t.Error(entry)
	}
	if values := b.read("creds/api", map[string]any{"instance": "api-1"}).Data["values"].(map[string]any); values["PARTNER"] != right {
		t.Error("the instance was given something else")
	}
	b.refuses(logical.UpdateOperation, "keys/partner", map[string]any{"value": "too-late-canary-0123456789"}, "an instance may have version 2")
	b.refuses(logical.UpdateOperation, "keys/partner", map[string]any{"value": right}, "an instance may have version 2") // no answer to a guess
	for _, v := range []string{wrong, right, "too-late-canary"} {
		if strings.Contains(b.answers.String(), v) || strings.Contains(b.log.String(), v) {
			t.Error("a value stands in an answer or the log")
		}
	}
}
