// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func TestArguments(t *testing.T) { kit.StartsNothing(t, "hyvve-dev") }

// An address that Vault could not listen at is refused before anything starts.
func TestAddresses(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "hyvve-dev")
	if output, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // it is only to be there
	for _, listen := range []string{"foo", "127.0.0.1:99999", taken.Addr().String()} {
		cmd := exec.CommandContext(t.Context(), binary)
		cmd.Env = append(os.Environ(), "HYVVE_DEV_LISTEN="+listen)
		output, err := cmd.CombinedOutput()
		if err == nil || !strings.HasPrefix(string(output), "hyvve-dev: HYVVE_DEV_LISTEN: ") || !strings.Contains(string(output), "write HOST:PORT with a port that is free") {
			t.Errorf("%s: %v: %s", listen, err, output)
		}
	}
}
