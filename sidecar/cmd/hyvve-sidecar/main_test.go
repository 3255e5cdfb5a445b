// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The program itself, linked as it is shipped.
func TestCommands(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "hyvve-sidecar")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for name, c := range map[string]struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		"none":               {nil, 2, "", "Usage: hyvve-sidecar COMMAND"},
		"help":               {[]string{"help"}, 0, "Usage: hyvve-sidecar COMMAND", ""},
		"version":            {[]string{"version"}, 0, "hyvve-sidecar v", ""},
		"version, more":      {[]string{"version", "--jsn"}, 2, "", "hyvve-sidecar version: flag --jsn is not known"},
		"version, help":      {[]string{"version", "--help"}, 0, "Usage: hyvve-sidecar version", ""},
		"version, one dash":  {[]string{"-version"}, 0, "hyvve-sidecar v", ""},
		"help, command":      {[]string{"help", "exec"}, 0, "Usage: hyvve-sidecar exec", ""},
		"help, misspelt":     {[]string{"help", "exce"}, 2, "", `command "exce" is not known; did you mean "exec"?`},
		"bash":               {[]string{"completion", "bash"}, 0, "# bash completion", ""},
		"zsh":                {[]string{"completion", "zsh"}, 0, "#compdef hyvve-sidecar", ""},
		"fish":               {[]string{"completion", "fish"}, 0, "# fish completion", ""},
		"no shell":           {[]string{"completion"}, 2, "", "the shell is missing; name one of bash, zsh, fish"},
		"no such shell":      {[]string{"completion", "foo"}, 2, "", `shell "foo" is not known (it is one of bash, zsh, fish`},
		"unknown shell":      {[]string{"completion", "fissh"}, 2, "", `"fissh" is not known; did you mean "fish"?`},
		"completed command":  {[]string{"__complete", "ag"}, 0, "agent\t", ""},
		"completed flag":     {[]string{"__complete", "reencrypt", "discover", "--a"}, 0, "--all\t", ""},
		"misspelt below":     {[]string{"reencrypt", "discovr"}, 2, "", `hyvve-sidecar reencrypt: "discovr" is not known; did you mean "discover"?`},
		"misspelt, flags":    {[]string{"agnet", "--config=/x"}, 2, "", `command "agnet" is not known; did you mean "agent"?`},
		"misspelt command":   {[]string{"agnet"}, 2, "", `command "agnet" is not known; did you mean "agent"?`},
		"misspelt flag":      {[]string{"agent", "--token-fiel=/x"}, 2, "", "did you mean --token-file?"},
		"nothing to do":      {[]string{"agent"}, 2, "", "neither a vault block"},
		"no configuration":   {[]string{"validate", "--config=/nowhere"}, 2, "", "/nowhere: no such file or directory; name one that is there"},
		"validate":           {[]string{"validate", "--watch=/x", "--pid-file=/y"}, 0, "The configuration is good.", ""},
		"a flag given twice": {[]string{"validate", "--watch=/x", "--watch=/z", "--pid-file=/y"}, 2, "", "it is given twice"},
		"validate, help":     {[]string{"validate", "--help"}, 0, "Usage: hyvve-sidecar validate --config=FILE", ""},
		"exec":               {[]string{"exec", "--vault-addr=http://127.0.0.1:1", "--token-file=/x", "--workload=api", "--", "/no/such"}, 127, "", "workload /no/such cannot be started"},
		"exec, help":         {[]string{"exec", "--help"}, 0, "-- COMMAND", ""},
		"proxy, no bundle":   {[]string{"proxy", "--listen=:1", "--upstream=http://127.0.0.1:2", "--key=X"}, 2, "", "--bundle is missing"},
		"proxy, no key":      {[]string{"proxy", "--bundle=/x"}, 2, "", "--key"},
		"reencrypt, no URL":  {[]string{"reencrypt", "--dry-run"}, 2, "", "DATABASE_URL is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := exec.Command(binary, c.args...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run() // its status says how it went
			if status := cmd.ProcessState.ExitCode(); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}
