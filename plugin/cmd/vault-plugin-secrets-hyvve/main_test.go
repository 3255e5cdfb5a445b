// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
)

func TestAnswersPeople(t *testing.T) {
	for line, want := range map[string]struct {
		status int
		ends   bool
		text   string
	}{
		"":                             {0, false, ""},
		"-ca-cert=/ca.pem":             {0, false, ""}, // as Vault starts it
		"--version":                    {0, true, "vault-plugin-secrets-hyvve v"},
		"version":                      {0, true, "vault-plugin-secrets-hyvve v"},
		"version --help":               {0, true, "is started by Vault"},
		"--help":                       {0, true, "is started by Vault"},
		"--frobnicate":                 {2, true, "not defined"},
		"-tls-skip-verify -ca-cert=/a": {0, false, ""},
	} {
		var out bytes.Buffer
		status, ends := answers((&api.PluginAPIClientMeta{}).FlagSet(), strings.Fields(line), &out)
		if status != want.status || ends != want.ends || !strings.Contains(out.String(), want.text) {
			t.Errorf("%q: status %d, ends %v: %s", line, status, ends, &out)
		}
	}
}
