// SPDX-License-Identifier: Apache-2.0

package external

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func sh(script string, timeout time.Duration, args ...string) Program {
	return Program{Args: append([]string{"sh", "-c", script, "sh"}, args...), Timeout: timeout}
}

// number waits for a process number in a file.
func number(t *testing.T, path string) int {
	t.Helper()
	var pid int
	kit.Until(t, "there is a process number", func() bool {
		data, err := os.ReadFile(path)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		}
		return err == nil
	})
	return pid
}

// gone waits until a process is gone, or nobody's but not waited for.
func gone(t *testing.T, pid int) {
	t.Helper()
	kit.Until(t, fmt.Sprintf("process %d is gone", pid), func() bool { return !kit.Alive(pid) })
}

func TestOutputAndStatus(t *testing.T) {
	p := sh(`echo "$NAME"; echo wrong >&2; exit 3`, time.Minute)
	p.Env = []string{"NAME=value"}
	text, err := p.Run(t.Context())
	if err == nil || err.Error() != "exit status 3" || text.End(nil) != "value\nwrong" {
		t.Errorf("%q, %v", text.End(nil), err)
	}
	if _, err := (Program{Args: []string{"/nowhere/at/all"}, Timeout: time.Minute}).Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A program that hangs is killed with all that it has started.
func TestHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	done := make(chan error)
	for name, c := range map[string]struct {
		timeout time.Duration
		told    bool // to end
		want    string
	}{"too long": {2 * time.Second, false, "not done after 2s"}, "told to end": {time.Hour, true, context.Canceled.Error()}} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := sh(`sleep 600 & echo $! >"$1"; wait`, c.timeout, file).Run(ctx)
			done <- err
		}()
		child := number(t, file)
		if c.told {
			cancel()
		}
		select {
		case err := <-done:
			if err == nil || err.Error() != c.want {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: it is waited for", name)
		}
		gone(t, child)
	}
}

// What a program leaves behind with its output open keeps nobody waiting, and keeps running.
func TestLeavesAChild(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	begun := time.Now()
	text, err := sh(`echo started; sleep 600 & echo $! >"$1"`, time.Hour, file).Run(t.Context())
	if err != nil || text.End(nil) != "started" || time.Since(begun) > 5*time.Minute {
		t.Errorf("after %s: %q, %v", time.Since(begun), text.End(nil), err)
	}
	if err := syscall.Kill(number(t, file), syscall.SIGKILL); err != nil {
		t.Errorf("the child does not go on: %v", err)
	}
}

func TestSaysMuch(t *testing.T) {
	text, err := sh(`head -c 5000000 /dev/zero | tr '\0' x; echo the end`, time.Minute).Run(t.Context())
	if end := text.End(nil); err != nil || !strings.HasSuffix(end, "xthe end") || len(end) > 500 || len(text.Kept) > 2*tailSize || !text.Part {
		t.Errorf("%d bytes kept, %v", len(text.Kept), err)
	}
}

// A program that fails leaves no process of its group behind: it is run again and again.
func TestFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	for name, script := range map[string]string{
		"output closed": `sleep 600 >&- 2>&- & echo $! >"$1"; exit 1`,
		"output open":   `sleep 600 & echo $! >"$1"; exit 1`,
	} {
		if _, err := sh(script, time.Hour, file).Run(t.Context()); err == nil || err.Error() != "exit status 1" {
			t.Errorf("%s: %v", name, err)
		}
		gone(t, number(t, file))
	}
}
