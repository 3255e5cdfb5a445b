// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every way on which a secret leaves this machine without verified TLS is warned of, and no other.
func TestInClear(t *testing.T) {
	check := func(text string) []string {
		t.Helper()
		f, err := Parse([]byte(text), "test")
		if err != nil {
			t.Fatal(err)
		}
		c, err := f.Check()
		if err != nil {
			t.Fatal(err)
		}
		return c.Warnings
	}
	const auth = "auth \"token_file\" { path = \"/run/token\" }\n"
	text := "workload = \"api\"\nvault {\n address = \"http://vault:8200\"\n" + auth + "}\n" +
		"render \"json\" { path = \"/run/x/s\" }\n" +
		"reload \"http\" {\n url = \"http://app/reload\"\n bearer_token_file = \"/run/t\"\n}\n" +
		"health \"prometheus\" {\n url = \"http://metrics/m\"\n metric = \"x\"\n key = \"METRICS_API_KEY\"\n}\n" +
		"proxy {\n listen = \"127.0.0.1:1\"\n upstream = \"http://upstream:2\"\n key = \"TOKEN\"\n}\n"
	warned := check(text)
	for n, want := range []string{"vault: vault is reached without TLS", "reload: the credential is sent to app", "health: the credential is sent to metrics", "proxy of TOKEN: the key is sent to upstream"} {
		if len(warned) != 4 || !strings.HasPrefix(warned[n], want) {
			t.Errorf("%q, want %q", warned, want)
		}
	}
	quiet := strings.NewReplacer("http://vault", "https://vault", "http://app", "http://127.0.0.1", "http://metrics", "http://localhost", "http://upstream", "http://[::1]").Replace(text)
	if warned := check(quiet); len(warned) != 0 {
		t.Errorf("%q", warned)
	}
	t.Setenv(skipVerify, "true")
	f, _ := Parse([]byte(quiet), "test")
	if _, err := f.Check(); err == nil || !strings.Contains(err.Error(), "allow_skip_verify = true") || !strings.Contains(err.Error(), "ca_cert") {
		t.Errorf("verification is off, and nobody agreed: %v", err)
	}
	if warned := check(strings.Replace(quiet, auth, auth+"allow_skip_verify = true\n", 1)); len(warned) != 1 || !strings.Contains(warned[0], "not verified") {
		t.Errorf("%q", warned)
	}
}

// Who may change the configuration runs programs as the sidecar.
func TestConfigurationOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sidecar.hcl")
	if err := os.WriteFile(path, []byte("workload = \"api\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o644: true, 0o666: false, 0o602: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "chmod go-w") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}
