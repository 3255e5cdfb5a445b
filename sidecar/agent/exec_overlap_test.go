// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the check of the next process prints is masked before it is shortened, perhaps in the midst of a value.
func TestExecOverlapMasks(t *testing.T) {
	config := filepath.Join(t.TempDir(), "sidecar.hcl")
	check := `[ "$HYVVE_ETAG" != etag-1-0 ] || { echo etag-1-0; exit; }; printf 'canary-secret%s%0385d' -value-2 0; exit 1`
	text := fmt.Sprintf("exec { overlap = true }\nhealth \"command\" {\n command = [\"/bin/sh\", \"-c\", %q]\n expect_etag = true\n deadline = \"500ms\"\n interval = \"50ms\"\n}\n",
		check)
	vault := "vault {\n auth \"token_file\" { path = \"/replaced\" }\n}\n"
	if err := os.WriteFile(config, []byte(text+vault), 0o600); err != nil {
		t.Fatal(err)
	}
	e := startExec(t, newFakeVault(t), t.TempDir(), "rests", "--config="+config)
	e.await("loaded", loaded("etag-1-0"))
	e.fake.change(func() { e.fake.version = 2 })
	report := e.await("the reason", unhealthy("the next process is not healthy, and the one before continues"))
	if said := fmt.Sprint(report["reason"], e.log); strings.Contains(said, "secret-value") || !strings.Contains(said, "0000") {
		t.Errorf("it says %s", said)
	}
}
