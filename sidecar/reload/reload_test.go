// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

const canary = "canary-secret-value"

// workload is a process that says "ready", and "reloaded" for each SIGHUP.
func workload(t *testing.T) (pid int, says func(want string)) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `trap 'echo reloaded' HUP; echo ready; while :; do read -r line <&3; done`) // a signal ends read, not the workload
	hold, release, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{hold}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = hold.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = release.Close()
	})
	return cmd.Process.Pid, func(want string) {
		t.Helper()
		got := make([]byte, len(want)+1)
		if _, err := io.ReadFull(out, got); err != nil || string(got) != want+"\n" {
			t.Fatalf("the workload says %q, %v; want %q", got, err, want)
		}
	}
}

func pidFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSignal(t *testing.T) {
	before := Uptime()
	pid, says := workload(t)
	says("ready")
	s := Signal{PIDFile: pidFile(t, fmt.Sprintf(" %d\n", pid)), Signal: syscall.SIGHUP}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	says("reloaded")
	// Starts are known to a hundredth of a second, rounded down.
	if p, err := s.Identify(proc.Identity{}); err != nil || p.Started < before-20*time.Millisecond || p.Started >= Uptime() {
		t.Error("the moment of the start is wrong")
	}
}

// The number in a file that the workload has left behind may be another process's by now.
func TestAdversaryStalePIDFile(t *testing.T) {
	pid, says := workload(t)
	says("ready")
	path := pidFile(t, fmt.Sprint(pid))
	s := Signal{PIDFile: path, Signal: syscall.SIGHUP}
	p, err := proc.Read(pid)
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now().Add(p.Started - Uptime())
	for age, stale := range map[time.Duration]bool{time.Hour: true, 3 * time.Second: true, time.Second: false, 0: false, -time.Hour: false} {
		if err := os.Chtimes(path, time.Time{}, started.Add(-age)); err != nil {
			t.Fatal(err)
		}
		err := s.Reload(t.Context())
		if stale && (!errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "is stale")) || !stale && err != nil {
			t.Errorf("written %s before the start: %v", age, err)
		}
		if !stale {
			says("reloaded")
		}
	}
}

func TestSignalWithoutAProcess(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	unreaped := exec.Command("true")
	out, err := unreaped.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := unreaped.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out) // its output closes when it ends; it is not waited for before the end of the test
	defer unreaped.Wait()           //nolint:errcheck // its status does not matter
	kit.Until(t, "it has ended", func() bool { p, err := proc.Read(unreaped.Process.Pid); return err == nil && p.Ended() })
	for name, c := range map[string]struct {
		path, want string
		notRunning bool
	}{
		"missing":  {filepath.Join(t.TempDir(), "pid"), "does not exist", true},
		"stale":    {pidFile(t, fmt.Sprint(ended.Process.Pid)), "is gone", true},
		"unreaped": {pidFile(t, fmt.Sprint(unreaped.Process.Pid)), "is gone", true},
		"empty":    {pidFile(t, ""), "does not hold", false},
		"garbage":  {pidFile(t, canary), "does not hold", false},
		"everyone": {pidFile(t, "-1"), "does not hold", false},
		"init":     {pidFile(t, "1"), "does not hold", false},
		"folder":   {t.TempDir(), "reading the pid file", false},
	} {
		s := Signal{PIDFile: c.path, Signal: syscall.SIGHUP}
		err := s.Reload(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrNotRunning) != c.notRunning {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(fmt.Sprint(err), canary) {
			t.Errorf("%s: what the file holds is quoted: %v", name, err)
		}
		if started, err := s.ReloadUnlessStarted(t.Context(), 0); started || err == nil {
			t.Errorf("%s: taken for a started process", name)
		}
	}
}

func masked(text string) string { return strings.ReplaceAll(text, canary, "[redacted]") }

func TestCommand(t *testing.T) {
	c := Command{Args: []string{"sh", "-c", "exit 0"}, Timeout: time.Minute, Mask: masked}
	if err := c.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	// However the end of the output is cut, no part of a value is left.
	for filler := 370; filler < 410; filler++ {
		c.Args = []string{"sh", "-c", fmt.Sprintf("printf '%%s%%0%dd' %s 0; exit 3", filler, canary)}
		err := c.Reload(t.Context())
		if err == nil || !strings.Contains(err.Error(), "exit status 3") || strings.Contains(err.Error(), "value") {
			t.Fatalf("with %d characters after it: %v", filler, err)
		}
	}
	c.Args = []string{"/nowhere/at/all"}
	if err := c.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Error(err)
	}
}

// A command that hangs is ended, and a child of it that holds its output open keeps nobody waiting.
func TestCommandHangs(t *testing.T) {
	c := Command{Args: []string{"sh", "-c", "sleep 600 & echo hangs; wait"}, Timeout: 100 * time.Millisecond}
	begun := time.Now()
	err := c.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not done after 100ms") || time.Since(begun) > 30*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
}

func TestCommandThatSaysMuch(t *testing.T) {
	c := Command{Args: []string{"sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; echo the end; exit 1"}, Timeout: time.Minute}
	err := c.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the end") || len(err.Error()) > 1000 {
		t.Errorf("%.100v", err)
	}
}

// A workload that was started after a moment is not signalled: SIGHUP might end it, which is not ready yet.
func TestStartedWorkloadIsNotSignalled(t *testing.T) {
	before := Uptime()
	cmd := exec.Command("sleep", "600") // SIGHUP ends it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	s := Signal{PIDFile: pidFile(t, fmt.Sprint(cmd.Process.Pid)), Signal: syscall.SIGHUP}
	if started, err := s.ReloadUnlessStarted(t.Context(), before-20*time.Millisecond); !started || err != nil {
		t.Errorf("started %v, %v", started, err)
	}
	select {
	case err := <-ended:
		t.Fatalf("it was signalled: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if started, err := s.ReloadUnlessStarted(t.Context(), Uptime()+time.Second); started || err != nil {
		t.Errorf("of a moment to come: started %v, %v", started, err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended by itself")
		}
	case <-time.After(10 * time.Second):
		t.Error("it was not signalled")
	}
}
