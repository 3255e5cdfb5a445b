// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// What is said of values of several lines is what each way into the workload can carry.
func TestWhatIsSaidOfValuesOfSeveralLines(t *testing.T) {
	const login = "workload = \"api\"\nvault {\n address = \"https://vault:8200\"\n auth \"token_file\" { path = \"/etc/t\" }\n}\n"
	none, all := client.OneLine{"none"}, client.OneLine(nil)
	for name, c := range map[string]struct {
		blocks string
		want   client.OneLine
	}{
		"json":               {`render "json" { path = "/run/a" }`, none},
		"bundle":             {`render "bundle" { path = "/run/a" }`, none},
		"files":              {`render "files" { path = "/run/a" }`, none},
		"exec":               {`exec { command = ["node"] }`, none},
		"dotenv":             {`render "dotenv" { path = "/run/a" }`, all},
		"dotenv of one":      {"render \"dotenv\" {\n path = \"/run/a\"\n keys = [\"B\", \"A\"]\n}", client.OneLine{"A", "B"}},
		"dotenv of today":    {"render \"dotenv\" {\n path = \"/run/a\"\n multiline = true\n}", none},
		"docker":             {`render "docker" { path = "/run/a" }`, all},
		"json and docker":    {"render \"json\" { path = \"/run/a\" }\nrender \"docker\" {\n path = \"/run/b\"\n keys = [\"A\"]\n}", client.OneLine{"A"}},
		"template":           {"render \"template\" {\n path = \"/run/a\"\n template = \"{{ if has \\\"A\\\" }}{{ value \\\"A\\\" | json }}{{ end }}{{ previous \\\"B\\\" }}\"\n}", client.OneLine{"A", "B"}},
		"template for lines": {"render \"template\" {\n path = \"/run/a\"\n template = \"{{ value \\\"A\\\" }}\"\n multiline = true\n}", none},
		"proxy":              {"render \"json\" { path = \"/run/a\" }\nproxy {\n listen = \"127.0.0.1:1\"\n upstream = \"http://127.0.0.1:2\"\n key = \"A\"\n}", client.OneLine{"A"}},
		"metrics":            {"render \"json\" { path = \"/run/a\" }\nhealth \"prometheus\" {\n url = \"http://127.0.0.1:1/\"\n metric = \"x\"\n key = \"A\"\n}", client.OneLine{"A"}},
		"database":           {"render \"json\" { path = \"/run/a\" }\nreencrypt { database_url_key = \"A\" }", client.OneLine{"A"}},
		"secret":             {"render \"kubernetes_secret\" {\n name = \"s\"\n data = { \"tls.key\" = \"A\" }\n}\nkubernetes {\n address = \"https://10.0.0.1\"\n ca_cert = \"/ca\"\n token_path = \"/t\"\n namespace = \"n\"\n}", none},
		"secret's template":  {"render \"kubernetes_secret\" {\n name = \"s\"\n data = { \"k\" = \"A\", \"t\" = \"Bearer {{ value \\\"B\\\" }}\" }\n}\nkubernetes {\n address = \"https://10.0.0.1\"\n ca_cert = \"/ca\"\n token_path = \"/t\"\n namespace = \"n\"\n}", client.OneLine{"B"}},
	} {
		f, err := config.Parse([]byte(login+c.blocks), "sidecar.hcl")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checked, _ := f.Check() // files that are not there do not matter
		built := build(checked)
		if got := built.oneLine(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	for _, format := range []string{"json", "docker", "files"} {
		f, err := config.Parse([]byte(login+"render \""+format+"\" {\n path = \"/run/a\"\n multiline = true\n}"), "sidecar.hcl")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Check(); err == nil || !strings.Contains(err.Error(), "multiline is of dotenv and template") {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// To quote one line of a value gives it away as much as to quote all.
func TestLinesOfValuesAreMasked(t *testing.T) {
	a := &Agent{}
	a.hold(client.Bundle{Values: map[string]key.Value{"TLS": key.NewValue("-----BEGIN KEY-----\ncanary\nabc\n-----END KEY-----\n")}})
	if text := a.mask("line 2: canary is no base64"); text != "line 2: [redacted] is no base64" {
		t.Errorf("%q", text)
	}
	if text := a.mask("abc"); text != "abc" {
		t.Errorf("what is in any text is masked: %q", text)
	}
}
