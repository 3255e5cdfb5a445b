// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/nearest"
)

func TestNearest(t *testing.T) {
	commands := []string{"agent", "reencrypt", "validate", "version"}
	for word, want := range map[string]string{"agnet": "agent", "re-encrypt": "reencrypt", "versoin": "version", "frobnicate": "", "": ""} {
		if got := nearest.To(word, commands); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		args           []string
		ok             bool
		status         int
		stdout, stderr string
	}{
		"good":     {[]string{"--pid-file=/x"}, true, 0, "", ""},
		"one dash": {[]string{"-pid-file", "/x"}, true, 0, "", ""},
		"misspelt": {[]string{"--pidfile=/x"}, false, 2, "", "flag --pidfile is not known; did you mean --pid-file?"},
		"strange":  {[]string{"--frobnicate"}, false, 2, "", "flag --frobnicate is not known\n"},
		"argument": {[]string{"extra"}, false, 2, "", `"extra" is not wanted`},
		"no value": {[]string{"--pid-file"}, false, 2, "", "flag --pid-file has no value; write --pid-file=FILE\n"},
		"number":   {[]string{"--rows=many"}, false, 2, "", `--rows: "many" is not what it takes: a whole number, such as 10`},
		"duration": {[]string{"--rest", "5"}, false, 2, "", `--rest: "5" is not what it takes: a duration, such as 200ms or 30s`},
		"switch":   {[]string{"--json=perhaps"}, false, 2, "", `--json: "perhaps" is not what it takes: true or false`},
		"own":      {[]string{"--own=x"}, false, 2, "", `--own: "x" is not what it takes: say y`},
		"help":     {[]string{"--help"}, false, 0, "--pid-file=FILE", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ok := false
			cmd := New("hyvve-sidecar agent", "", "Usage: …\n", func(*cobra.Command, []string) error { ok = true; return nil })
			flags := cmd.Flags()
			flags.String("pid-file", "", "`FILE` with a number")
			flags.Int("rows", 1, "")
			flags.Duration("rest", 0, "")
			flags.Bool("json", false, "")
			flags.Func("own", "", func(string) error { return errors.New("say y") })
			var stdout, stderr bytes.Buffer
			status := Run(t.Context(), cmd, c.args, &stdout, &stderr)
			if ok != c.ok || status != c.status {
				t.Errorf("%v, status %d", ok, status)
			}
			if !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) || c.stderr == "" && stderr.Len() > 0 {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	for name, c := range map[string]struct{ entry, want, fault string }{
		"set":           {"X_PID_FILE=/y", "/y", ""},
		"empty":         {"X_PID_FILE=", "", ""},
		"of another":    {"X_OTHER=1", "", ""},
		"not ours":      {"PID_FILE=/y", "", ""},
		"misspelt":      {"X_PIDFILE=/y", "", `X_PIDFILE is not known; did you mean "X_PID_FILE"?`},
		"of a service":  {"X_SERVICE_HOST=10.0.0.1", "", ""},
		"its port":      {"X_METRICS_SERVICE_PORT_HTTP=80", "", ""},
		"its address":   {"X_PORT_9102_TCP_ADDR=10.0.0.1", "", ""},
		"no value kind": {"X_ALL=canary", "", "X_ALL is not what --all takes"},
	} {
		t.Run(name, func(t *testing.T) {
			flags, other := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
			got := flags.String("pid-file", "", "")
			flags.Bool("all", false, "")
			other.String("other", "", "")
			err := Environment(flags, "X_", []string{c.entry}, nil, other)
			if *got != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%q, %v", *got, err)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("the value is quoted: %v", err)
			}
		})
	}
}

// The prefix, which all variables share, brings none nearer.
func TestUnknownVariable(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("overlap", "", "")
	flags.String("config", "", "")
	for entry, want := range map[string]string{
		"HYVVE_SIDECAR_ON_STOP=leave": "environment: HYVVE_SIDECAR_ON_STOP is not known",
		"HYVVE_SIDECAR_CONFG=/x":      `environment: HYVVE_SIDECAR_CONFG is not known; did you mean "HYVVE_SIDECAR_CONFIG"?`,
	} {
		if err := Environment(flags, "HYVVE_SIDECAR_", []string{entry}, nil); err == nil || err.Error() != want {
			t.Errorf("%s: %v", entry, err)
		}
	}
}

func TestHelpWithoutFlags(t *testing.T) {
	var stdout, stderr bytes.Buffer
	ran := false
	cmd := New("hyvve-dev", "", "Usage: …\n", func(*cobra.Command, []string) error { ran = true; return nil })
	if status := Run(t.Context(), cmd, []string{"--help"}, &stdout, &stderr); ran || status != 0 || stdout.String() != "Usage: …\n" || stderr.Len() > 0 {
		t.Errorf("%v, status %d, stdout %q, stderr %q", ran, status, stdout.String(), stderr.String())
	}
}

// The command line goes over the environment, also where it names another way than that.
func TestEnvironmentUnderTheCommandLine(t *testing.T) {
	for line, want := range map[string]string{"": "env-a env-b env-c", "--a=x": "x  env-c", "--b=x": " x env-c", "--c=x": "env-a env-b x"} {
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		a, b, c := flags.String("a", "", ""), flags.String("b", "", ""), flags.String("c", "", "")
		if err := flags.Parse(strings.Fields(line)); err != nil {
			t.Fatal(err)
		}
		if err := Environment(flags, "X_", []string{"X_A=env-a", "X_B=env-b", "X_C=env-c"}, []string{"a", "b"}); err != nil {
			t.Fatal(err)
		}
		if got := *a + " " + *b + " " + *c; got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// What stands after "--" is the workload's own, and stays as it is.
func TestArgumentsAfterTwoDashes(t *testing.T) {
	for _, line := range []string{"-keys=A -- node -keys -help", "--keys=A -- node -keys -help"} {
		var got []string
		cmd := New("hyvve-sidecar exec", "", "", func(_ *cobra.Command, args []string) error { got = args; return nil })
		keys := cmd.Flags().String("keys", "", "")
		cmd.Args = cobra.ArbitraryArgs
		if status := Run(t.Context(), cmd, strings.Fields(line), io.Discard, io.Discard); status != 0 || *keys != "A" || strings.Join(got, " ") != "node -keys -help" {
			t.Errorf("%s: status %d, keys %q, %q", line, status, *keys, got)
		}
	}
}

// A word behind a flag that stands before the command may be the flag's value: it is not printed.
func TestUnknownCommand(t *testing.T) {
	const before = "x: flag --token stands before the command; write x COMMAND --token\n"
	for line, want := range map[string]string{
		"agnet":                      `x: command "agnet" is not known; did you mean "agent"?` + "\n",
		"agnet --token canary":       `x: command "agnet" is not known; did you mean "agent"?` + "\n",
		"--version agnet":            `x: command "agnet" is not known; did you mean "agent"?` + "\n",
		"- --help agnet":             `x: command "agnet" is not known; did you mean "agent"?` + "\n",
		"--token canary agnet":       before,
		"--token=canary agnet":       before,
		"-token canary agent":        before,
		"-t canary agnet":            "x: flag --t stands before the command; write x COMMAND --t\n",
		"--help -token canary agent": before,
	} {
		var said bytes.Buffer
		root := NewRoot("x", "v1", "Usage: x\n", New("x agent", "", "", func(*cobra.Command, []string) error { return nil }))
		status := Run(t.Context(), root, strings.Fields(line), io.Discard, &said)
		if status != 2 || !strings.HasPrefix(said.String(), want+"\nUsage: x\n") || strings.Contains(said.String(), "canary") {
			t.Errorf("%s: status %d, %q", line, status, said.String())
		}
	}
}

// An error has its exit status, the name of the command, and a hint where the command line is wrong.
func TestExit(t *testing.T) {
	wrong := errors.New("so")
	for _, c := range []struct {
		err    error
		status int
		said   string
	}{
		{nil, 0, ""},
		{wrong, 1, "x y: so\n"},
		{Exit{Status: 3}, 3, ""},
		{Exit{}, 0, ""},
		{Exit{Status: 127, Err: wrong}, 127, "x y: so\n"},
		{Wrong(wrong), 2, "x y: so\nRun \"x y --help\" for its flags.\n"},
	} {
		var said bytes.Buffer
		root := NewRoot("x", "v1", "", New("x y", "", "", func(*cobra.Command, []string) error { return c.err }))
		if status := Run(t.Context(), root, []string{"y"}, &said, &said); status != c.status || said.String() != c.said {
			t.Errorf("%v: status %d, %q", c.err, status, said.String())
		}
	}
}

// A program for which 2 means something else has another status for command lines that are wrong; flags of one letter are in the help.
func TestStatusOfWrongCommandLines(t *testing.T) {
	list := New("tool list", "list", "Usage: tool list [flags]\n", func(*cobra.Command, []string) error { return nil })
	list.Flags().StringP("output", "o", "text", "`FORMAT` of what is printed")
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"", 1, "Usage: tool"},
		{"lost", 1, `did you mean "list"?`},
		{"help lost", 1, `did you mean "list"?`},
		{"-o json list", 0, ""},
		{"list --outptu=json", 1, "did you mean --output?"},
		{"list -o json", 0, ""},
		{"list -ojson", 0, ""},
		{"list -output=json", 0, ""},
		{"list --help", 0, "  -o, --output=FORMAT"},
	} {
		root := WithWrongStatus(NewRoot("tool", "v1", "Usage: tool COMMAND\n", list), 1)
		var said bytes.Buffer
		if status := Run(t.Context(), root, strings.Fields(c.args), &said, &said); status != c.status || !strings.Contains(said.String(), c.says) {
			t.Errorf("tool %s: status %d: %s", c.args, status, &said)
		}
	}
}
