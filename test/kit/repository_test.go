// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// files calls f with the name and the text of each file of the repository that has one of these endings.
func files(t *testing.T, f func(name, text string), endings ...string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "build" || d.Name() == ".git" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !slices.ContainsFunc(endings, func(ending string) bool { return strings.HasSuffix(path, ending) }):
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err == nil {
			f(filepath.ToSlash(name), read(t, name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// functions are the names of all functions in tests that begin with a word, with the folders that they are in.
func functions(t *testing.T, begin string) map[string][]string {
	t.Helper()
	form := regexp.MustCompile(`(?m)^func (` + begin + `[A-Za-z0-9_]*)\(`)
	all := map[string][]string{}
	files(t, func(name, text string) {
		for _, found := range form.FindAllStringSubmatch(text, -1) {
			all[found[1]] = append(all[found[1]], path.Dir(name))
		}
	}, "_test.go")
	if len(all) == 0 {
		t.Fatalf("no function begins with %s", begin)
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

// Each section of docs/security.md, and each row of its adversaries, names tests, and each attack is named.
func TestPromisesNameTheirTests(t *testing.T) {
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
	for name, folders := range functions(t, "TestAdversary") {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("docs/security.md does not name %s of %s; add it to the row of its adversary", name, folders)
		}
	}
}

// Tests that a page, a comment or a command names exist. A command and a comment may name the beginning only, as -run takes it;
// a name that stands alone in backquotes is the whole.
func TestNamedTestsExist(t *testing.T) {
	var there []string
	for name := range functions(t, "(?:Test|Fuzz)") {
		there = append(there, name)
	}
	const elsewhere = "TestImports" // a field of go list
	form := regexp.MustCompile("`?\\b(?:Test|Fuzz)[A-Z][A-Za-z0-9_]*`?")
	named := 0
	files(t, func(file, text string) {
		for number, line := range strings.Split(text, "\n") {
			for _, found := range form.FindAllString(line, -1) {
				named++
				name := strings.Trim(found, "`")
				whole := len(found) == len(name)+len("``")
				if name != elsewhere && !slices.ContainsFunc(there, func(test string) bool {
					return test == name || !whole && strings.HasPrefix(test, name)
				}) {
					t.Errorf("%s:%d names %s, which does not exist; name the test that shows this", file, number+1, name)
				}
			}
		}
	}, ".md", ".go", "Makefile")
	if named < len(there) {
		t.Errorf("%d names found, and %d tests", named, len(there))
	}
}

// What sets up what tests need, and runs them, fails on a skip; and it runs no test that needs another target.
func TestNoTargetSkips(t *testing.T) {
	makefile := read(t, "Makefile")
	export := regexp.MustCompile(`(?m)^(.*): export ` + NoSkip + ` = 1$`).FindStringSubmatch(makefile)
	if export == nil {
		t.Fatalf("the Makefile exports %s nowhere", NoSkip)
	}
	strict, seen := strings.Fields(export[1]), 0
	for _, found := range regexp.MustCompile(`(?m)^([a-z0-9-]+):((?: [a-z-]+)*) setup(?:-demo)?\b.*\n((?:\t.*\n)+)`).FindAllStringSubmatch(makefile, -1) {
		target, recipe := found[1], found[3]
		if target == "test-k8s" {
			recipe = read(t, "scripts/test-k8s")
			if !strings.Contains(recipe, NoSkip+"=1") {
				t.Errorf("scripts/test-k8s does not set %s", NoSkip)
			}
			continue
		}
		if !strings.Contains(recipe, "go-test") {
			continue
		}
		if seen++; !slices.Contains(strict, target) {
			t.Errorf("make %s may skip tests; add it to the targets that export %s", target, NoSkip)
		}
		if strings.Contains(recipe, "./...") && !strings.Contains(recipe, "$(WITHOUT_PODS)") {
			t.Errorf("make %s runs test/e2e/pods, where every test is skipped; leave it out", target)
		}
	}
	if seen != len(strict) {
		t.Errorf("%d targets set up what tests need, and %d export %s", seen, len(strict), NoSkip)
	}
}

// A test is skipped by [Skip], in a nested module by a function that obeys the same variable.
func TestNoSkipBesideOurs(t *testing.T) {
	skip := regexp.MustCompile(`\b[tb]\.Skip(f|Now)?\(`)
	files(t, func(file, text string) {
		if skip.MatchString(text) && !strings.Contains(text, `os.Getenv("`+NoSkip+`")`) {
			t.Errorf("%s skips tests although %s is set; call kit.Skip", file, NoSkip)
		}
	}, "_test.go")
}

// No file has the marks of a merge that was not finished.
func TestNoMergeIsUnfinished(t *testing.T) {
	mark := regexp.MustCompile(`(?m)^(<{7}|>{7}) .*$`)
	files(t, func(name, text string) {
		if found := mark.FindString(text); found != "" {
			t.Errorf("%s has a line %q", name, found)
		}
	}, ".md", ".go", ".sh", ".yaml", ".yml", ".tf", ".hcl", ".mod", ".txt", ".json", "Makefile")
}
