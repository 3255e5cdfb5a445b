// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

const good = `
workload = "api"
vault {
  address = "http://127.0.0.1:8200"
  auth "token_file" { path = "/run/token" }
}
render "bundle" {
  path = "/run/hyvve/bundle.json"
  mode = "0640"
}
reload "signal" { pid_file = "/run/api.pid" }
health "http" {
  url         = "http://127.0.0.1:3000/health"
  expect_etag = true
}
reencrypt { database_url_file = "/run/url" }
proxy {
  listen   = "127.0.0.1:8081"
  upstream = "http://127.0.0.1:3000"
  key      = "AGENT_SERVICE_TOKEN"
}
proxy {
  listen   = "127.0.0.1:8081"
  upstream = "http://127.0.0.1:3000"
  key      = "METRICS_API_KEY"
  header   = "x-metrics-key"
}
`

func validate(t *testing.T, text string, args ...string) (int, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sidecar.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	status := usage.Run(t.Context(), NewValidate(), append([]string{"--config=" + path}, args...), &out, &errs)
	return status, out.String() + errs.String()
}

func TestGoodConfiguration(t *testing.T) {
	if status, text := validate(t, good); status != 0 || !strings.Contains(text, "is good") {
		t.Errorf("status %d: %s", status, text)
	}
}

func TestConfigurationThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{filepath.Join(dir, "nothing.hcl"): "no such file or directory; name one", dir: "is a directory; name one"} {
		var out, errs bytes.Buffer
		if status := usage.Run(t.Context(), NewValidate(), []string{"--config=" + path}, &out, &errs); status != 2 || !strings.Contains(errs.String(), path+": "+want) {
			t.Errorf("status %d: %s", status, errs.String())
		}
	}
}

