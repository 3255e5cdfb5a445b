// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

var least = []string{"--image=sidecar:1", "--vault-addr=https://vault.vault:8200", "--namespace=hyvve", "--replica=one"}

// parse returns what is run; nil: nothing.
func parse(args, environ []string, stdout, stderr io.Writer) (c *config, status int) {
	cmd := newCommand(environ, func(_ context.Context, got *config) error { c = got; return nil })
	status = usage.Run(context.Background(), cmd, args, stdout, stderr)
	return c, status
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		args, environ  []string
		status         int
		stdout, stderr string
	}{
		"help":                {[]string{"--help"}, nil, 0, "Usage: hyvve-injector --image=IMAGE", ""},
		"version":             {[]string{"--version"}, nil, 0, "hyvve-injector v", ""},
		"version, a word":     {[]string{"version"}, nil, 0, "hyvve-injector v", ""},
		"version, help":       {[]string{"version", "--help"}, nil, 0, "Usage: hyvve-injector", ""},
		"nothing":             {nil, nil, 2, "", "vault address is missing"},
		"misspelt":            {append(slices.Clone(least), "--drian=1s"), nil, 2, "", "did you mean --drain?"},
		"unknown shell":       {[]string{"completion", "fissh"}, nil, 2, "", `"fissh" is not known; did you mean "fish"?`},
		"misspelt variable":   {least, []string{"HYVVE_INJECTOR_DRIAN=1s"}, 2, "", "did you mean"},
		"no namespace":        {least[:2], nil, 2, "", "--namespace is missing"},
		"nor with a cert-dir": {append(slices.Clone(least[:2]), "--cert-dir=/x"), nil, 2, "", "--namespace is missing"},
		"log level":           {append(slices.Clone(least), "--log-level=loud"), nil, 2, "", "write debug, info, warn or error"},
		"address":             {append(slices.Clone(least), "--listen=9443"), nil, 2, "", "--listen"},
		"drain":               {append(slices.Clone(least), "--drain=-1s"), nil, 2, "", "--drain"},
		"pod readers":         {append(slices.Clone(least), "--pod-readers=apps/web,reader"), nil, 2, "", `"reader" is no service account; write NAMESPACE/NAME`},
		"lifetimes":           {append(slices.Clone(least), "--ca-lifetime=1h"), nil, 2, "", "--ca-lifetime"},
		"password":            {append(slices.Clone(least), "--vault-addr=https://a:canary@v:8200"), nil, 2, "", "password"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			config, status := parse(c.args, c.environ, &stdout, &stderr)
			if config != nil || status != c.status || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) || (stderr.Len() > 0) != (c.stderr != "") {
				t.Errorf("status %d, stdout %q, stderr %q", status, stdout.String(), stderr.String())
			}
			if strings.Contains(stderr.String(), "canary") {
				t.Errorf("a password is quoted: %s", stderr.String())
			}
		})
	}
}

func TestNamesAndDefaults(t *testing.T) {
	for listen, want := range map[string][]string{
		":9443":          {"hyvve-injector.hyvve.svc", "hyvve-injector.hyvve"},
		"0.0.0.0:9443":   {"hyvve-injector.hyvve.svc", "hyvve-injector.hyvve"},
		"[::]:9443":      {"hyvve-injector.hyvve.svc", "hyvve-injector.hyvve"},
		"127.0.0.1:9443": {"hyvve-injector.hyvve.svc", "hyvve-injector.hyvve", "127.0.0.1"},
	} {
		var out bytes.Buffer
		// A Service of this very name puts such variables into its own pods.
		c, _ := parse(least, []string{"HYVVE_INJECTOR_LISTEN=" + listen, "HYVVE_INJECTOR_SERVICE_HOST=10.0.0.1", "HYVVE_INJECTOR_PORT=tcp://10.0.0.1:443", "HYVVE_INJECTOR_DRAIN=3s"}, &out, &out)
		if c == nil {
			t.Fatal(out.String())
		}
		if got := c.managed.Policy.Names; !slices.Equal(got, want) {
			t.Errorf("%s: %q", listen, got)
		}
		if c.drain != 3*time.Second || c.managed.LeaseDuration != 15*time.Second || c.inject.AuthMount != "kubernetes" || c.managed.Replica != "one" {
			t.Errorf("%+v", c.managed)
		}
	}
}
