// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// A reload command that quotes what is rendered reveals no value in the log, the report or the status, whatever the format.
func TestMaskOfWhatIsRendered(t *testing.T) {
	t.Parallel()
	const url = "@db/x?sslmode=verify-full&application_name=web#the-end"
	for name, c := range map[string]struct {
		suffix string
		block  config.RenderBlock
	}{
		"json":             {`"quoted\back/slash & <tag> 'it' größe` + "\t" + `the-end`, config.RenderBlock{Format: "json"}},
		"json of a URL":    {url, config.RenderBlock{Format: "json"}},
		"bundle":           {`"quoted\back/slash & <tag> 'it' größe the-end`, config.RenderBlock{Format: "bundle"}},
		"dotenv":           {` "quoted" & <tag> \back the-end`, config.RenderBlock{Format: "dotenv"}},
		"dotenv, accepts":  {` "quoted" & <tag> \back the-end`, config.RenderBlock{Format: "json", Accepts: true}},
		"docker":           {` "quoted" & '<tag>' \back the-end`, config.RenderBlock{Format: "docker", Accepts: true}},
		"template, json":   {`"quoted" & <tag> the-end`, config.RenderBlock{Format: "template", Template: `t = {{json (value "TOKEN")}}`}},
		"template, sh":     {`"quoted" & 'it' the-end`, config.RenderBlock{Format: "template", Template: `t = {{sh (value "TOKEN")}}`}},
		"template, html":   {`"quoted" & 'it' the-end`, config.RenderBlock{Format: "template", Template: `t = {{html (value "TOKEN")}}`}},
		"template, %q":     {`"quoted" & 'it' größe the-end`, config.RenderBlock{Format: "template", Template: `t = {{printf "%q %+q" (value "TOKEN") (value "TOKEN")}}`}},
		"template, URL":    {`"quoted" & 'it' the-end`, config.RenderBlock{Format: "template", Template: `t = {{urlquery (value "TOKEN")}}`}},
		"template, base64": {`"quoted" & 'it' dGhlLWVuZA the-end`, config.RenderBlock{Format: "template", Template: `t = {{base64 (value "TOKEN")}}`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startAgentWith(t, t.TempDir(), nil, func(r *running, to *Config) {
				r.fake.suffix = c.suffix
				r.path = filepath.Join(r.dir, "rendered")
				c.block.Path = r.path
				other, err := Check(config.File{Workload: "api", Instance: "api-1", Vault: &config.VaultBlock{Address: r.fake.server.URL, Auth: config.AuthBlock{Method: "token_file", Path: to.Vault.Auth.Path}}, Render: []config.RenderBlock{c.block}})
				if err != nil {
					t.Fatal(err)
				}
				to.Targets = other.Targets
				to.Reloader = reload.Command{Args: []string{"sh", "-c", `echo "cannot use:"; cat "$1"; exit 1`, "sh", r.path}, Timeout: to.Deadline}
			})
			report := r.await("refused", unhealthy("cannot use:"))
			status, _ := json.Marshal(r.agent.board.State())
			reason, _ := report["reason"].(string)
			for what, text := range map[string]string{"reason": reason, "status": string(status), "log": r.log.String()} {
				for _, part := range []string{"the-end", "canary", "quoted", "Y2FuYXJ5", "dGhlLWVuZA"} {
					if strings.Contains(text, part) {
						t.Errorf("%s holds %q of %q: %s", what, part, r.file(), text)
					}
				}
			}
			if !strings.Contains(reason, "[redacted]") {
				t.Errorf("nothing is masked: %s", reason)
			}
		})
	}
}
