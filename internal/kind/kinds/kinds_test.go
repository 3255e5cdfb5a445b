// SPDX-License-Identifier: Apache-2.0

package kinds

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Every folder beside this one that holds a kind is in the list.
func TestNoKindIsForgotten(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	names := All().Names()
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "kinds" || e.Name() == "login" { // login is a scaffold
			continue
		}
		if _, err := os.Stat(filepath.Join("..", e.Name(), e.Name()+".go")); err != nil {
			t.Errorf("internal/kind/%s has no %s.go", e.Name(), e.Name())
		}
		if !slices.Contains(names, e.Name()) {
			t.Errorf("kind %s is not in the list", e.Name())
		}
	}
	if _, err := All().Get("tokn"); err == nil {
		t.Error("an unknown kind is found")
	}
}
