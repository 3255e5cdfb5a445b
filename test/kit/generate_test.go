// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each package whose tests take -update is run by "make generate", with tests that exist.
func TestGenerateRunsEveryUpdate(t *testing.T) {
	tests := functions(t, "Test")
	runs := map[string][]string{} // tests, by folder
	for _, found := range regexp.MustCompile(`(?m)^\tgo test .*-run '\^\(?([\w|]+)\)?\$\$' \./(\S+) -update$`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		runs[found[2]] = strings.Split(found[1], "|")
		for _, name := range runs[found[2]] {
			if !slices.Contains(tests[name], found[2]) {
				t.Errorf("make generate runs %s of ./%s, which does not exist", name, found[2])
			}
		}
	}
	folders := map[string]bool{}
	for _, all := range tests {
		for _, folder := range all {
			folders[folder] = true
		}
	}
	updated := 0
	for folder := range folders {
		files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for part := range strings.SplitSeq(string(text), "\nfunc ") {
				if !strings.Contains(part, "if "+"*update ") && !strings.Contains(part, "case "+"*update:") {
					continue
				}
				updated++
				line, _, _ := strings.Cut(part, "\n")
				name, _, _ := strings.Cut(line, "(")
				if runs[folder] == nil || strings.HasPrefix(name, "Test") && !slices.Contains(runs[folder], name) {
					t.Errorf("make generate does not run what %s of ./%s updates; add it to the Makefile", line, folder)
				}
			}
		}
	}
	if updated < len(runs) {
		t.Errorf("%d functions that update were found in the tests, and make generate runs %d packages", updated, len(runs))
	}
}