func TestErrorsSayWhatToWriteInstead(t *testing.T) {
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the good configuration has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, c := range map[string]struct {
		text  string
		args  []string
		wants []string
	}{
		"attribute":           {swap("workload", "worklaod"), nil, []string{"sidecar.hcl:2", `"worklaod"`, `"workload"`}},
		"block":               {swap("health", "helth"), nil, []string{"sidecar.hcl:12", `"helth"`, `"health"`}},
		"syntax":              {swap(`"api"`, `"api`), nil, []string{"sidecar.hcl:2"}},
		"workload name":       {swap(`"api"`, `"a/pi"`), nil, []string{"contains a slash"}},
		"successes":           {swap("expect_etag = true", "successes = -1"), nil, []string{"successes = -1"}},
		"failures":            {swap("expect_etag = true", "failures = -1"), nil, []string{"failures = -1"}},
		"no workload":         {swap(`workload = "api"`, ""), nil, []string{"workload is missing"}},
		"auth":                {swap(`auth "token_file"`, `auth "tokenfile"`), nil, []string{`auth "tokenfile" is not known`, `"token_file"`}},
		"approle":             {swap(`auth "token_file" { path = "/run/token" }`, `auth "approle" { role_id_file = "/x" }`), nil, []string{"secret_id_file is missing"}},
		"address":             {swap(`"http://127.0.0.1:8200"`, `"http://vault-1:8200,vault-2:8200"`), nil, []string{"vault: address", "address 2 of the list"}},
		"address, form":       {swap(`"http://127.0.0.1:8200"`, `"127.0.0.1:8200"`), nil, []string{"vault: address: it is not http://"}},
		"address, port":       {swap(`"http://127.0.0.1:8200"`, `"http://127.0.0.1:82000"`), nil, []string{"vault: address: its port"}},
		"address, v1":         {swap(`"http://127.0.0.1:8200"`, `"http://127.0.0.1:8200/v1"`), nil, []string{"vault: address: it ends with /v1"}},
		"instance":            {"instance = \"a b\"\n" + good, nil, []string{`instance "a b" is not allowed; use letters`}},
		"address, user":       {swap(`"http://127.0.0.1:8200"`, `"http://user:`+canary+`@127.0.0.1:8200"`), nil, []string{"vault: address holds a user or a password"}},
		"format":              {swap(`render "bundle"`, `render "bundel"`), nil, []string{`"bundel" is not a format`, `"bundle"`}},
		"template, both":      {swap(`render "bundle" {`, "render \"template\" {\n source = \"/x\"\n template = \"y\""), nil, []string{`render "template": set one of source`}},
		"template, neither":   {swap(`render "bundle"`, `render "template"`), nil, []string{`render "template": set one of source`}},
		"template, elsewhere": {swap(`render "bundle" {`, "render \"json\" {\n template = \"y\""), nil, []string{`render "json": source and template are of render "template"`}},
		"template, accepts":   {swap(`render "bundle" {`, "render \"template\" {\n accepts = true\n template = \"y\""), nil, []string{"accepts and previous are functions of the template"}},
		"template, mistake":   {swap(`render "bundle" {`, "render \"template\" {\n template = \"{{ value }}\""), nil, []string{"template of /run/hyvve/bundle.json:1:3: value takes the name of one key"}},
		"template, no file":   {swap(`render "bundle" {`, "render \"template\" {\n source = \"/nowhere/x.tmpl\""), nil, []string{"source: stat /nowhere/x.tmpl: no such file"}},
		"template, folder":    {swap(`render "bundle" {`, "render \"template\" {\n source = \"/\""), nil, []string{"source: / is not a file"}},
		"template, relative":  {swap(`render "bundle" {`, "render \"template\" {\n source = \"x.tmpl\""), nil, []string{`source: path "x.tmpl" is not absolute`}},
		"render, one place":   {good + "render \"json\" { path = \"/run/hyvve/./bundle.json\" }", nil, []string{`render "json": another block renders /run/hyvve/bundle.json too`}},
		"render keys":         {swap(`render "bundle" {`, "render \"bundle\" {\n keys = [\"metrics-api-key\"]"), nil, []string{`render "bundle": keys: env "metrics-api-key" is not an environment name`}},
		"render, reserved":    {swap(`render "bundle" {`, "render \"bundle\" {\n keys = [\"LD_PRELOAD\"]"), nil, []string{`render "bundle": keys: name LD_PRELOAD is reserved`, "add it to allow_names"}},
		"exec, reserved":      {swap(`reload "signal" { pid_file = "/run/api.pid" }`, "exec { keys = [\"BASH_ENV\"] }"), nil, []string{`exec: keys: name BASH_ENV is reserved`}},
		"on_stop":             {"on_stop = \"held\"\n" + good, nil, []string{`on_stop = "held" is not known`, "did you mean", "hold, leave"}},
		"on_stop, exec":       {"on_stop = \"hold\"\nexec { command = [\"true\"] }\n" + good, nil, []string{"on_stop: the sidecar runs the workload itself"}},
		"allow_names":         {"allow_names = [\"HYVVE_ETAG\", \"a b\"]\n" + good, nil, []string{"allow_names: HYVVE_ETAG is one of the sidecar's own", `allow_names: env "a b"`}},
		"bundle, previous":    {swap(`render "bundle" {`, "render \"bundle\" {\n previous = true"), nil, []string{"previous is of dotenv, docker, json and files"}},
		"relative path":       {swap(`"/run/hyvve/bundle.json"`, `"bundle.json"`), nil, []string{"is not absolute"}},
		"mode":                {swap(`"0640"`, `"0644"`), nil, []string{"lets every user at the secrets"}},
		"mode word":           {swap(`"0640"`, `"rw-r"`), nil, []string{"is not octal"}},
		"reload":              {swap(`reload "signal"`, `reload "signl"`), nil, []string{`did you mean "signal"`}},
		"pid file":            {swap(`pid_file = "/run/api.pid"`, ""), nil, []string{"pid_file is missing"}},
		"signal":              {swap(`{ pid_file = "/run/api.pid" }`, "{\n pid_file = \"/x\"\n signal = \"SIGHAP\"\n}"), nil, []string{`"SIGHAP" is not known`}},
		"no etag":             {swap(`render "bundle"`, `render "json"`), nil, []string{"expect_etag needs a render block"}},
		"duration":            {swap("expect_etag = true", `interval = "soon"`), nil, []string{`interval = "soon" is not a duration`}},
		"load": {swap(`reencrypt { database_url_file = "/run/url" }`, `reencrypt {
			database_url_file = "/run/url"
			max_load = "much"
			batch_size = -1
		}`), nil, []string{"max_load = \"much\"", "batch_size or rows_per_second is negative"}},
		"proxy listen":     {swap(`"127.0.0.1:8081"`, `"8081"`), nil, []string{`listen = "8081" is not an address`, `"127.0.0.1:8081"`}},
		"proxy port":       {swap(`"127.0.0.1:8081"`, `":0"`), nil, []string{`listen = ":0" is not an address`}},
		"proxy port, far":  {swap(`"127.0.0.1:8081"`, `"127.0.0.1:80810"`), nil, []string{`listen = "127.0.0.1:80810" is not an address`}},
		"proxy upport":     {swap(`"http://127.0.0.1:3000"`+"\n  key", `"http://127.0.0.1:99999"`+"\n  key"), nil, []string{"proxy of AGENT_SERVICE_TOKEN: upstream"}},
		"proxy upstream":   {swap(`"http://127.0.0.1:3000"`+"\n  key", `"https://api/x"`+"\n  key"), nil, []string{"proxy of AGENT_SERVICE_TOKEN: upstream", "http://127.0.0.1:3000"}},
		"proxy secret":     {swap(`"http://127.0.0.1:3000"`+"\n  key", `"http://u:p@127.0.0.1:3000"`+"\n  key"), nil, []string{"upstream is not http://"}},
		"proxy loop":       {swap(`"http://127.0.0.1:3000"`+"\n  key", `"http://127.0.0.1:8081"`+"\n  key"), nil, []string{`listen = "127.0.0.1:8081" takes what is sent to upstream 127.0.0.1:8081`}},
		"proxy, any host":  {swap(`"127.0.0.1:8081"`, `":3000"`), nil, []string{`listen = ":3000" takes what is sent to upstream 127.0.0.1:3000`}},
		"proxy, localhost": {swap(`"127.0.0.1:8081"`, `"localhost:3000"`), nil, []string{"so that the proxy would ask itself"}},
		"proxy upstreams":  {swap(`"http://127.0.0.1:3000"`+"\n  key", `"http://127.0.0.1:3001"`+"\n  key"), nil, []string{"another block listens at 127.0.0.1:8081"}},
		"proxy key":        {swap(`"AGENT_SERVICE_TOKEN"`, `"agent-service-token"`), nil, []string{"is not the name of a key in bundles"}},
		"proxy key, case":  {swap(`"AGENT_SERVICE_TOKEN"`, `"agent_service_token"`), nil, []string{"is not the name of a key in bundles", "upper-case"}},
		"proxy key twice":  {swap(`"METRICS_API_KEY"`, `"AGENT_SERVICE_TOKEN"`), nil, []string{"has the same key; each"}},
		"proxy, one state": {swap(`"127.0.0.1:8081"`, `"127.0.0.2:8081"`) + "proxy {\n listen = \"127.0.0.3:8081\"\n upstream = \"http://127.0.0.1:3001\"\n key = \"METRICS_API_KEY\"\n}\n", nil, []string{"another block has the same state, /run/hyvve/.proxy-METRICS_API_KEY-8081.hyvve"}},
		"proxy header":     {swap(`"x-metrics-key"`, `"transfer-encoding"`), nil, []string{`header = "transfer-encoding" cannot hold a key`, "X-Metrics-Key"}},
		"proxy state":      {swap(`"x-metrics-key"`, "\"X-Metrics-Key\"\n  state = \"x\""), nil, []string{`state = "x" is not an absolute path`}},
		"proxy misspelt":   {swap(`listen `, `lsten `), nil, []string{"sidecar.hcl:18", `"lsten"`}},
		"proxy, no vault":  {"watch { paths = [\"/x\"] }\nreload \"http\" { url = \"http://x\" }\nproxy {\n listen = \":1\"\n upstream = \"http://x:2\"\n key = \"X\"\n}", nil, []string{"proxy needs a vault block"}},
		"database":         {swap(`database_url_file = "/run/url"`, ""), nil, []string{"set one of database_url_key"}},
		"database key":     {swap(`database_url_file = "/run/url"`, `database_url_key = "database-url"`), nil, []string{`reencrypt: database_url_key = "database-url" is not the name of a key in bundles`, "upper-case"}},
		"two modes":        {good + "watch { paths = [\"/x\"] }", nil, []string{"exclude each other"}},
		"nothing":          {"", nil, []string{"neither a vault block"}},
		"watch, nothing":   {"watch { paths = [] }\nreload \"http\" { url = \"http://x\" }", nil, []string{"watch: paths is empty"}},
		"watch, no name":   {"watch { paths = [\"\"] }\nreload \"http\" { url = \"http://x\" }", nil, []string{"watch: paths has an empty one"}},
		"watch, folder":    {"watch { paths = [\"/x/\"] }\nreload \"http\" { url = \"http://x\" }", nil, []string{`watch: paths has "/x/", which is a directory`}},
		"watch, format":    {"watch {\n paths = [\"/x\"]\n validate = \"jsn\"\n}\nreload \"http\" { url = \"http://x\" }", nil, []string{`watch: validate = "jsn" is not known; did you mean "json"? (it is one of dotenv, json)`}},
		"watch, poll":      {"watch {\n paths = [\"/x\"]\n poll = \"often\"\n}\nreload \"http\" { url = \"http://x\" }", nil, []string{`watch: poll = "often" is not a duration`}},
		"watch, no reload": {"watch { paths = [\"/x\"] }", nil, []string{"without a reload block"}},
		"unknown flag":     {good, []string{"--pidfile=/x"}, []string{"did you mean --pid-file"}},
		"unknown level":    {good, []string{"--log-level=loud"}, []string{"--log-level=loud"}},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := validate(t, c.text, c.args...)
			if status != 2 {
				t.Errorf("status %d", status)
			}
			if strings.Contains(text, canary) {
				t.Errorf("a secret is quoted:\n%s", text)
			}
			for _, want := range c.wants {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in:\n%s", want, text)
				}
			}
		})
	}
}

