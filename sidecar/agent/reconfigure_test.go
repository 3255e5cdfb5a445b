// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func testLog(w io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(w, nil)) }

// hangup is a command of the sidecar with a configuration file that the test changes.
type hangup struct {
	t    *testing.T
	dir  string
	log  *kit.Log
	done chan int
	stop context.CancelFunc
}

func startCommand(t *testing.T, dir, config string) *hangup {
	t.Helper()
	h := &hangup{t: t, dir: dir, log: &kit.Log{}, done: make(chan int, 1)}
	h.write("sidecar.hcl", config)
	ctx, cancel := context.WithCancel(t.Context())
	h.stop = cancel
	go func() {
		h.done <- usage.Run(ctx, NewCommand(), []string{"--config=" + filepath.Join(dir, "sidecar.hcl")}, io.Discard, h.log)
	}()
	t.Cleanup(func() {
		cancel()
		if status := <-h.done; status != 0 {
			t.Errorf("status %d; log:\n%s", status, h.log)
		}
		if strings.Contains(h.log.String(), canary) {
			t.Errorf("a secret stands in the log:\n%s", h.log)
		}
	})
	return h
}

func (h *hangup) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hangup) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(h.dir, name))
	return string(data)
}

// says waits until the log has it a number of times.
func (h *hangup) says(n int, text string) {
	h.t.Helper()
	kit.Until(h.t, fmt.Sprintf("the log says %d times %q", n, text), func() bool { return strings.Count(h.log.String(), text) >= n }, h.log.String)
}

// reconfigure changes the file and sends the signal, to this process.
func (h *hangup) reconfigure(config string) {
	h.t.Helper()
	h.write("sidecar.hcl", config)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		h.t.Fatal(err)
	}
}

// SIGHUP takes another configuration without a login being missed, a lease given back or the workload told of what is as
// it was; one that is not good changes nothing.
func TestHangupReconfigures(t *testing.T) {
	fake := newFakeVault(t)
	dir := t.TempDir()
	config := func(more string) string {
		return fmt.Sprintf(`
workload = "api"
vault {
  address = %q
  auth "token_file" { path = "%s/token" }
}
render "json" { path = "%s/secrets.json" }
reload "command" { command = ["sh", "-c", "echo >> %s/reloads"] }
`, fake.server.URL, dir, dir, dir) + more
	}
	reports := &running{t: t, fake: fake, log: &kit.Log{}}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startCommand(t, dir, config(""))
	first := reports.await("loaded", loaded("etag-1-0"))
	if got := h.read("reloads"); got != "\n" {
		t.Fatalf("reloads: %q", got)
	}
	second := fmt.Sprintf(`render "dotenv" { path = "%s/.env" }`, dir)
	h.reconfigure(config(second))
	h.says(1, "configuration taken")
	kit.Until(t, "the second file is there and reloaded", func() bool {
		return strings.Contains(h.read(".env"), canary) && h.read("reloads") == "\n\n"
	})
	again := reports.await("loaded again", loaded("etag-1-0"))
	if again["instance"] != first["instance"] {
		t.Errorf("the instance was %v and is %v", first["instance"], again["instance"])
	}
	h.reconfigure(config(second + "\nrendr \"x\" {}"))
	h.says(1, "configuration not taken")
	h.reconfigure(config(second + "\nstatus { listen = \"127.0.0.1:1\" }"))
	h.says(1, "restart it for that")
	h.reconfigure(config(second)) // as it is
	h.says(2, `"configuration taken"`)
	fake.change(func() { fake.version = 2 })
	reports.await("the next version", loaded("etag-2-0"))
	kit.Until(t, "one reload for it", func() bool { return h.read("reloads") == "\n\n\n" })
	if n := fake.count("leave"); n != 0 {
		t.Errorf("leases were given back: %d", n)
	}
}

