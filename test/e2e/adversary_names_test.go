// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// namesWorld is a Vault with one key and one workload, and what an adversary puts between it and a sidecar.
type namesWorld struct {
	t     *testing.T
	vault *bed.Vault
	dir   string
	liar  string                             // URL of a Vault whose bundles hold other values
	says  *atomic.Pointer[map[string]string] // those
}

func newNamesWorld(t *testing.T) *namesWorld {
	t.Helper()
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := &namesWorld{t: t, vault: v, dir: t.TempDir(), says: &atomic.Pointer[map[string]string]{}}
	w.as(v.Client, "hyvve/keys/agent-service-token", map[string]any{"generate": true})
	w.as(v.Client, "hyvve/workloads/api", map[string]any{"presents": "agent-service-token"})
	target, err := url.Parse(v.Addr)
	if err != nil {
		t.Fatal(err)
	}
	relay := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, ModifyResponse: w.lie}
	server := httptest.NewServer(relay)
	t.Cleanup(server.Close)
	w.liar = server.URL
	return w
}

// as writes with a client, and wants success.
func (w *namesWorld) as(c *api.Client, path string, data map[string]any) {
	w.t.Helper()
	if _, err := c.Logical().WriteWithContext(w.t.Context(), path, data); err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
}

// with returns a client with a policy that we ship.
func (w *namesWorld) with(policy string) *api.Client {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(bed.Repo(), "deploy", "vault", "policies", policy+".hcl"))
	if err == nil {
		err = w.vault.Client.Sys().PutPolicyWithContext(w.t.Context(), policy, string(text))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	secret, err := w.vault.Client.Auth().Token().CreateWithContext(w.t.Context(), &api.TokenCreateRequest{Policies: []string{policy}, NoParent: true})
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := w.vault.Client.Clone()
	if err != nil {
		w.t.Fatal(err)
	}
	c.SetToken(secret.Auth.ClientToken)
	return c
}

// lie puts other values into bundles.
func (w *namesWorld) lie(resp *http.Response) error {
	if !strings.Contains(resp.Request.URL.Path, "/creds/") || resp.StatusCode != http.StatusOK {
		return nil
	}
	var answer map[string]any
	err := json.NewDecoder(resp.Body).Decode(&answer)
	_ = resp.Body.Close()
	if err != nil {
		return err
	}
	data, _ := answer["data"].(map[string]any)
	says, versions := *w.says.Load(), map[string]int{}
	for name := range says {
		versions[name] = 1
	}
	data["values"], data["versions"] = says, versions
	text, err := json.Marshal(answer)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	resp.Header.Set("Content-Length", strconv.Itoa(len(text)))
	return err
}

