// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// How the sidecar is can be asked at its socket, before, while and after something is wrong, and no answer holds a value.
func TestStatusAtTheSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, ".status-secrets.json.hyvve")
	r := startAgentWith(t, dir, nil, func(r *running, c *Config) {
		if c.Socket != socket {
			t.Errorf("the standard socket is %s", c.Socket)
		}
		r.fake.fail["creds"] = http.StatusServiceUnavailable
	})
	var out, errs bytes.Buffer
	status := func() int {
		out.Reset()
		errs.Reset()
		return usage.Run(t.Context(), NewStatus(), []string{"--socket=" + socket}, &out, &errs)
	}
	shows := func(code int, parts ...string) {
		t.Helper()
		kit.Until(t, strings.Join(parts, ", "), func() bool {
			if status() != code {
				return false
			}
			for _, part := range parts {
				if !strings.Contains(out.String(), part) {
					return false
				}
			}
			return true
		})
		if strings.Contains(out.String(), canary) {
			t.Error("a value is shown")
		}
	}
	shows(1, "NOT READY", "unavailable for", "by token_file")
	ready := func(args ...string) int {
		out.Reset()
		errs.Reset()
		return usage.Run(t.Context(), NewStatus(), append([]string{"--ready", "--socket=" + socket}, args...), &out, &errs)
	}
	if ready() != 1 || !strings.Contains(errs.String(), "not in place yet: ") {
		t.Errorf("not ready: %s", &errs)
	}
	if code, _ := at(t, socket, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("not ready: %d", code)
	}
	r.fake.change(func() { delete(r.fake.fail, "creds") })
	if ready("--wait=20s") != 0 || out.Len()+errs.Len() > 0 {
		t.Errorf("waiting for readiness: %s%s", &out, &errs)
	}
	r.await("loaded", loaded("etag-1-0"))
	shows(0, "state", "well", "TOKEN version 1", "accepts 1, 0", "reload", "reported")
	r.reloads.set(errors.New("it says " + canary + "-2"))
	r.fake.change(func() { r.fake.version = 2 })
	shows(1, "UNHEALTHY: workload not reloaded: it says [redacted]", "FAILED")
	if code, text := at(t, socket, "/readyz"); code != http.StatusOK {
		t.Errorf("the last good files are there: %d %s", code, text)
	}
	_, text := at(t, socket, "/metrics")
	for _, want := range []string{
		`hyvve_sidecar_info{instance="api-1",mode="agent",version="`, `hyvve_sidecar_key_version{key="TOKEN"} 2`, `hyvve_sidecar_healthy 0`, `hyvve_sidecar_vault_up 1`,
		`hyvve_sidecar_reloads_total{result="success"} 1`, `hyvve_sidecar_reload_duration_seconds_count `, "process_resident_memory_bytes", "go_goroutines",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, canary) {
		t.Error("a value is in the metrics")
	}
	r.reloads.set(nil)
	r.await("mended", loaded("etag-2-0"))
	shows(0, "TOKEN version 2")
	info, err := os.Lstat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	r.stop()
	if code := status(); code != 1 || !strings.Contains(errs.String(), "does not run") {
		t.Errorf("after its end: %d, %s", code, errs.String())
	}
}

// at asks at a socket.
func at(t *testing.T, socket, path string) (code int, text string) {
	t.Helper()
	resp, err := status.Get(t.Context(), socket, path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// The command finds the socket of a configuration, and says what is wrong otherwise.
func TestStatusCommand(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	block := "vault {\n auth \"token_file\" { path = \"/t\" }\n}\n"
	for want, args := range map[string][]string{
		"which sidecar?":                                {},
		"flag --sockt is not known":                     {"--sockt=x"},
		"nobody answers at /nowhere/s":                  {"--config=" + write("set.hcl", block+`status { socket = "/nowhere/s" }`)},
		"nobody answers at /nowhere/.status-.env.hyvve": {"--config=" + write("standard.hcl", block+`render "dotenv" { path = "/nowhere/.env" }`)},
		"has no socket":                                 {"--config=" + write("none.hcl", block+`status { socket = "none" }`)},
		"missing.hcl":                                   {"--config=" + filepath.Join(dir, "missing.hcl")},
		"nobody answers at":                             {"--socket=" + write("file", "")},
	} {
		var out, errs bytes.Buffer
		if code := usage.Run(t.Context(), NewStatus(), args, &out, &errs); code == 0 || !strings.Contains(errs.String(), want) {
			t.Errorf("%v: %d, %s", args, code, errs.String())
		}
	}
}

// A port that is taken ends the sidecar at its start; a socket that cannot be made does not, and is made later.
func TestStatusCannotBeServed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // of a test
	log := &kit.Log{}
	c := Config{Checked: config.Checked{File: config.File{Status: &config.StatusBlock{Listen: taken.Addr().String()}}}}
	if _, err := serveStatus(t.Context(), c, newBoard(c, nil), testLog(log)); err == nil || !strings.Contains(err.Error(), "end what listens there") {
		t.Errorf("error is %v", err)
	}
	socket := filepath.Join(t.TempDir(), "later", "socket")
	c = Config{Checked: config.Checked{Socket: socket}}
	end, err := serveStatus(t.Context(), c, newBoard(c, nil), testLog(log))
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	kit.Until(t, "it is said", func() bool { return strings.Contains(log.String(), "it is tried again") })
	if err := os.Mkdir(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the socket is there", func() bool { _, err := ask(t.Context(), socket, "/status"); return err == nil })
}
