// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package pbkdf2

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// What Linux says of the processor is what we found; or else the assembly might go unused and untested.
func TestAccelerated(t *testing.T) {
	if runtime.GOOS != "linux" {
		kit.Skip(t, "only Linux says what the processor has")
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	flags := strings.Fields(string(info))
	want := slices.Contains(flags, "sha_ni") && slices.Contains(flags, "avx")
	if got := len(accelerated()) > 0; got != want {
		t.Errorf("the SHA instructions are found: %t, want %t", got, want)
	}
}