// sidecar starts the built one on a configuration, and returns its log. It is ended with the test.
func (w *namesWorld) sidecar(command, text string, args ...string) (config string, log *kit.Log) {
	w.t.Helper()
	token := filepath.Join(w.dir, "token")
	config, log = filepath.Join(w.t.TempDir(), "sidecar.hcl"), &kit.Log{}
	instance := fmt.Sprintf("sidecar-%08x", crc32.ChecksumIEEE([]byte(config))) // a name belongs to one login
	text = fmt.Sprintf("workload = \"api\"\ninstance = %q\nvault {\n address = %q\n auth \"token_file\" { path = %q }\n}\n%s\n", instance, w.liar, token, text)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte(w.with("api").Token()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(bed.Tool("bin", "hyvve-sidecar"), append([]string{command, "--config=" + config}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return config, log
}

// shows waits until the status of a sidecar says something.
func (w *namesWorld) shows(config, what string, log *kit.Log) {
	w.t.Helper()
	said := ""
	kit.Until(w.t, fmt.Sprintf("status shows %q", what), func() bool {
		out, _ := exec.Command(bed.Tool("bin", "hyvve-sidecar"), "status", "--config="+config).CombinedOutput()
		said = string(out)
		return strings.Contains(said, what)
	}, func() string { return said + "\n" + log.String() })
}

// A user who may define keys chooses their names and values, and workloads start with them: no name may be code.
func TestAdversaryNamesOfKeys(t *testing.T) {
	w := newNamesWorld(t)
	operator := w.with("operator")
	for _, env := range []string{"LD_PRELOAD", "BASH_ENV", "NODE_OPTIONS", "PYTHONSTARTUP", "JAVA_TOOL_OPTIONS", "PATH", "GIT_SSH_COMMAND", "HTTPS_PROXY", "SSL_CERT_FILE", "VAULT_TOKEN", "HYVVE_ETAG"} {
		_, err := operator.Logical().WriteWithContext(t.Context(), "hyvve/keys/code", map[string]any{"env": env, "kind": "external", "value": "/tmp/evil.so"})
		if err == nil || !strings.Contains(err.Error(), env+" is reserved") {
			t.Errorf("%s: %v", env, err)
		}
	}
	if secret, err := w.vault.Client.Logical().ReadWithContext(t.Context(), "hyvve/keys/code"); err != nil || secret != nil {
		t.Errorf("a key was stored: %v, %v", secret, err)
	}
}

// An engine that is not ours, or an older one's key, does not get a name past the sidecar, in any format.
func TestAdversaryNamesInBundles(t *testing.T) {
	w := newNamesWorld(t)
	for name, why := range map[string]string{"NODE_OPTIONS": "NODE_OPTIONS is reserved", "A=1\nLD_PRELOAD": "is not an environment name", "../../A": "is not an environment name"} {
		for _, format := range []string{"dotenv", "docker", "json", "bundle", "files"} {
			t.Run(fmt.Sprintf("%s %q", format, name), func(t *testing.T) {
				v := *w
				v.t = t
				v.says.Store(&map[string]string{name: "--require=/tmp/evil.js", "TOKEN": "fine"})
				dir := t.TempDir()
				config, log := v.sidecar("agent", fmt.Sprintf("render %q { path = \"%s/out\" }\nstatus { socket = \"%s/socket\" }", format, dir, dir))
				v.shows(config, why, log)
				if entries, _ := os.ReadDir(filepath.Join(dir, "out")); len(entries) > 0 {
					t.Errorf("written: %v", entries)
				}
				if info, err := os.Stat(filepath.Join(dir, "out")); err == nil && !info.IsDir() {
					t.Error("a file was written")
				}
			})
		}
	}
}

// BASH_ENV names a script that runs before the workload's first line. It does only where the sidecar's own configuration says so.
func TestAdversaryNamesInEnvironments(t *testing.T) {
	w := newNamesWorld(t)
	mark, script := filepath.Join(w.dir, "ran"), filepath.Join(w.dir, "evil.sh")
	if err := os.WriteFile(script, []byte("touch "+mark+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.says.Store(&map[string]string{"BASH_ENV": script})
	ran := func() bool { _, err := os.Stat(mark); return err == nil }
	command := []string{"--", "/bin/bash", "-c", "echo up; sleep 60 & wait"}

	config, log := w.sidecar("exec", fmt.Sprintf("status { socket = \"%s/one\" }", w.dir), command...)
	w.shows(config, "BASH_ENV is reserved", log)
	if ran() || strings.Contains(log.String(), "up\n") {
		t.Errorf("the workload was started:\n%s", log)
	}

	config, log = w.sidecar("exec", fmt.Sprintf("exec { keys = [\"TOKEN\"] }\nstatus { socket = \"%s/two\" }", w.dir), command...)
	w.shows(config, " exec v", log)
	kit.Until(t, "the workload runs without it", func() bool { return strings.Contains(log.String(), "up") }, log.String)
	if ran() {
		t.Error("a key that is not among keys ran code")
	}

	_, log = w.sidecar("exec", fmt.Sprintf("allow_names = [\"BASH_ENV\"]\nstatus { socket = \"%s/three\" }", w.dir), command...)
	kit.Until(t, "what the configuration allows is set", ran, log.String)
}
