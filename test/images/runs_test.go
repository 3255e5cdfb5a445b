// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The image has nothing but the binary, and that is enough for it: it runs in there, as the user that the image names.
func TestImageRuns(t *testing.T) {
	dir := t.TempDir()
	file, root := filepath.Join(dir, "image.tar"), filepath.Join(dir, "root")
	ok(t, "--name=hyvve-sidecar:v1", "--output="+file, sidecar(t, hostArch(t)))
	headers, files := contents(t, load(t, file))
	for name, h := range headers {
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(root, name)
		if h.Typeflag == tar.TypeSymlink {
			if err := os.Symlink(h.Linkname, target); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, files[name], h.FileInfo().Mode().Perm())); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/hyvve-sidecar", "version")
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = insideOf(root, 65532)
	said, err := cmd.CombinedOutput()
	if cmd.Process == nil && os.Getuid() != 0 {
		skip(t, fmt.Sprintf("the image is not run: this user may make no user namespace (%v); run the test as root", err))
	}
	if err != nil || !strings.Contains(string(said), "hyvve-sidecar") {
		t.Errorf("hyvve-sidecar --version: %v: %s", err, said)
	}
}

// insideOf is how a program runs with another root directory, as a user: root alone may change it, and others in a user namespace.
func insideOf(root string, user int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Chroot: root}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}
		return attr
	}
	attr.Cloneflags = syscall.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getgid(), Size: 1}}
	return attr
}

// skip is kit.Skip, which this module does not import.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("HYVVE_NO_SKIP") != "" {
		t.Fatalf("%s (no test may be skipped: HYVVE_NO_SKIP is set)", reason)
	}
	t.Skip(reason)
}
