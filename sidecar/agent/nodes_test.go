// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The agent does not mind a node of the cluster that is gone, nor one that is sealed, from login to report.
func TestSomeNodesAreOfNoUse(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	sealed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(`{"errors":["Vault is sealed"]}`))
	}))
	defer sealed.Close()
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
		c.Vault.Address = strings.Join([]string{gone.URL, sealed.URL, r.fake.server.URL}, ",")
	})
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	if strings.Contains(r.log.String(), "vault did not take a request") {
		t.Errorf("the agent noticed:\n%s", r.log)
	}
}
