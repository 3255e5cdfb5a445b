// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// functions are the names of all functions in tests that begin with a word, with the folders that they are in.
func functions(t *testing.T, begin string) map[string][]string {
	t.Helper()
	form := regexp.MustCompile(`(?m)^func (` + begin + `[A-Za-z0-9_]*)\(`)
	all := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "build" || d.Name() == ".git" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		for _, found := range form.FindAllSubmatch(text, -1) {
			all[string(found[1])] = append(all[string(found[1])], filepath.ToSlash(folder))
		}
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%d found: %v", len(all), err)
	}
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// "make fuzz" runs every fuzz target, and each that it runs is there.
func TestEveryFuzzTargetIsRun(t *testing.T) {
	var want, got []string
	for name, folders := range functions(t, "Fuzz") {
		for _, folder := range folders {
			want = append(want, "./"+folder+" "+name)
		}
	}
	for _, found := range regexp.MustCompile(`(?m)^\tgo test .*-fuzz '\^(\w+)\$\$' .*(\./\S+)$`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		got = append(got, found[2]+" "+found[1])
	}
	slices.Sort(want)
	slices.Sort(got)
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("make fuzz does not run %s; add it to the Makefile", name)
		}
	}
	for _, name := range got {
		if !slices.Contains(want, name) {
			t.Errorf("make fuzz runs %s, which is not there", name)
		}
	}
}

// Each section of docs/security.md, and each row of its adversaries, names tests; they are there; and each attack is named.
func TestPromisesNameTheirTests(t *testing.T) {
	there := functions(t, "Test")
	test := regexp.MustCompile("`(Test[A-Za-z0-9_]*)`")
	text := read(t, "docs/security.md")
	sections := strings.Split(text, "\n## ")[1:]
	for _, section := range sections {
		title, _, _ := strings.Cut(section, "\n")
		if !test.MatchString(section) {
			t.Errorf("section %q names no test", title)
		}
		if title != "Adversaries" {
			continue
		}
		for _, line := range strings.Split(section, "\n")[1:] {
			if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| Adversary ") && !test.MatchString(line) {
				t.Errorf("this row names no test: %s", line)
			}
		}
	}
	for name, folders := range functions(t, "Fuzz") {
		there[name] = folders
	}
	for _, found := range regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]*)`").FindAllStringSubmatch(text, -1) {
		if there[found[1]] == nil {
			t.Errorf("docs/security.md names %s, which is not there", found[1])
		}
	}
	for name, folders := range functions(t, "TestAdversary") {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("docs/security.md does not name %s of %s; add it to the row of its adversary", name, folders)
		}
	}
}
