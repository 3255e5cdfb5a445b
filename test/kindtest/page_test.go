// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files into the page that shows them")

// shown finds a block of code that is a file, and the file's path.
var shown = regexp.MustCompile("(?s)<!-- (test/\\S+\\.go) -->\n```go\n(.*?)```\n")

// The page on adding a kind shows the toy kind as it is.
func TestPageShowsWhatIsCompiled(t *testing.T) {
	root := filepath.Join("..", "..")
	path := filepath.Join(root, "docs", "adding-a-kind.md")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	page := shown.ReplaceAllStringFunc(string(data), func(block string) string {
		blocks++
		name := shown.FindStringSubmatch(block)[1]
		source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(source), "\n\n") // after the licence
		return "<!-- " + name + " -->\n```go\n" + text + "```\n"
	})
	switch {
	case blocks != 3 || strings.Count(string(data), "```go") != 3:
		t.Errorf("the page has %d blocks of code that are files; it should have 3 and no other", blocks)
	case page == string(data):
	case *update:
		if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("the page shows another toy kind than is compiled; write it with: go test ./test/kindtest -run TestPage -update")
	}
}