func TestFlagsAlone(t *testing.T) {
	var out, errs bytes.Buffer
	status := usage.Run(t.Context(), NewValidate(), []string{"--vault-addr=http://127.0.0.1:1", "--token-file=/x", "--workload=api", "--dotenv=/run/.env", "--pid-file=/run/pid", "--signal=USR1", "--health-url=http://127.0.0.1/h"}, &out, &errs)
	if status != 0 {
		t.Errorf("status %d: %s", status, errs.String())
	}
	out.Reset()
	if status := usage.Run(t.Context(), NewCommand(), []string{"--help"}, &out, &errs); status != 0 || !strings.Contains(out.String(), "--token-file") {
		t.Errorf("--help: status %d: %s", status, out.String())
	}
}

// Two sidecars of a workload on one host must not take each other's place.
func TestInstancesOnOneHostDiffer(t *testing.T) {
	instance := func(path string) string {
		c, err := Check(config.File{
			Workload: "api", Vault: &config.VaultBlock{Address: "http://x", Auth: config.AuthBlock{Method: "token_file", Path: "/t"}},
			Render: []config.RenderBlock{{Format: "json", Path: path}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return c.Instance
	}
	a, b := instance("/run/a/x.json"), instance("/run/b/x.json")
	if a == b || a != instance("/run/a/x.json") || !strings.Contains(a, "-api-") {
		t.Errorf("instances are %q and %q", a, b)
	}
}

// The template of a file is read with the configuration, and its mistakes are reported with its name and line.
func TestTemplateFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.tmpl")
	config := strings.Replace(good, `render "bundle" {`, "render \"template\" {\n source = \""+path+"\"\n path = \"/run/hyvve/x.yaml\"\n}\nrender \"bundle\" {", 1)
	for text, want := range map[string]string{
		"token: {{ value \"METRICS_API_KEY\" | json }}\n": "is good",
		"token:\n {{ valu \"METRICS_API_KEY\" }}\n":       path + ":2: function \"valu\" not defined",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, got := validate(t, config); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
