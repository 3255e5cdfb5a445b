// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSignalReachesTheProcess(t *testing.T) {
	cmd := exec.Command("sh", "-c", `trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 0.05; done`)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 6)
	if _, err := output.Read(ready); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d\n", cmd.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Signal{PIDFile: path, Signal: syscall.SIGUSR1}).Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("the process ended with %v", err)
	}
	if err := (Signal{PIDFile: path, Signal: syscall.SIGUSR1}).Reload(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a stale pid file: %v", err)
	}
}

func TestPIDFilesThatSayNothing(t *testing.T) {
	dir := t.TempDir()
	missing := Signal{PIDFile: filepath.Join(dir, "missing"), Signal: syscall.SIGHUP}
	if err := missing.Reload(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("missing: %v", err)
	}
	for _, content := range []string{"", "abc", "-5", "0", "1", "99 bottles", strings.Repeat("9", 300)} {
		path := filepath.Join(dir, "pid")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Signal{PIDFile: path, Signal: syscall.SIGHUP}.Reload(t.Context())
		if err == nil || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "not the number of a process") || len(err.Error()) > 200+len(path) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]syscall.Signal{"SIGHUP": syscall.SIGHUP, "hup": syscall.SIGHUP, "USR2": syscall.SIGUSR2} {
		if got, err := ParseSignal(name); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := ParseSignal("SIGNOTHING"); err == nil {
		t.Error("an unknown signal is accepted")
	}
}

func TestCommand(t *testing.T) {
	mask := func(text string) string { return strings.ReplaceAll(text, "canary", "[redacted]") }
	if err := (Command{Args: []string{"true"}, Timeout: time.Minute}).Reload(t.Context()); err != nil {
		t.Error(err)
	}
	err := Command{Args: []string{"sh", "-c", "echo the canary sings >&2; exit 3"}, Timeout: time.Minute, Mask: mask}.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "exit status 3: the [redacted] sings") {
		t.Errorf("a failing command: %v", err)
	}
	begun := time.Now()
	err = Command{Args: []string{"sh", "-c", "sleep 60 & sleep 60"}, Timeout: 50 * time.Millisecond}.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not done after 50ms") || time.Since(begun) > 20*time.Second {
		t.Errorf("a hanging command: %v after %s", err, time.Since(begun))
	}
	if err := (Command{Args: []string{"/nowhere/at/all"}, Timeout: time.Minute}).Reload(t.Context()); err == nil {
		t.Error("a missing command is no error")
	}
}

func TestHTTP(t *testing.T) {
	status := http.StatusNoContent
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			t.Errorf("method %s", r.Method)
		}
		w.WriteHeader(status)
	}))
	reload := HTTP{URL: server.URL + "/reload", Timeout: 5 * time.Second}
	if err := reload.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	status = http.StatusTeapot
	if err := reload.Reload(t.Context()); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("418: %v", err)
	}
	server.Close()
	if err := reload.Reload(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("nobody listens: %v", err)
	}
}
