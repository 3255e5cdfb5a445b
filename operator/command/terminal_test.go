// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// terminal is a terminal in which the built command runs.
type terminal struct {
	t      *testing.T
	tty    *os.File
	shows  *vt.SafeEmulator
	ended  chan struct{}
	status int
}

// start runs hyvve in a terminal of a size.
func startIn(t *testing.T, columns, rows uint16, env []string, args ...string) *terminal {
	t.Helper()
	cmd := exec.Command(bed.Tool("bin", "hyvve"), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TERM=xterm-256color", "LANG=C.UTF-8"}, env...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: columns, Rows: rows})
	if err != nil {
		t.Fatal(err)
	}
	w := &terminal{t: t, tty: tty, shows: vt.NewSafeEmulator(int(columns), int(rows)), ended: make(chan struct{})}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = io.Copy(tty, w.shows) // what the terminal answers
	}()
	go func() {
		defer close(w.ended)
		_, _ = io.Copy(w.shows, tty) // until the command ends
		var exit *exec.ExitError
		if err := cmd.Wait(); errors.As(err, &exit) {
			w.status = exit.ExitCode()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-w.ended
		_ = w.shows.InputPipe().(io.Closer).Close() // Close of the emulator itself races with its Read
		<-answered
		_ = tty.Close()
	})
	return w
}

func (w *terminal) text() string {
	lines := strings.Split(ansi.Strip(w.shows.Render()), "\n")
	for n, line := range lines {
		lines[n] = strings.TrimRight(line, " \r")
	}
	return strings.Join(lines, "\n")
}

// until waits until the screen has all of the texts.
func (w *terminal) until(texts ...string) {
	w.t.Helper()
	kit.Until(w.t, strings.Join(texts, ", "), func() bool {
		shown := w.text()
		for _, text := range texts {
			if !strings.Contains(shown, text) {
				return false
			}
		}
		return true
	}, w.text)
}

func (w *terminal) press(keys string) {
	w.t.Helper()
	if _, err := io.WriteString(w.tty, keys); err != nil {
		w.t.Fatal(err)
	}
}

// ends waits for the end of the command, with an exit status.
func (w *terminal) ends(status int) {
	w.t.Helper()
	select {
	case <-w.ended:
	case <-w.t.Context().Done():
	}
	if w.status != status {
		w.t.Errorf("exit status %d, want %d:\n%s", w.status, status, w.text())
	}
}

// liveWorld is a Vault with the platform's keys, and the environment of a command that uses it.
func liveWorld(t *testing.T, o bed.VaultOptions) (v *bed.Vault, engine *client.Client, env []string) {
	t.Helper()
	v, err := bed.ForTest(t).Vault(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	write(t, v.Client, "config", map[string]any{"soak": "0s", "observe": "0s"})
	write(t, v.Client, "presets/hyvve", map[string]any{"generate": true, "workloads": "api", "min_instances": 1})
	return v, client.New(v.Client, bed.Mount), []string{"VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + v.Token}
}

func write(t *testing.T, vault *api.Client, path string, data map[string]any) {
	t.Helper()
	if _, err := vault.Logical().WriteWithContext(t.Context(), bed.Mount+"/"+path, data); err != nil {
		t.Fatal(err)
	}
}

// sidecar plays one until the test ends.
func sidecar(t *testing.T, engine *client.Client, name string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, loaded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		play(ctx, engine, "api", name, false, loaded)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	<-loaded
}

// A person rotates a key at a terminal: looks at the plan, answers, watches, pauses, resumes, and sees the end.
func TestRotationInATerminal(t *testing.T) {
	_, engine, env := liveWorld(t, bed.VaultOptions{})
	w := startIn(t, 100, 30, env, "rotate", "jwt-secret", "--reason=quarterly")
	w.until("Plan: jwt-secret 1 -> 2", "Rotate jwt-secret 1 -> 2? [y/N]")
	w.press("n\r")
	w.until("nothing was changed")
	w.ends(StatusError)

	w = startIn(t, 100, 40, env, "rotate", "jwt-secret", "--reason=quarterly")
	w.until("? [y/N]")
	w.press("y\r")
	w.until("▸ accept", "by token (quarterly)", "Waits: api: 0 of at least 1 instances are there", "Nobody is locked out.", "p: pause", "q: leave")
	w.press("p")
	w.until("Paused by token", "r: resume", "It is paused accepting load now.")
	if err := pty.Setsize(w.tty, &pty.Winsize{Cols: 44, Rows: 30}); err != nil {
		t.Fatal(err)
	}
	w.shows.Resize(44, 30)
	w.until("q: leave (the rotation\n  continues)", "▸ accept")
	w.press("r")
	w.until("p: pause")
	w.press("v")
	w.until("Take the rotation back? y: yes")
	w.press("n")
	w.until("Nothing was changed.")
	sidecar(t, engine, "api-1")
	w.until("Done in ", "Receipt: hyvve receipt 2")
	w.ends(0)
}

// Who leaves lets the rotation run, and learns how to come back; who comes back may take it back.
func TestLeaveAndRevertInATerminal(t *testing.T) {
	_, engine, env := liveWorld(t, bed.VaultOptions{})
	for _, key := range []string{"q", "\x03"} {
		w := startIn(t, 100, 30, env, "rotate", "jwt-secret", "--yes")
		if key == "\x03" {
			w = startIn(t, 100, 30, env, "follow")
		}
		w.until("q: leave")
		w.press(key)
		w.until("The rotation continues; follow it again with: hyvve follow 2")
		w.ends(StatusInterrupted)
	}
	w := startIn(t, 100, 30, append(env, "NO_COLOR=1", "LANG=C"), "follow", "jwt-secret")
	w.until("> accept", "v: revert")
	w.press("v")
	w.until("Take the rotation back?")
	w.press("y")
	w.until("Reverted in ") // nobody takes part
	w.ends(StatusReverted)
	sidecar(t, engine, "api-1")

	// A screen reader gets lines.
	w = startIn(t, 100, 30, env, "rotate", "jwt-secret", "--yes", "--lines")
	w.until("done: done", "Done in ")
	w.ends(0)
}

// The screen stays while Vault is sealed, says so, and continues.
func TestVaultIsSealedWhileATerminalShowsARotation(t *testing.T) {
	v, engine, env := liveWorld(t, bed.VaultOptions{Durable: true})
	w := startIn(t, 100, 40, env, "rotate", "jwt-secret", "--yes")
	w.until("▸ accept", "Waits: api")
	if err := v.Client.Sys().SealWithContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.until("is sealed; unseal it with: vault operator unseal", "▸ accept")
	if err := v.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := v.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	sidecar(t, engine, "api-1")
	w.until("Done in ")
	w.ends(0)
}

// status --watch redraws in place, and fits a narrow terminal.
func TestStatusIsWatchedInATerminal(t *testing.T) {
	v, _, env := liveWorld(t, bed.VaultOptions{})
	w := startIn(t, 40, 60, env, "status", "--watch")
	w.until("jwt-secret\n  version: 1", "Nobody is locked out.")
	write(t, v.Client, "rotate", map[string]any{"key": "jwt-secret"})
	w.until("state: accepting load")
	if n := strings.Count(w.text(), "jwt-secret"); n != 1 {
		t.Errorf("the key is on the screen %d times:\n%s", n, w.text())
	}
	w.press("\x03")
	w.ends(0)
}
