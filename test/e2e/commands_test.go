// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// commands types what a user types at Vault's own command line.
type commands struct {
	t     *testing.T
	vault *bed.Vault
}

func (c commands) run(args string) (string, error) {
	c.t.Helper()
	binary, err := bed.VaultBinary()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(c.t.Context(), binary, strings.Fields(args)...)
	cmd.Env = []string{"VAULT_ADDR=" + c.vault.Addr, "VAULT_TOKEN=" + c.vault.Token, "HOME=" + c.t.TempDir()}
	output, err := cmd.CombinedOutput()
	return string(output), err
}

func (c commands) ok(args, want string) {
	c.t.Helper()
	output, err := c.run(args)
	if err != nil || !strings.Contains(output, want) {
		c.t.Errorf("vault %s: %v, and no %q in:\n%s", args, err, want, output)
	}
}

func (c commands) fails(args, want string) {
	c.t.Helper()
	output, err := c.run(args)
	if err == nil || !strings.Contains(output, want) {
		c.t.Errorf("vault %s: %v, and no %q in:\n%s", args, err, want, output)
	}
}
