// SPDX-License-Identifier: Apache-2.0

package external

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func file(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credential")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link") // as in a volume of Kubernetes
	if err := os.Symlink(file(t, canary, 0o440), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file(t, canary+"\n", 0o600), file(t, canary, 0o640), link} {
		if got, err := ReadCredential(path); err != nil || got != canary {
			t.Errorf("%q, %v", got, err)
		}
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, path := range map[string]string{
		"no such file":     "/nowhere",
		"no regular file":  pipe,
		"has mode 0644":    file(t, canary, 0o644),
		"is empty":         file(t, "\n", 0o600),
		"holds more than ": file(t, strings.Repeat("x", maxCredential+1), 0o600),
		"one line":         file(t, canary+"\nmore", 0o600),
	} {
		if _, err := ReadCredential(path); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestReadBasic(t *testing.T) {
	if user, password, err := ReadBasic(file(t, "admin:a:b\n", 0o600)); err != nil || user != "admin" || password != "a:b" {
		t.Errorf("%q, %q, %v", user, password, err)
	}
	for _, content := range []string{canary, ":" + canary, canary + ":"} {
		if _, _, err := ReadBasic(file(t, content, 0o600)); err == nil || !strings.Contains(err.Error(), "user:password") || strings.Contains(err.Error(), canary) {
			t.Errorf("%v", err)
		}
	}
}

// A secret's file is refused where others can read it, or could replace what is in it.
func TestCheckSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode     os.FileMode
		uid, gid int
		want     string
	}{
		{0o600, 0, 0, ""},
		{0o640, 0, 4711, ""},
		{0o440, 0, 4711, ""},
		{0o660, 0, 0, ""},
		{0o644, 0, 0, "lets every user at it"},
		{0o604, 0, 0, "lets every user at it"},
		{0o660, 0, 4711, "chmod go-w"},
		{0o600, 4711, 0, "belongs to user 4711"},
	} {
		if err := errors.Join(os.Chown(path, c.uid, c.gid), os.Chmod(path, c.mode)); err != nil {
			kit.Skip(t, fmt.Sprintf("only root can give files away: %v", err))
		}
		if _, err := ReadCredentialFile(path); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("mode %o of %d:%d: %v, want %q", c.mode, c.uid, c.gid, err, c.want)
		}
	}
}
