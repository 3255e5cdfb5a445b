// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package pbkdf2

import (
	"crypto/fips140"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// A process in FIPS mode takes the standard library's, with what that refuses.
func TestFIPS(t *testing.T) {
	if !fips140.Enabled() {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFIPS$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.ENOEXEC) {
			kit.Skip(t, "this process runs in an emulator that the kernel does not know of")
		}
		if err != nil || !strings.Contains(string(out), "--- PASS: TestFIPS") {
			t.Errorf("in FIPS mode: %v\n%s", err, out)
		}
		return
	}
	if chosen.name != standard.name {
		t.Errorf("takes %s", chosen.name)
	}
	if !fips140.Enforced() {
		return
	}
	if _, err := Key(make([]byte, 32), make([]byte, 15), 1); err == nil || !strings.Contains(err.Error(), "128 bits") {
		t.Errorf("a salt of 15 bytes: %v", err)
	}
	if _, err := Keys(t.Context(), []Job{{make([]byte, 32), make([]byte, 16)}}, 2); err != nil {
		t.Errorf("a salt of 16 bytes: %v", err)
	}
}
