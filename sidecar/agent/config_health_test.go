// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"
)

func TestHealthBlocks(t *testing.T) {
	const gate = "health \"prometheus\" {\n url = \"http://127.0.0.1:9100/metrics\"\n metric = \"http_requests_total\"\n"
	for name, c := range map[string]struct{ blocks, wants string }{
		"command":      {"health \"command\" {\n command = [\"check\"]\n expect_etag = true\n}", ""},
		"several":      {"health \"http\" {\n url = \"http://x/health\"\n interval = \"1s\"\n}\nhealth \"tcp\" {\n address = \"x:1\"\n deadline = \"1m\"\n}\n" + gate + "}", ""},
		"gate":         {gate + "labels = { status = \"=~4..\", path = \"!=/health\" }\n max_increase = 5\n window = \"5m\"\n key = \"METRICS_API_KEY\"\n}", ""},
		"gate, file":   {gate + "bearer_token_file = \"/run/token\"\n}", ""},
		"unknown":      {`health "promethus" {}`, `did you mean "prometheus"?`},
		"no command":   {`health "command" {}`, `health "command": command is missing`},
		"stray":        {"health \"tcp\" {\n address = \"x:1\"\n url = \"http://x\"\n}", `health "tcp": url is of "http" and "prometheus", and does nothing here`},
		"tcp etag":     {"health \"tcp\" {\n address = \"x:1\"\n expect_etag = true\n}", `expect_etag is of "http" and "command"`},
		"no url":       {`health "http" {}`, `health "http": url is missing`},
		"url":          {"health \"http\" {\n url = \"x/health\"\n}", "url is not http://"},
		"password":     {`health "http" { url = "http://u:s3cret@x/" }`, "url holds a user or a password, which"},
		"port":         {`health "http" { url = "http://x:0/" }`, "url: the port is no number"},
		"tcp, no port": {`health "tcp" { address = "127.0.0.1" }`, `health "tcp": address = "127.0.0.1": missing port in address; write one such as "127.0.0.1:6379"`},
		"tcp, url":     {`health "tcp" { address = "http://127.0.0.1:1" }`, `health "tcp": address = "http://127.0.0.1:1": too many colons`},
		"tcp, port":    {`health "tcp" { address = "x:70000" }`, "the port is no number from 1 to 65535"},
		"gate, no url": {"health \"prometheus\" {\n metric = \"x\"\n}", `health "prometheus": url is missing`},
		"metric":       {"health \"prometheus\" {\n url = \"http://x\"\n metric = \"x{a=1}\"\n}", `metric = "x{a=1}" is not the name`},
		"no metric":    {"health \"prometheus\" {\n url = \"http://x\"\n}", `metric = "" is not the name`},
		"label":        {gate + "labels = { \"a-b\" = \"1\" }\n}", `"a-b" is not the name of a label`},
		"pattern":      {gate + "labels = { status = \"=~(\" }\n}", "labels: status"},
		"increase":     {gate + "max_increase = -1\n}", "max_increase = -1 is negative"},
		"window":       {gate + "window = \"long\"\n}", `health "prometheus": window = "long" is not a duration`},
		"two tokens":   {gate + "key = \"METRICS_API_KEY\"\n bearer_token_file = \"/x\"\n}", "key and bearer_token_file exclude each other"},
		"key":          {gate + "key = \"metrics-api-key\"\n}", "is not the name of a key in bundles"},
		"relative":     {gate + "bearer_token_file = \"x\"\n}", `bearer_token_file = "x" is not an absolute path`},
		"timeout":      {"health \"tcp\" {\n address = \"x:1\"\n timeout = \"0s\"\n}", `health "tcp": timeout = "0s" is not a duration`},
		"twice":        {"health \"tcp\" {\n address = \"x:1\"\n interval = \"1s\"\n}\nhealth \"tcp\" {\n address = \"x:2\"\n interval = \"2s\"\n}", "are of all health blocks together"},
		"none, beside": {"health \"none\" {}\nhealth \"tcp\" { address = \"x:1\" }", `"none" stands beside other checks`},
	} {
		t.Run(name, func(t *testing.T) {
			blocks := strings.Replace(good, "health \"http\" {\n  url         = \"http://127.0.0.1:3000/health\"\n  expect_etag = true\n}", c.blocks, 1)
			if blocks == good {
				t.Fatal("the good configuration has another health block")
			}
			status, text := validate(t, blocks)
			if want := map[bool]int{true: 0, false: 2}[c.wants == ""]; status != want || !strings.Contains(text, c.wants) {
				t.Errorf("status %d: %s", status, text)
			}
		})
	}
	if status, text := validate(t, followed+"reload \"signal\" { process = \"x\" }\n"+gate+"}"); status != 2 || !strings.Contains(text, "it needs a vault block") {
		t.Errorf("status %d: %s", status, text)
	}
}
