// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	lineWidth = 100 // characters of a line of prose
	cellWords = 12  // words of a table's cell; what needs more is a paragraph
)

// exempt are the pages that are made from code, and the list of changes.
var exempt = map[string]bool{"annotations.md": true, "api.md": true, "configuration.md": true, "CHANGELOG.md": true}

var (
	inlineCode = regexp.MustCompile("`[^`]*`")
	linkTarget = regexp.MustCompile(`\]\([^)]*\)`)
	cellBorder = regexp.MustCompile(`(?:^|[^\\])\|`)
	anyWord    = regexp.MustCompile(`[\p{L}\p{N}]`)
)

// words counts those of a table's cell, where code is one word.
func words(cell string) int {
	count := 0
	for _, word := range strings.Fields(linkTarget.ReplaceAllString(inlineCode.ReplaceAllString(cell, "code"), "]")) {
		if anyWord.MatchString(word) {
			count++
		}
	}
	return count
}

// Prose of the docs is wrapped, and cells of tables are short.
func TestDocsAreWrapped(t *testing.T) {
	for _, page := range pages(t) {
		if exempt[filepath.Base(page)] {
			continue
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		code, made := false, false
		for n, line := range strings.Split(string(text), "\n") {
			switch {
			case strings.HasPrefix(line, "```"):
				code = !code
			case strings.HasPrefix(line, "<!-- "):
				made = !made && !strings.HasPrefix(line, "<!-- end ") && !strings.HasSuffix(line, ".go -->")
			case code || made || strings.HasPrefix(line, "    "):
			case strings.HasPrefix(line, "|"):
				for _, cell := range cellBorder.Split(line, -1) {
					if count := words(cell); count > cellWords {
						t.Errorf("%s:%d: a cell has %d words; use at most %d, and a paragraph for the rest: %s", page, n+1, count, cellWords, strings.TrimSpace(cell))
					}
				}
			case utf8.RuneCountInString(line) > lineWidth:
				t.Errorf("%s:%d: the line has %d characters; wrap it at %d", page, n+1, utf8.RuneCountInString(line), lineWidth)
			}
		}
	}
}
