// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A certificate in PEM cannot become the value of a key whose sidecar renders it into a dotenv file. Where it renders it into
// a file of its own, it is imported and rotated, and the file holds it to the last byte.
func TestValueOfSeveralLines(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newLoginWorld(t, `
		auth "cert" {
			cert_file = "CERT"
			key_file  = "KEY"
			name      = "api"
		}`, func(w *loginWorld, ca string) {
		text, err := os.ReadFile(ca)
		if err != nil {
			w.t.Fatal(err)
		}
		w.write("sys/auth/cert", map[string]any{"type": "cert"})
		w.write("auth/cert/certs/api", map[string]any{"certificate": string(text), "allowed_common_names": "api", "token_policies": "api", "token_ttl": "1h"})
	})
	const (
		first  = "-----BEGIN X-----\nZmlyc3Qgb25lIGNhbmFyeQ==\n-----END X-----\n"
		second = "-----BEGIN X-----\nc2Vjb25kIG9uZSBjYW5hcnk=\n-----END X-----\n"
	)
	w.write("hyvve/keys/tls", map[string]any{"kind": "external", "multiline": "true"})
	w.write("hyvve/workloads/api", map[string]any{"presents": "agent-service-token,tls"})
	w.start()
	w.holds("the file is there", func() bool { return w.file() != "" })
	_, err := w.vault.Client.Logical().WriteWithContext(t.Context(), "hyvve/keys/tls", map[string]any{"value": first})
	if err == nil || !strings.Contains(err.Error(), "key tls: the value of TLS has several lines, which 1 of 1 instances of workload api cannot carry: api-1; render the key as json, bundle or files") {
		t.Fatalf("the import of what the sidecar cannot render: %v", err)
	}

	w.stop()
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `path = "`+w.dir+`/run/.env" }`, "\n path = \""+w.dir+"/run/.env\"\n keys = [\"AGENT_SERVICE_TOKEN\"]\n}\nrender \"files\" {\n path = \""+w.dir+"/run/files\"\n keys = [\"TLS\"]\n}", 1)
	if err := os.WriteFile(w.config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.holds("the value is imported", func() bool { // once the instance of before is gone
		_, err = w.vault.Client.Logical().WriteWithContext(t.Context(), "hyvve/keys/tls", map[string]any{"value": first})
		return err == nil
	})
	file := func() string {
		data, _ := os.ReadFile(filepath.Join(w.dir, "run", "files", "TLS"))
		return string(data)
	}
	w.holds("the file holds the value", func() bool { return file() == first })
	id := w.write("hyvve/rotate", map[string]any{"key": "tls", "value": second})["id"].(string)
	w.holds("the rotation ends", func() bool {
		r, err := w.engine.Rotation(t.Context(), id)
		return err == nil && r.State == "done"
	})
	if file() != second {
		t.Errorf("the file holds %q", file())
	}
	read, err := w.vault.Client.Logical().ReadWithDataWithContext(t.Context(), "hyvve/workloads/api", url.Values{"detailed": {"true"}})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(read.Data["instances"]); err != nil || !strings.Contains(string(text), `"one_line":["AGENT_SERVICE_TOKEN"]`) {
		t.Errorf("the workload reads as %s, %v", text, err)
	}
	for _, line := range strings.Split(first+second, "\n") {
		if line != "" && strings.Contains(w.log.String(), line) {
			t.Error("a line of a value stands in the log")
		}
	}
}
