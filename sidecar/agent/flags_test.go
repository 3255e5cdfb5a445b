// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

const overridden = `
workload = "api"
instance = "api-1"
vault {
  address   = "https://127.0.0.1:8200"
  namespace = "team"
  auth "approle" {
    mount             = "roles"
    role_id_file      = "/run/role"
    secret_id_file    = "/run/secret"
    secret_id_wrapped = true
  }
}
render "json" { path = "/run/hyvve/keys.json" }
watch {
  paths    = ["/run/a", "/run/b"]
  stable   = "1s"
  validate = "json"
}
reload "signal" {
  pid_file = "/run/api.pid"
  signal   = "SIGUSR1"
  timeout  = "3s"
}
health "tcp" { address = "127.0.0.1:1" }
health "http" {
  url         = "http://127.0.0.1:3000/health"
  timeout     = "5s"
  deadline    = "1m"
  expect_etag = true
}
reencrypt {
  database_url_file = "/run/url"
  rows_per_second   = 100
  max_load          = "200ms"
  allow_triggers    = ["x"]
}
status {
  socket             = "/run/status"
  end_unless_awaited = true
}
`

const executed = `exec {
  keys     = ["A"]
  accepts  = true
  previous = true
  overlap  = true
  signal   = "SIGUSR1"
}
`

// flagged is a configuration with flags over it, before it is checked.
func flagged(t *testing.T, text string, flags ...string) (config.File, error) {
	t.Helper()
	c := &commandFlags{text: text, exec: true}
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.define(set)
	if err := set.Parse(append(flags, "--config-text="+text)); err != nil {
		t.Fatal(err)
	}
	return c.file()
}

// differing are the paths of all that differs between two values, such as "Reload.PIDFile".
func differing(path string, a, b reflect.Value) (all []string) {
	switch {
	case reflect.DeepEqual(a.Interface(), b.Interface()):
	case a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil():
		return differing(path, a.Elem(), b.Elem())
	case a.Kind() == reflect.Struct:
		for n := range a.NumField() {
			all = append(all, differing(strings.TrimPrefix(path+"."+a.Type().Field(n).Name, "."), a.Field(n), b.Field(n))...)
		}
	case a.Kind() == reflect.Slice && a.Len() == b.Len() && a.Type().Elem().Kind() == reflect.Struct:
		for n := range a.Len() {
			all = append(all, differing(fmt.Sprintf("%s[%d]", path, n), a.Index(n), b.Index(n))...)
		}
	default:
		all = []string{path}
	}
	return all
}

// A flag sets its option. The other options of the block stay.
func TestFlagsSetSingleOptions(t *testing.T) {
	for flag, wants := range map[string]string{
		"--workload=x":                         "Workload",
		"--instance=x":                         "Instance",
		"--vault-addr=https://x":               "Vault.Address",
		"--mount=x":                            "Vault.Mount",
		"--role-id-file=/x":                    "Vault.Auth.RoleIDFile",
		"--secret-id-file=/x":                  "Vault.Auth.SecretIDFile",
		"--dotenv=/x":                          "Render",
		"--bundle=/x":                          "Render",
		"--watch=/x":                           "Watch.Paths",
		"--pid-file=/x":                        "Reload.PIDFile",
		"--signal=SIGUSR2":                     "Reload.Signal",
		"--health-url=http://x":                "Health[1].URL",
		"--database-url-file=/x":               "Reencrypt.DatabaseURLFile",
		"--status-socket=/x":                   "Status.Socket",
		"--status-listen=127.0.0.1:1":          "Status.Listen",
		"exec --signal=SIGUSR2":                "Exec.Signal",
		"exec --accepts=false":                 "Exec.Accepts",
		"exec --previous=false":                "Exec.Previous",
		"exec --overlap=false":                 "Exec.Overlap",
		"exec --keys=B":                        "Exec.Keys",
		"exec --on-change=none":                "Exec.OnChange",
		"exec --stop-signal=SIGINT":            "Exec.StopSignal",
		"exec --stop-timeout=1s":               "Exec.StopTimeout",
		"token_file --token-file=/x":           "Vault.Auth.Path",
		"kubernetes --kubernetes-role=x":       "Vault.Auth.Role",
		"cert --cert-file=/x":                  "Vault.Auth.CertFile",
		"cert --key-file=/x":                   "Vault.Auth.KeyFile",
		"--token-file=/x":                      "Vault.Auth.Method Vault.Auth.Mount Vault.Auth.Path Vault.Auth.RoleIDFile Vault.Auth.SecretIDFile Vault.Auth.SecretIDWrapped",
		"--vault-addr=https://x --mount=y":     "Vault.Address Vault.Mount",
		"--pid-file=/x --signal=SIGUSR2":       "Reload.PIDFile Reload.Signal",
		"exec --accepts=true --overlap=true":   "",
		"--database-url-file=/run/url":         "",
		"--watch=/x --health-url=http://x:1/h": "Watch.Paths Health[1].URL",
	} {
		text, flags := overridden, strings.Fields(flag)
		switch first := flags[0]; first {
		case "exec":
			text += executed
		case "token_file", "kubernetes", "cert":
			i, j := strings.Index(text, `auth "approle"`), strings.Index(text, `render "json"`)
			text = text[:i] + "auth \"" + first + "\" {\n mount = \"m\"\n name = \"n\"\n token_path = \"/t\"\n wrapped = true\n}\n}\n" + text[j:]
		}
		flags = slices.DeleteFunc(flags, func(f string) bool { return !strings.HasPrefix(f, "--") })
		before, err := flagged(t, text)
		if err != nil {
			t.Fatal(err)
		}
		after, err := flagged(t, text, flags...)
		if err != nil {
			t.Errorf("%s: %v", flag, err)
			continue
		}
		got := differing("", reflect.ValueOf(before), reflect.ValueOf(after))
		if want := strings.Fields(wants); !slices.Equal(got, want) {
			t.Errorf("%s changes %v, want %v", flag, got, want)
		}
	}
}

