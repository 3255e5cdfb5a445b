// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"
)

const followed = "watch { paths = [\"/x\"] }\n"

func TestReloadBlocks(t *testing.T) {
	for name, c := range map[string]struct{ block, wants string }{
		"pid file":      {`reload "signal" { pid_file = "/run/pid" }`, ""},
		"process":       {`reload "signal" { process = "nginx" }`, ""},
		"command line":  {"reload \"signal\" {\n process = \"node\"\n cmdline = \"server\\\\.js$\"\n signal = \"USR2\"\n}", ""},
		"http":          {"reload \"http\" {\n url = \"https://g:3000/r\"\n method = \"PUT\"\n headers = { \"X-Org\" = \"1\" }\n header_files = { \"X-Key\" = \"/k\" }\n basic_auth_file = \"/b\"\n expect_status = [200, 202]\n}", ""},
		"nothing":       {`reload "signal" {}`, `reload "signal": pid_file is missing`},
		"both":          {"reload \"signal\" {\n pid_file = \"/p\"\n process = \"x\"\n}", "pid_file excludes process and cmdline"},
		"path":          {`reload "signal" { process = "/usr/sbin/nginx" }`, `such as "nginx"`},
		"pattern":       {`reload "signal" { cmdline = "(" }`, `reload "signal": cmdline is not a regular expression`},
		"stray":         {"reload \"signal\" {\n pid_file = \"/p\"\n url = \"http://x\"\n}", `reload "signal": url is of "http", and does nothing here`},
		"stray command": {"reload \"none\" {\n command = [\"x\"]\n}", `reload "none": command is of "command"`},
		"empty command": {`reload "command" { command = [""] }`, "command is missing"},
		"no url":        {`reload "http" {}`, `reload "http": url is missing`},
		"url":           {`reload "http" { url = "127.0.0.1:3000" }`, "url is not http://"},
		"password":      {"reload \"http\" { url = \"http://u:" + canary + "@x/\" }", "url holds a user or a password"},
		"port":          {`reload "http" { url = "http://x:99999/" }`, "url: the port is no number from 1 to 65535"},
		"http method":   {"reload \"http\" {\n url = \"http://x\"\n method = \"post it\"\n}", `method = "post it"`},
		"two logins":    {"reload \"http\" {\n url = \"http://x\"\n basic_auth_file = \"/a\"\n bearer_token_file = \"/b\"\n}", "exclude each other"},
		"relative":      {"reload \"http\" {\n url = \"http://x\"\n basic_auth_file = \"a\"\n}", `basic_auth_file = "a" is not an absolute path`},
		"secret header": {"reload \"http\" {\n url = \"http://x\"\n headers = { \"authorization\" = \"Bearer " + canary + "\" }\n}", "would hold a secret in this file"},
		"header":        {"reload \"http\" {\n url = \"http://x\"\n headers = { \"X Y\" = \"z\" }\n}", `"X Y", or its value, cannot be a header`},
		"header file":   {"reload \"http\" {\n url = \"http://x\"\n header_files = { \"X-Y\" = \"z\" }\n}", "header_files"},
		"status":        {"reload \"http\" {\n url = \"http://x\"\n expect_status = [99]\n}", "99 is not the status"},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := validate(t, followed+c.block)
			if want := map[bool]int{true: 0, false: 2}[c.wants == ""]; status != want || !strings.Contains(text, c.wants) || strings.Contains(text, canary) {
				t.Errorf("status %d: %s", status, text)
			}
		})
	}
}

// All that is wrong is said at once, and each says where.
func TestReloadErrorsNameTheirBlock(t *testing.T) {
	_, text := validate(t, followed+"reload \"signal\" {\n process = \"a/b\"\n cmdline = \"(\"\n signal = \"SIGHAP\"\n url = \"x\"\n}")
	if strings.Count(text, `reload "signal": `) != 4 {
		t.Error(text)
	}
}
