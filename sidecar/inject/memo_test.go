// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// What is remembered is bounded by bytes, whatever the sizes of what is remembered are, and the newest is always known.
func TestMemo(t *testing.T) {
	for _, length := range []int{1, 100, 10_000, longestKept - entryCost - 10} {
		var m memo
		for n := range 3*maxKnown/(length+entryCost) + 3 {
			name := fmt.Sprint(n)
			m.set(name, strings.Repeat("x", length))
			m.set(name, strings.Repeat("x", length)) // the same once more costs nothing
			if _, ok := m.get(name); !ok {
				t.Fatalf("length %d: after %d it is not known", length, n)
			}
		}
		sum := 0
		for name, text := range m.known {
			sum += cost(name, text)
		}
		if sum != m.bytes || sum > maxKnown || sum < maxKnown/2 {
			t.Errorf("length %d: %d bytes are known in %d entries, and counted as %d", length, sum, len(m.known), m.bytes)
		}
	}
	var m memo
	if m.set("x", strings.Repeat("x", longestKept)); len(m.known) > 0 {
		t.Error("a text is kept that is too long")
	}
}

// What differs in any way is written again.
func TestConfigurationsAreNotMistaken(t *testing.T) {
	for range 2 {
		for _, name := range []string{"api", "agents"} {
			f := config.File{Workload: name, Vault: &config.VaultBlock{Address: "https://vault", Auth: config.AuthBlock{Method: "kubernetes"}}, Status: &config.StatusBlock{}}
			if got, want := configuration(f), write(f); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
}
