// SPDX-License-Identifier: Apache-2.0

package app

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// The eighth trap of the platform's runbook (docs/platform.md): a guard that holds one token refuses every caller that has
// not switched yet, in whichever order api and agents switch. With an accept-list no caller is refused on the way.
func TestTrap8OneToken(t *testing.T) {
	type step struct {
		accepts   []string // of api
		presented string   // by agents
	}
	refused := func(steps []step) (n int) {
		for _, s := range steps {
			a := &api{}
			a.now.Store(&held{Values: map[string]string{agentToken: s.accepts[0]}, Accepts: map[string][]string{agentToken: s.accepts}})
			request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/call", http.NoBody)
			request.Header.Set("Authorization", "Bearer "+s.presented)
			answer := httptest.NewRecorder()
			if a.call(answer, request); answer.Code == http.StatusUnauthorized {
				n++
			}
		}
		return n
	}
	runbook := []step{{[]string{"old"}, "old"}, {[]string{"new"}, "old"}, {[]string{"new"}, "new"}}
	if refused(runbook) != 1 {
		t.Error("the runbook's way refuses nobody: this is no trap")
	}
	ours := []step{{[]string{"old"}, "old"}, {[]string{"new", "old"}, "old"}, {[]string{"new", "old"}, "new"}, {[]string{"new"}, "new"}}
	if n := refused(ours); n != 0 {
		t.Errorf("%d requests are refused", n)
	}
}
