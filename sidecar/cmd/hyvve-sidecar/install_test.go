// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

func TestInstall(t *testing.T) {
	to := filepath.Join(t.TempDir(), "made", "hyvve-sidecar")
	private := filepath.Join(t.TempDir(), "keys")
	for range 2 { // a container that is restarted does it again
		var errs bytes.Buffer
		if status := usage.Run(t.Context(), newInstall(), []string{to, "--make-directory=" + private}, &errs, &errs); status != 0 {
			t.Fatalf("%d: %s", status, &errs)
		}
	}
	if info, err := os.Stat(private); err != nil || info.Mode() != fs.ModeDir|0o711 {
		t.Errorf("%v (%v)", info, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs (%v)", err)
	}
	info, err := os.Stat(to)
	if err != nil || info.Mode() != 0o555 {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
	names, err := filepath.Glob(filepath.Join(filepath.Dir(to), ".*"))
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: %v (%v)", names, err)
	}
}

func TestInstallRefuses(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "file", "below")
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, 2, "where to?"},
		{[]string{"a", "b"}, 2, `"b" is not wanted`},
		{[]string{dir}, 1, "is there and no file"},
		{[]string{full}, 1, "not a directory"},
	} {
		var errs bytes.Buffer
		if status := usage.Run(t.Context(), newInstall(), c.args, &errs, &errs); status != c.status || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%q: %d, %q", c.args, status, &errs)
		}
	}
}
