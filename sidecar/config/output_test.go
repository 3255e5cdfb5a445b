// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

// An instance that renders nothing would report keys as loaded that its workload never sees.
func TestConfigurationWithoutOutputIsRefused(t *testing.T) {
	text := "workload = \"api\"\nvault {\n  address = \"http://127.0.0.1:8200\"\n  auth \"token_file\" { path = \"/t\" }\n}\n"
	const refused = "nothing is rendered, and there is no proxy, reencrypt or exec block"
	for more, want := range map[string]bool{
		"": true,
		"reload \"command\" {\n  command = [\"true\"]\n}":                                                      true,
		"render \"json\" { path = \"/run/app/keys.json\" }":                                                    false,
		"exec {\n  command = [\"true\"]\n}":                                                                    false,
		"reencrypt { database_url_file = \"/run/app/database\" }":                                              false,
		"proxy {\n  listen = \"127.0.0.1:8081\"\n  upstream = \"http://127.0.0.1:8080\"\n  key = \"TOKEN\"\n}": false,
	} {
		f, err := Parse([]byte(text+more), "sidecar.hcl")
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Check()
		if got := err != nil && strings.Contains(err.Error(), refused); got != want {
			t.Errorf("%q: %v", more, err)
		}
	}
}
