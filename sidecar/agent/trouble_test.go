// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// The log and the status distinguish why Vault serves no request, each in one line.
func TestTroubleIsDistinguished(t *testing.T) {
	for name, c := range map[string]struct {
		kind   string
		status int
		says   string
		not    string
	}{
		"login":   {"auth", 403, "cannot log in: ", "session ended"},
		"policy":  {"creds", 403, "Vault denies: the token has ended, or the policy needs hyvve/creds/api, hyvve/watch/api and hyvve/report/api (docs/sidecar.md, Policy in Vault): ", "cannot log in"},
		"away":    {"auth", 503, "Vault is away: ", "cannot log in"},
		"refused": {"creds", 400, "Vault refuses: ", "cannot log in"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.fake.fail[c.kind] = c.status })
			r.says(c.says)
			if strings.Contains(r.log.String(), c.not) {
				t.Errorf("it says %q: %s", c.not, r.log)
			}
			var out bytes.Buffer
			r.holds("the status says it in one line", func() bool {
				out.Reset()
				r.agent.board.State().Print(&out, time.Now())
				for line := range strings.Lines(out.String()) {
					if strings.HasPrefix(line, "vault") && strings.Contains(line, c.says) && strings.Contains(line, "injected") {
						return true
					}
				}
				return false
			})
		})
	}
}
