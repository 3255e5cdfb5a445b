// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

const secretGood = `
workload = "prometheus"
vault {
  address = "http://127.0.0.1:8200"
  auth "token_file" { path = "/run/token" }
}
kubernetes {
  address   = "https://10.0.0.1:6443"
  namespace = "monitoring"
}
render "kubernetes_secret" {
  name = "metrics-auth"
  data = { token = "METRICS_API_KEY" }
}
reload "rollout" {
  kind = "deployment"
  name = "prometheus"
}
`

func TestKubernetesConfiguration(t *testing.T) {
	if status, text := validate(t, secretGood); status != 0 {
		t.Errorf("status %d: %s", status, text)
	}
	for _, test := range []struct{ from, to, want string }{
		{`"https://10.0.0.1:6443"`, `"http://10.0.0.1"`, "kubernetes: address is not https:// with a host"},
		{`address   = "https://10.0.0.1:6443"`, ``, "kubernetes: address is missing, and this is no pod"},
		{`namespace = "monitoring"`, `token_path = "t"`, `kubernetes: token_path = "t" is not an absolute path`},
		{`namespace = "monitoring"`, `ca_cert = "t"`, `kubernetes: ca_cert = "t" is not an absolute path`},
		{`namespace = "monitoring"`, `namespace = "A"`, `kubernetes: namespace = "A" cannot be the name of a namespace`},
		{`namespace = "monitoring"`, ``, `render "kubernetes_secret": namespace is missing`},
		{`namespace = "monitoring"`, `look_every = "soon"`, `kubernetes: look_every = "soon" is not a duration`},
		{`name = "metrics-auth"`, `name = "Metrics"`, `render "kubernetes_secret": name = "Metrics" cannot be the name of an object`},
		{`name = "metrics-auth"`, ``, `render "kubernetes_secret": name is missing`},
		{`"METRICS_API_KEY"`, `"metrics"`, `render "kubernetes_secret": data: token is neither the name of a key`},
		{`"METRICS_API_KEY"`, `"{{ value METRICS }}"`, `data: token:1`},
		{`{ token = "METRICS_API_KEY" }`, `{}`, `render "kubernetes_secret": data is empty`},
		{`{ token = "METRICS_API_KEY" }`, `{ "a/b" = "METRICS_API_KEY" }`, `data: "a/b" cannot be a key of a Secret`},
		{`data = {`, "keys = [\"OTHER\"]\n data = {", `METRICS_API_KEY is not among keys of the block`},
		{`data = {`, "immutable = true\n data = {", `immutable would keep the values from ever changing`},
		{`data = {`, "path = \"/x\"\n data = {", `render "kubernetes_secret": path is of "file formats", and does nothing here`},
		{`data = {`, "type = \"kubernetes.io/tls\"\n data = {", `type = "kubernetes.io/tls" needs "tls.crt" in data`},
		{`data = {`, "labels = { \"a b\" = \"c\" }\n data = {", `labels: "a b" cannot be a key there`},
		{`kind = "deployment"`, `kind = "job"`, `reload "rollout": kind = "job" is none that can be restarted`},
		{`name = "prometheus"`, `name = "a_b"`, `reload "rollout": name = "a_b"`},
		{`name = "prometheus"`, "name = \"prometheus\"\n namespace = \"other\"", `no render "kubernetes_secret" block writes into namespace "other"`},
		{`name = "prometheus"`, "name = \"prometheus\"\n signal = \"SIGHUP\"", `reload "rollout": signal is of "signal", and does nothing here`},
		{"reload \"rollout\" {\n  kind = \"deployment\"\n  name = \"prometheus\"\n}", `reload "signal" { pid_file = "/run/x" }`, `reload "signal" is for files, of which there are none`},
		{"render \"kubernetes_secret\" {\n  name = \"metrics-auth\"\n  data = { token = \"METRICS_API_KEY\" }\n}", ``, "no render \"kubernetes_secret\" block writes into namespace"},
		{`render "kubernetes_secret" {`, "render \"kubernetes_secret\" {\n name = \"metrics-auth\"\n}\nrender \"kubernetes_secret\" {", "another block writes monitoring/metrics-auth too"},
		{`render "kubernetes_secret" {`, "render \"dotenv\" {\n path = \"/run/x\"\n type = \"Opaque\"\n}\nrender \"kubernetes_secret\" {", `render "dotenv": type is of "kubernetes_secret", and does nothing here`},
		{`render "kubernetes_secret" {`, "render \"dotenv\" {}\nrender \"kubernetes_secret\" {", `render "dotenv": path is missing`},
		{`reload "rollout"`, "exec { command = [\"x\"] }\nreload \"rollout\"", "exec: it and a reload block exclude each other"},
	} {
		text := strings.Replace(secretGood, test.from, test.to, 1)
		if text == secretGood {
			t.Fatalf("%s is not in the configuration", test.from)
		}
		if status, said := validate(t, text); status != 2 || !strings.Contains(said, test.want) {
			t.Errorf("with %s: status %d, %s; want %s", test.to, status, said, test.want)
		}
	}
	if status, said := validate(t, good+"kubernetes { address = \"https://10.0.0.1\" }"); status != 2 || !strings.Contains(said, "nothing uses this block") {
		t.Errorf("a block that nothing uses: %d %s", status, said)
	}
}

// In a pod, all of the kubernetes block has defaults; how long a rollout may take is the deadline.
func TestKubernetesDefaults(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	f := config.File{
		Workload: "prometheus", Vault: &config.VaultBlock{Address: "http://127.0.0.1:8200", Auth: config.AuthBlock{Method: "token_file", Path: "/run/token"}},
		Render: []config.RenderBlock{{Format: config.KubernetesSecret, Name: "metrics-auth", Namespace: "monitoring"}},
		Reload: &config.ReloadBlock{Method: "rollout", Kind: "statefulset", Name: "prometheus", Namespace: "monitoring"},
	}
	c, err := Check(f)
	if err != nil {
		t.Fatal(err)
	}
	api := c.Destinations[0].Client
	if api.Address != "https://[fd00::1]:443" || !strings.HasSuffix(api.CACert, "/ca.crt") || !strings.HasSuffix(api.TokenPath, "/token") {
		t.Errorf("the API server is %s, %s, %s", api.Address, api.CACert, api.TokenPath)
	}
	if c.Deadline != 10*time.Minute || c.LookEvery != time.Minute || c.Checker == nil {
		t.Errorf("deadline %s, look every %s", c.Deadline, c.LookEvery)
	}
	f.Health = []config.HealthBlock{{Method: "none", Deadline: "3m"}}
	if c, err = Check(f); err != nil || c.Deadline != 3*time.Minute || c.Checker == nil {
		t.Errorf("deadline %s (%v)", c.Deadline, err)
	}
	f.Render = []config.RenderBlock{{Format: config.KubernetesSecret, Name: "other", Namespace: "monitoring"}}
	other, err := Check(f)
	if err != nil || other.Place() == c.Place() {
		t.Errorf("two sidecars of one host are one instance (%v)", err)
	}
}
