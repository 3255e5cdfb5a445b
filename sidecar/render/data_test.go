// SPDX-License-Identifier: Apache-2.0

package render

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

func TestData(t *testing.T) {
	all := variables.Choice{Accepts: true, Previous: true}
	for _, test := range []struct {
		data Data
		want map[string]string
	}{
		{Data{Choice: variables.Choice{Keys: []string{"METRICS_API_KEY"}}}, map[string]string{"METRICS_API_KEY": "canary+new/1="}},
		{Data{Choice: all, Fields: map[string]Field{"token": {Key: "METRICS_API_KEY"}, "all": {Key: "METRICS_API_KEY_ACCEPTS"}, "old": {Key: "METRICS_API_KEY_PREVIOUS"}}}, map[string]string{
			"token": "canary+new/1=", "all": `["canary+new/1=","canary-old"]`, "old": "canary-old",
		}},
		{Data{Fields: map[string]Field{"header": {Template: parsed(t, `Bearer {{ value "METRICS_API_KEY" }}`)}}}, map[string]string{"header": "Bearer canary+new/1="}},
	} {
		got, err := test.data.Of(held())
		if err != nil {
			t.Error(err)
		}
		for name, want := range test.want {
			if string(got[name]) != want {
				t.Errorf("%s is %q, want %q", name, got[name], want)
			}
		}
		if len(got) != len(test.want) {
			t.Errorf("there are %d", len(got))
		}
	}
	for want, field := range map[string]Field{
		"data: token: the bundle has no key METRICS_API_KAY": {Key: "METRICS_API_KAY"},
		"the bundle has no key OTHER":                        {Template: parsed(t, `{{ value "OTHER" }}`)},
	} {
		_, err := Data{Fields: map[string]Field{"token": field}}.Of(held())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v; want %s", err, want)
		}
	}
}
