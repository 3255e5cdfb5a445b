// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// A forgotten job presents a token that a rotation has retired. It is refused as anybody's nonsense, and named in the status, at
// the key, in the journal and in the receipt, until somebody acknowledges it.
func TestForgottenJobPresentsARetiredToken(t *testing.T) {
	w := start(t, small(true))
	first := w.Initial[agentToken].Reveal()
	address, err := w.StartProxy(t.Context(), 3, guard(t, first))
	if err != nil {
		t.Fatal(err)
	}
	ask := asking(address + "/call")
	id := w.rotate("agent-service-token")
	w.follow(id, "done")
	vault := w.Server.Client.Logical()
	read := func(path string) string {
		t.Helper()
		answer, err := vault.ReadWithDataWithContext(t.Context(), "hyvve/"+path, url.Values{"detailed": {"true"}})
		if err != nil || answer == nil {
			t.Fatalf("%s: %v", path, err)
		}
		text, err := json.Marshal(answer.Data)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if strings.Contains(read("status"), "was presented") {
		t.Error("something was presented during the rotation")
	}
	for _, token := range []string{first, first, "nonsense", first} {
		if status := ask(t.Context(), token); status != http.StatusUnauthorized {
			t.Errorf("status %d", status)
		}
	}
	const seen = "retired version 1 of AGENT_SERVICE_TOKEN was presented "
	kit.Until(t, "the status says it", func() bool { return strings.Contains(read("status"), seen+"3 times, last at ") }, func() string { return read("status") })
	for path, want := range map[string]string{
		"status":                       " from 127.0.0.1 (seen by api/api-3): a forgotten job or an intruder",
		"keys/agent-service-token":     `"presented_retired":[{"acknowledged":0,"clients":[{"from":"127.0.0.1"`,
		"rotations/" + id + "/receipt": `"presented_retired":[{"acknowledged":0`,
		"journal":                      seen,
	} {
		if text := read(path); !strings.Contains(text, want) {
			t.Errorf("%s does not say %q: %s", path, want, text)
		}
	}
	if _, err := vault.WriteWithContext(t.Context(), "hyvve/keys/agent-service-token/acknowledge", map[string]any{"reason": "the nightly job"}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(read("status"), seen) {
		t.Error("it is in the status after it was acknowledged")
	}
	ask(t.Context(), first)
	kit.Until(t, "it is in the status again", func() bool { return strings.Contains(read("status"), seen+"4 times") }, func() string { return fmt.Sprint(read("status")) })
	w.conclude()
}