// A flag whose option has no place in the configuration is refused.
func TestFlagsThatConflict(t *testing.T) {
	const vault = "workload = \"api\"\nvault {\n address = \"https://v\"\n auth \"token_file\" { path = \"/t\" }\n}\nrender \"bundle\" { path = \"/run/x.json\" }\n"
	for name, c := range map[string]struct{ blocks, flag, wants string }{
		"reload":      {`reload "http" { url = "http://x" }`, "--pid-file=/x", `--pid-file sets pid_file of reload "signal", and the configuration has reload "http"; leave out the flag`},
		"process":     {`reload "signal" { process = "api" }`, "--pid-file=/x", `--pid-file sets pid_file of reload "signal", and the configuration has process or cmdline there`},
		"signal":      {`reload "http" { url = "http://x" }`, "--signal=HUP", `--signal sets signal of reload "signal", and the configuration has reload "http"`},
		"no reload":   {"", "--signal=HUP", "--signal needs --pid-file"},
		"health":      {`health "tcp" { address = "x:1" }`, "--health-url=http://x", `--health-url sets url of health "http", and the configuration has health "tcp"`},
		"health, two": {"health \"http\" { url = \"http://x/a\" }\nhealth \"http\" { url = \"http://x/b\" }", "--health-url=http://x", "the configuration has several of them"},
		"key":         {`reencrypt { database_url_key = "DATABASE_URL" }`, "--database-url-file=/x", "--database-url-file sets database_url_file of reencrypt, and the configuration has database_url_key or database_url_env there"},
		"environment": {`reencrypt { database_url_env = "DATABASE_URL" }`, "--database-url-file=/x", "has database_url_key or database_url_env there"},
	} {
		if status, text := validate(t, vault+c.blocks, c.flag); status != 2 || !strings.Contains(text, c.wants) {
			t.Errorf("%s: status %d, no %q in %s", name, status, c.wants, text)
		}
		if status, text := validate(t, vault+c.blocks); status != 0 {
			t.Errorf("%s: without the flag: status %d: %s", name, status, text)
		}
	}
}

// Each flag of the table of options has a place in a configuration, and a line in the help text.
func TestEachFlagSetsItsOption(t *testing.T) {
	const login = "vault {\n auth \"token_file\" { path = \"/t\" }\n}\n"
	for _, o := range (&commandFlags{exec: true}).options() {
		text, value := login, "1"
		switch {
		case o.IsBool():
			value = "true"
		case o.Values != "":
			value, _, _ = strings.Cut(o.Values, ",")
		case o.Type == "environment names":
			value = "A,B"
		}
		if o.Flag == "signal" {
			text += map[string]string{"exec": "exec {}", "reload": `reload "signal" {}`}[o.Block]
		}
		f, err := flagged(t, text, "--"+o.Flag+"="+value)
		if err != nil {
			t.Errorf("--%s: %v", o.Flag, err)
			continue
		}
		block, err := place(&f, o)
		if err != nil || !o.IsSet(block) {
			t.Errorf("--%s does not set %s of %s (%v)", o.Flag, o.Name, o.Block, err)
		}
		if help := describe(o); help == "" || word(o) == "" {
			t.Errorf("--%s has no help text", o.Flag)
		}
	}
}
