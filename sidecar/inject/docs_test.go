// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"os"
	"testing"
)

func TestDocumentation(t *testing.T) {
	const path = "../../docs/annotations.md"
	if *update {
		if err := os.WriteFile(path, []byte(Documentation()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != Documentation() {
		t.Errorf("%s is not what the table says (%v); run \"make generate\"", path, err)
	}
}
