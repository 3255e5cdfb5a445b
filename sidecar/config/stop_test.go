// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// A configuration shows how the sidecar can know that its workload has ended.
func TestEnding(t *testing.T) {
	http := func(url string) config.HealthBlock { return config.HealthBlock{Method: "http", URL: url} }
	tcp := config.HealthBlock{Method: "tcp", Address: "127.0.0.1:5432"}
	for name, c := range map[string]struct {
		file config.File
		want config.Ending
	}{
		"nothing":                     {config.File{}, config.EndUnseen},
		"exec":                        {config.File{Exec: &config.ExecBlock{}}, config.EndProcess},
		"a signal":                    {config.File{Reload: &config.ReloadBlock{Method: "signal"}}, config.EndProcess},
		"another reload":              {config.File{Reload: &config.ReloadBlock{Method: "http"}}, config.EndUnseen},
		"a port":                      {config.File{Health: []config.HealthBlock{tcp}}, config.EndListening},
		"a URL":                       {config.File{Health: []config.HealthBlock{http("http://localhost/health"), {Method: "command"}}}, config.EndListening},
		"a command":                   {config.File{Health: []config.HealthBlock{{Method: "command"}}}, config.EndUnseen},
		"one of another machine":      {config.File{Health: []config.HealthBlock{tcp, http("http://db:5432")}}, config.EndUnseen},
		"through the sidecar's proxy": {config.File{Health: []config.HealthBlock{tcp}, Proxy: []config.ProxyBlock{{Listen: ":5432"}}}, config.EndUnseen},
		"beside the sidecar's proxy":  {config.File{Health: []config.HealthBlock{tcp}, Proxy: []config.ProxyBlock{{Listen: ":80"}}}, config.EndListening},
		"a Secret":                    {config.File{Health: []config.HealthBlock{tcp}, Render: []config.RenderBlock{{Format: config.KubernetesSecret}}}, config.EndUnseen},
	} {
		if got := c.file.Ending(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	if got := config.Listened([]config.HealthBlock{http("https://localhost"), tcp}, nil); len(got) != 2 || got[0] != "localhost:443" || got[1] != tcp.Address {
		t.Errorf("%q", got)
	}
}
