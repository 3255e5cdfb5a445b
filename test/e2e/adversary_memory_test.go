// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

var coreLimit = regexp.MustCompile(`(?m)^Max core file size +0 +0 `)

// A plugin that crashes leaves no core file with keys in it, whatever limit Vault was started with.
func TestAdversaryCoreOfThePlugin(t *testing.T) {
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	plugins, err := v.Plugins()
	if err != nil || len(plugins) == 0 {
		t.Fatalf("%v, %v", plugins, err)
	}
	for _, pid := range plugins {
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if err != nil || !coreLimit.Match(limits) {
			t.Errorf("%s, %v", limits, err)
		}
	}
}