// Another workload is another instance: the one before is given up.
func TestHangupChangesTheWorkload(t *testing.T) {
	fake := newFakeVault(t)
	dir := t.TempDir()
	config := func(workload string) string {
		return fmt.Sprintf("workload = %q\nvault {\n address = %q\n auth \"token_file\" { path = \"%s/token\" }\n}\nrender \"json\" { path = \"%s/s.json\" }", workload, fake.server.URL, dir, dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startCommand(t, dir, config("api"))
	reports := &running{t: t, fake: fake, log: h.log}
	reports.await("loaded", loaded("etag-1-0"))
	h.reconfigure(config("web"))
	h.says(1, "configuration taken")
	reports.await("loaded", loaded("etag-1-0"))
	if n := fake.count("leave"); n != 1 {
		t.Errorf("%d leases were given back, want 1", n)
	}
}

// SIGHUP while Vault is away has its effect, too.
func TestHangupWhileVaultIsAway(t *testing.T) {
	fake := newFakeVault(t)
	fake.fail["auth"] = 503
	dir := t.TempDir()
	config := func(path string) string {
		return fmt.Sprintf("workload = \"api\"\nvault {\n address = %q\n auth \"token_file\" { path = \"%s/token\" }\n}\nrender \"json\" { path = \"%s/%s\" }", fake.server.URL, dir, dir, path)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startCommand(t, dir, config("a.json")+"\nstatus { socket = \"none\" }")
	h.says(2, "not logged in to vault")
	h.reconfigure(config("b.json") + "\nstatus { socket = \"none\" }")
	h.says(1, "configuration taken")
	fake.change(func() { delete(fake.fail, "auth") })
	kit.Until(t, "the file of the new configuration", func() bool { return h.read("b.json") != "" })
	if h.read("a.json") != "" {
		t.Error("the file of the old configuration is there too")
	}
}

// One that follows files continues with other ones, and reloads once so that no change is lost between.
func TestHangupOfAFollower(t *testing.T) {
	dir := t.TempDir()
	config := func(name string) string {
		return fmt.Sprintf("watch {\n paths = [\"%s/%s\"]\n stable = \"10ms\"\n poll = \"20ms\"\n}\nreload \"command\" { command = [\"sh\", \"-c\", \"echo %s >> %s/reloads\"] }", dir, name, name, dir)
	}
	h := startCommand(t, dir, config("a"))
	h.says(1, "following files")
	h.reconfigure(config("b"))
	h.says(2, "following files")
	kit.Until(t, "a reload", func() bool { return h.read("reloads") == "b\n" })
	h.write("b", "B=1")
	kit.Until(t, "a reload for a change", func() bool { return h.read("reloads") == "b\nb\n" })
	if err := os.Mkdir(filepath.Join(dir, "c"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.reconfigure(config("c")) // a directory cannot be read as a file
	h.says(1, "configuration given up")
	kit.Until(t, "the configuration before stands, and what has changed meanwhile is not lost", func() bool { return h.read("reloads") == "b\nb\nb\n" })
	h.write("b", "B=2")
	kit.Until(t, "a reload for a change", func() bool { return h.read("reloads") == "b\nb\nb\nb\n" })
}

// One whose reload fails is not the last that a follower takes.
func TestHangupOfAFollowerMendsTheReload(t *testing.T) {
	dir := t.TempDir()
	config := func(command string) string {
		return fmt.Sprintf("watch {\n paths = [\"%s/a\"]\n stable = \"10ms\"\n poll = \"20ms\"\n}\nreload \"command\" { command = [\"sh\", \"-c\", %q] }", dir, command)
	}
	h := startCommand(t, dir, config("true"))
	h.says(1, "following files")
	h.write("a", "TOKEN="+canary)
	h.says(1, "files changed; workload reloaded")
	h.write("a", "TOKEN=another-value")
	h.says(2, "files changed; workload reloaded")
	h.reconfigure(config("echo it had " + canary + "; false")) // what it held before is hidden still
	h.says(1, "workload not reloaded")
	h.reconfigure(config("echo mended > " + dir + "/reloads"))
	kit.Until(t, "a reload", func() bool { return h.read("reloads") == "mended\n" })
}

// Flags may come from the environment; the command line goes over it.
func TestFlagsFromTheEnvironment(t *testing.T) {
	t.Setenv("VAULT_ADDR", "")
	for name, value := range map[string]string{"VAULT_ADDR": "https://vault:8200", "TOKEN_FILE": "/token", "WORKLOAD": "api", "DOTENV": "relative", "ON_CHANGE": ""} {
		t.Setenv(environmentPrefix+name, value)
	}
	var out, errs bytes.Buffer
	if status := usage.Run(t.Context(), NewValidate(), []string{"--dotenv=/run/.env"}, &out, &errs); status != 0 {
		t.Errorf("%d: %s", status, errs.String())
	}
	if status := usage.Run(t.Context(), NewValidate(), nil, &out, &errs); status != 2 || !strings.Contains(errs.String(), `"relative" is not absolute`) {
		t.Errorf("%d: %s", status, errs.String())
	}
	t.Setenv(environmentPrefix+"WORKLAOD", "api")
	errs.Reset()
	if status := usage.Run(t.Context(), NewValidate(), nil, &out, &errs); status != 2 || !strings.Contains(errs.String(), `HYVVE_SIDECAR_WORKLAOD is not known; did you mean "HYVVE_SIDECAR_WORKLOAD"?`) {
		t.Errorf("%d: %s", status, errs.String())
	}
}
