// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// The terminal that sends SIGHUP does not show the sidecar's log.
func TestStatusShowsAConfigurationThatIsNotTaken(t *testing.T) {
	fake, dir := newFakeVault(t), t.TempDir()
	socket := filepath.Join(dir, "s")
	config := func(more string) string {
		return fmt.Sprintf("workload = \"api\"\nvault {\n address = %q\n auth \"token_file\" { path = \"%[2]s/token\" }\n}\nrender \"json\" { path = \"%[2]s/s.json\" }\nstatus { socket = %[3]q }\n%[4]s",
			fake.server.URL, dir, socket, more)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startCommand(t, dir, config(""))
	shows := func(what string, so func(s status.State) bool) {
		t.Helper()
		kit.Until(t, what, func() bool { s, err := ask(t.Context(), socket, "/status"); return err == nil && so(s) }, h.log.String)
	}
	shows("it is well", status.State.Well)
	h.reconfigure(config("rendr \"x\" {}"))
	shows("a mistake", func(s status.State) bool {
		return !s.Well() && s.NotTaken != nil && strings.Contains(s.NotTaken.Error, "rendr")
	})
	h.reconfigure(config(""))
	shows("it is well again", status.State.Well)
}

// Without a status block the socket is beside the first file. To keep it there, it can be named.
func TestSocketThatWouldMove(t *testing.T) {
	made := func(renders string) Config {
		t.Helper()
		f, err := load("", "workload = \"api\"\nvault {\n address = \"http://127.0.0.1:8200\"\n auth \"token_file\" { path = \"/t\" }\n}\n"+renders)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Check(f)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const a, b = "render \"json\" { path = \"/run/a\" }\n", "render \"json\" { path = \"/run/b\" }\n"
	now := made(a + b)
	err := now.changeable(made(b + a))
	if err == nil || !strings.Contains(err.Error(), `from /run/.status-a.hyvve to /run/.status-b.hyvve`) || !strings.Contains(err.Error(), `status { socket = "/run/.status-a.hyvve" }`) {
		t.Errorf("error is %v", err)
	}
	if err := now.changeable(made(b + a + `status { socket = "/run/.status-a.hyvve" }`)); err != nil {
		t.Errorf("what the error says to write is refused: %v", err)
	}
	if err := now.changeable(made(a + b + `status { listen = "127.0.0.1:9" }`)); err == nil || !strings.Contains(err.Error(), "the status block cannot change") {
		t.Errorf("error is %v", err)
	}
}

// A reload that hangs is seen while it hangs, and a SIGHUP that waits for it is confirmed.
func TestReloadUnderWay(t *testing.T) {
	fake, dir := newFakeVault(t), t.TempDir()
	socket := filepath.Join(dir, "s")
	config := fmt.Sprintf(`workload = "api"
vault {
  address = %q
  auth "token_file" { path = "%[2]s/token" }
}
render "json" { path = "%[2]s/s.json" }
status { socket = %[3]q }
reload "command" {
  command = ["sh", "-c", "until [ -e %[2]s/end ]; do sleep 0.05; done"]
  timeout = "45s"
}
`, fake.server.URL, dir, socket)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startCommand(t, dir, config)
	shows := func(what string, so func(s status.State) bool) {
		t.Helper()
		kit.Until(t, what, func() bool { s, err := ask(t.Context(), socket, "/status"); return err == nil && so(s) }, h.log.String)
	}
	shows("a reload is under way", func(s status.State) bool {
		return s.Reloading != nil && s.Reloading.Limit == 45*time.Second && !s.Well()
	})
	h.reconfigure(config)
	h.says(1, `"SIGHUP received; the configuration is loaded when the reload under way has ended","at_most":"4`)
	h.write("end", "")
	shows("it is well", func(s status.State) bool { return s.Well() && s.Reloading == nil && s.Reload != nil })
	h.says(1, "configuration taken")
}
