// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

const kubernetesAuth = `auth "kubernetes" { role = "api" }`

func TestVaultBlocks(t *testing.T) {
	with := func(auth, more string) string {
		text := strings.Replace(good, `auth "token_file" { path = "/run/token" }`, auth+"\n"+more, 1)
		return strings.Replace(text, "http://127.0.0.1:8200", "https://127.0.0.1:8200", 1)
	}
	certificate := "auth \"cert\" {\n cert_file = \"/c\"\n key_file = \"/k\"\n name = \"api\"\n}"
	lastGood := func(text string) string { return "last_good {\n" + text + "\n}" }
	plain := func(text string) string {
		return strings.Replace(text, "https://127.0.0.1:8200", "http://127.0.0.1:8200", 1)
	}
	for name, c := range map[string]struct {
		text  string
		wants []string // none: it is good
	}{
		"kubernetes":            {with(kubernetesAuth, ""), nil},
		"certificate":           {with(certificate, "tls_server_name = \"vault\"\nca_path = \"/etc/ssl/certs\""), nil},
		"wrapped":               {with("auth \"approle\" {\n role_id_file = \"/r\"\n secret_id_file = \"/s\"\n secret_id_wrapped = true\n role = \"api\"\n}", ""), nil},
		"client certificate":    {with(kubernetesAuth, "client_cert = \"/c\"\nclient_key = \"/k\"\nca_cert = \"/ca\""), nil},
		"last good":             {with(kubernetesAuth, lastGood("path = \"/var/lib/hyvve/last-good\"\nkey_file = \"/etc/hyvve/none/key\"\nmax_age = \"24h\"")), nil},
		"misspelt":              {with(`auth "kubernetes" { rol = "api" }`, ""), []string{`"rol"`, `"role"`}},
		"no auth":               {with("", ""), []string{"Missing auth block"}},
		"another method's":      {with("auth \"kubernetes\" {\n role = \"api\"\n path = \"/t\"\n}", ""), []string{"path is not a field of this method"}},
		"two authorities":       {with(kubernetesAuth, "ca_cert = \"/a\"\nca_path = \"/b\""), []string{"ca_cert and ca_path are both set"}},
		"half a certificate":    {with(kubernetesAuth, "client_cert = \"/a\""), []string{"client_cert and client_key belong together"}},
		"two certificates":      {with(certificate, "client_cert = \"/a\"\nclient_key = \"/b\""), []string{"client_cert and cert_file", "take client_cert"}},
		"certificate, no TLS":   {plain(with(certificate, "")), []string{`auth "cert" needs TLS`, "https://"}},
		"server name, no TLS":   {plain(with(kubernetesAuth, `tls_server_name = "x"`)), []string{"tls_server_name needs TLS"}},
		"last good, no path":    {with(kubernetesAuth, lastGood("key_file = \"/k\"")), []string{`"path"`}},
		"last good, no key":     {with(kubernetesAuth, lastGood("path = \"/p\"")), []string{`"key_file"`}},
		"last good, relative":   {with(kubernetesAuth, lastGood("path = \"p\"\nkey_file = \"k\"")), []string{`path = "p" is not an absolute path`, `key_file = "k" is not`}},
		"last good, one file":   {with(kubernetesAuth, lastGood("path = \"/p/x\"\nkey_file = \"/p/./x\"")), []string{"are the same file"}},
		"last good, rendered":   {with(kubernetesAuth, lastGood("path = \"/run/hyvve/bundle.json\"\nkey_file = \"/k\"")), []string{"is one that a render block writes"}},
		"last good, age":        {with(kubernetesAuth, lastGood("path = \"/p/x\"\nkey_file = \"/k\"\nmax_age = \"a day\"")), []string{`max_age = "a day" is not a duration`, "24h0m0s"}},
		"last good, key's mode": {with(kubernetesAuth, lastGood("path = \"/p/x\"\nkey_file = \"/etc/passwd\"")), []string{"/etc/passwd has mode", "chmod 0400"}},
		"last good, misspelt":   {with(kubernetesAuth, lastGood("path = \"/p/x\"\nkeyfile = \"/k\"")), []string{`"keyfile"`, `"key_file"`}},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := validate(t, c.text)
			if (status == 0) != (len(c.wants) == 0) {
				t.Errorf("status %d: %s", status, text)
			}
			for _, want := range c.wants {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in:\n%s", want, text)
				}
			}
		})
	}
}

func TestLoginFlags(t *testing.T) {
	for flags, want := range map[string]string{
		"--vault-addr=https://v --kubernetes-role=api":                         "good",
		"--vault-addr=https://v --cert-file=/c --key-file=/k":                  "good",
		"--vault-addr=http://v --cert-file=/c --key-file=/k":                   "needs TLS",
		"--vault-addr=https://v --cert-file=/c":                                "key_file is missing",
		"--vault-addr=https://v --kubernetes-role=api --token-file=/t":         "--token-file and --kubernetes-role",
		"--vault-addr=https://v --role-id-file=/r --cert-file=/c --key-file=k": "--role-id-file and --cert-file",
		"--vault-addr=https://v --secret-id-file=/r":                           "role_id_file is missing",
	} {
		var out, errs strings.Builder
		usage.Run(t.Context(), NewValidate(), append(strings.Fields(flags), "--workload=api", "--dotenv=/run/.env"), &out, &errs)
		if text := out.String() + errs.String(); !strings.Contains(text, want) {
			t.Errorf("%s: no %q in %s", flags, want, text)
		}
	}
}
