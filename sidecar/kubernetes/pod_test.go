// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"net/http"
	"testing"
)

// A pod is known to end only where the API server says so.
func TestEnding(t *testing.T) {
	job := func(policy, container, a, b string) string {
		return fmt.Sprintf(`{"spec":{"restartPolicy":%q,"containers":[{"name":"a"%s},{"name":"b"}]},"status":{"phase":"Running","containerStatuses":[
			{"name":"a","state":{%s}},{"name":"b","state":{%s}}]}}`, policy, container, a, b)
	}
	running, done, failed := `"running":{}`, `"terminated":{"exitCode":0}`, `"terminated":{"exitCode":1}`
	for name, c := range map[string]struct {
		answer string
		want   bool
	}{
		"it is deleted":              {`{"metadata":{"deletionTimestamp":"2026-11-30T16:00:00Z"}}`, true},
		"it runs":                    {`{"metadata":{"name":"api-0"}}`, false},
		"it has succeeded":           {`{"status":{"phase":"Succeeded"}}`, true},
		"it may not ask":             {``, false},
		"a Job is done":              {job("Never", "", done, failed), true},
		"a Job runs":                 {job("Never", "", done, running), false},
		"a Job has not begun":        {`{"spec":{"restartPolicy":"Never","containers":[{"name":"a"}]}}`, false},
		"a Job is tried again":       {job("OnFailure", "", done, failed), false},
		"a Job is done at last":      {job("OnFailure", "", done, done), true},
		"it is started again":        {job("Always", "", done, done), false},
		"one is started again":       {job("Never", `,"restartPolicy":"Always"`, done, done), false},
		"one is not":                 {job("OnFailure", `,"restartPolicy":"Never"`, failed, done), true},
		"one may be, by rules":       {job("Never", `,"restartPolicy":"Never","restartPolicyRules":[{"action":"Restart"}]`, failed, done), false},
		"a policy of a newer server": {job("Sometimes", "", done, done), false},
	} {
		k := faulty(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces/apps/pods/api-0" {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			if c.answer == "" {
				w.WriteHeader(http.StatusForbidden)
			}
			_, _ = w.Write([]byte(c.answer))
		})
		got, err := k.Ending(t.Context(), "apps", "api-0")
		if got != c.want || (err != nil) != (c.answer == "") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
