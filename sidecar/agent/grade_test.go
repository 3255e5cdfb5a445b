// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// validate says what a configuration can prove of a load, and what it lacks to prove more.
func TestValidateSaysWhatIsProved(t *testing.T) {
	const vault = `
workload = "api"
instance = "api-1"
vault {
  address = "http://127.0.0.1:8200"
  auth "token_file" { path = "/run/token" }
}
`
	const (
		json    = "render \"json\" { path = \"/run/app/keys.json\" }\n"
		one     = "render \"json\" {\n path = \"/run/app/keys.json\"\n keys = [\"TOKEN\"]\n}\n"
		bundle  = "render \"bundle\" { path = \"/run/app/bundle.json\" }\n"
		signal  = "reload \"signal\" { process = \"app\" }\n"
		watches = "reload \"none\" {}\n"
		http    = "health \"http\" { url = \"http://127.0.0.1:1\" }\n"
		etag    = "health \"http\" {\n url = \"http://127.0.0.1:1\"\n expect_etag = true\n}\n"
		proxy   = "proxy {\n listen = \"127.0.0.1:1\"\n upstream = \"http://127.0.0.1:2\"\n key = \"TOKEN\"\n state = \"/run/app/proxy\"\n}\n"
	)
	for name, c := range map[string]struct{ blocks, proof, lacks string }{
		"files alone":               {json, "none", "nothing makes the workload load"},
		"no reload, and a check":    {json + http, "none", "nothing makes the workload load"},
		"watches itself":            {json + watches, "none", "add a health block"},
		"watches itself, checked":   {json + watches + http, "health", "expect_etag"},
		"reload":                    {json + signal, "reload", "add a health block"},
		"reload, health none":       {json + signal + "health \"none\" {}\n", "reload", "add a health block"},
		"reload and a check":        {json + signal + http, "health", "expect_etag"},
		"the etag":                  {bundle + signal + etag, "etag", ""},
		"exec":                      {"exec { command = [\"app\"] }\n", "reload", "add a health block"},
		"exec, checked":             {"exec { command = [\"app\"] }\n" + http, "health", "expect_etag"},
		"exec that changes nothing": {json + "exec {\n command = [\"app\"]\n on_change = \"none\"\n}\n", "none", "add a health block"},
		"the proxy alone":           {proxy, "reload", "add a health block"},
		"the proxy, and files":      {json + proxy, "none", "nothing makes the workload load"},
		"the proxy, and its key":    {one + proxy, "reload", "add a health block"},
		"rows alone":                {"reencrypt { database_url_key = \"DATABASE_URL\" }\n" + http, "none", "nothing hands the bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := validate(t, vault+c.blocks)
			if status != 0 || !strings.Contains(text, "Proof of each load: "+c.proof+".") {
				t.Errorf("status %d, without proof %s: %s", status, c.proof, text)
			}
			if stops := strings.Contains(text, "When the sidecar stops: "); stops != (!strings.Contains(c.blocks, "exec") && !strings.Contains(c.blocks, signal)) {
				t.Errorf("it says what happens when it stops: %t: %s", stops, text)
			}
			if lacks := strings.Contains(text, "For more: "); lacks != (c.lacks != "") || !strings.Contains(text, c.lacks) {
				t.Errorf("it does not say %q: %s", c.lacks, text)
			}
			if warned := strings.Contains(text, "WARNING: it proves nothing"); warned != (c.proof == "none") {
				t.Errorf("it warns: %v: %s", warned, text)
			}
		})
	}
}

// Each report of a load says how it is known, and one before the workload has loaded anything says nothing.
func TestReportsSayWhatIsProved(t *testing.T) {
	for proof, change := range map[string]func(*running, *Config){
		"reload": func(*running, *Config) {},
		"health": func(_ *running, c *Config) {
			c.Checks = []config.Check{{HealthBlock: config.HealthBlock{Method: "tcp"}}}
		},
	} {
		r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
			c.Reload = &config.ReloadBlock{Method: "signal"}
			c.Reloading.Method = "signal"
			change(r, c)
			r.reloads.set(errors.New("it hangs"))
		})
		early := r.await("nothing loaded", func(map[string]any) bool { return true })
		if early["etag"] != "" || early["proof"] != "none" {
			t.Errorf("before anything is loaded: %v", early)
		}
		r.reloads.set(nil)
		r.await(proof, func(report map[string]any) bool { return loaded("etag-1-0")(report) && report["proof"] == proof })
		r.fake.change(func() { r.fake.version = 2 })
		r.await(proof+" again", func(report map[string]any) bool { return loaded("etag-2-0")(report) && report["proof"] == proof })
	}
}
