// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// A misspelt name is logged once, and the rest is rendered.
func TestKeysThatTheBundleLacks(t *testing.T) {
	const said = "keys that the configuration names are not in the bundle"
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Render[0].Keys = []string{"TOKN", "TOKEN"}
		c.Targets[0].Keys = c.Render[0].Keys
		c.Exec = &config.ExecBlock{Keys: []string{"JWT_SECRT", "TOKN"}}
	})
	r.await("first", loaded("etag-1-0"))
	if log := r.log.String(); !strings.Contains(log, said) || !strings.Contains(log, `"keys":["JWT_SECRT","TOKN"]`) {
		t.Errorf("nothing is said of misspelt names:\n%s", log)
	}
	r.holds("status shows it", func() bool {
		s := r.agent.board.State()
		return s.Healthy && !s.Well() && slices.Equal(s.Absent, []string{"JWT_SECRT", "TOKN"})
	})
	if !strings.Contains(r.file(), canary+"-1") {
		t.Error("the key that is there is not rendered")
	}
	r.fake.change(func() { r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	if n := strings.Count(r.log.String(), said); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}

func TestNothingIsSaidOfKeysThatAreThere(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Render[0].Keys = []string{"TOKEN"}
		c.Targets[0].Keys = c.Render[0].Keys
	})
	r.await("first", loaded("etag-1-0"))
	if log := r.log.String(); strings.Contains(log, "are not in the bundle") {
		t.Error(log)
	}
}
