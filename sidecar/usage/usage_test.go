// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	commands := []string{"agent", "reencrypt", "validate", "version"}
	for word, want := range map[string]string{"agnet": "agent", "re-encrypt": "reencrypt", "versoin": "version", "frobnicate": "", "": ""} {
		if got := Nearest(word, commands); got != want {
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
			flags := flag.NewFlagSet("hyvve-sidecar agent", flag.ContinueOnError)
			flags.String("pid-file", "", "`FILE` with a number")
			flags.Int("rows", 1, "")
			flags.Duration("rest", 0, "")
			flags.Bool("json", false, "")
			flags.Func("own", "", func(string) error { return errors.New("say y") })
			var stdout, stderr bytes.Buffer
			ok, status := Parse(flags, c.args, "Usage: …\n", &stdout, &stderr)
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
			flags, other := flag.NewFlagSet("", flag.ContinueOnError), flag.NewFlagSet("", flag.ContinueOnError)
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

func TestHelpWithoutFlags(t *testing.T) {
	var stdout, stderr bytes.Buffer
	ok, status := Parse(flag.NewFlagSet("hyvve-dev", flag.ContinueOnError), []string{"--help"}, "Usage: …\n", &stdout, &stderr)
	if ok || status != 0 || stdout.String() != "Usage: …\n" || stderr.Len() > 0 {
		t.Errorf("%v, status %d, stdout %q, stderr %q", ok, status, stdout.String(), stderr.String())
	}
}

// The command line goes over the environment, also where it names another way than that.
func TestEnvironmentUnderTheCommandLine(t *testing.T) {
	for line, want := range map[string]string{"": "env-a env-b env-c", "-a=x": "x  env-c", "-b=x": " x env-c", "-c=x": "env-a env-b x"} {
		flags := flag.NewFlagSet("", flag.ContinueOnError)
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
