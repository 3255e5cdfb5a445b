// SPDX-License-Identifier: Apache-2.0

// Package messages keeps every text that the programs can say in one golden file, so that a change of an operator-visible
// message is visible in review, and so that the linter of prose reads them.
package messages

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/messages.txt")

// The packages whose texts nobody reads: the generator of assembly.
const assembly = "internal/pbkdf2/asm"

// queries matches what a server reads, not a person.
var queries = regexp.MustCompile(`^\s*(\(?(SELECT|INSERT|UPDATE|DELETE|ALTER|CREATE|DROP|GRANT|REVOKE|COMMENT|LOCK|SET|COPY|FETCH|DECLARE|BEGIN|ORDER BY|AND|FROM|WHERE|WITH|JOIN|UNION|CASE|EXISTS)\b)|pg_catalog|pg_get_|quote_ident`)

// TestMessages compares the texts of all programs with the golden file: one line each, as "function: text", by package. The
// function is the call, field or statement that takes the text.
func TestMessages(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, top := range []string{"plugin", "sidecar", "operator", "internal"} {
		all = append(all, texts(t, root, top)...)
	}
	got := strings.Join(all, "\n") + "\n"
	golden := filepath.Join("testdata", "messages.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	have := strings.Split(string(want), "\n")
	for _, line := range all {
		if !slices.Contains(have, line) {
			t.Errorf("new: %s", line)
		}
	}
	for _, line := range have {
		if line != "" && !slices.Contains(all, line) {
			t.Errorf("gone: %s", line)
		}
	}
	t.Error("the texts of the programs differ from testdata/messages.txt; read them once more, then run: go test ./test/messages -update")
}

// texts returns a heading for each package below top, and the texts of its files.
func texts(t *testing.T, root, top string) (lines []string) {
	byPackage := map[string][]string{}
	err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		in, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil || strings.HasPrefix(in, assembly) {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		byPackage[in] = append(byPackage[in], textsOf(file)...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range slices.Sorted(maps.Keys(byPackage)) {
		said := byPackage[in]
		slices.Sort(said)
		if said = slices.Compact(said); len(said) > 0 {
			lines = append(lines, "", "# "+in, "")
			lines = append(lines, said...)
		}
	}
	return lines
}

// textsOf returns what is said in a file: string literals of at least three words, those that are added up as one.
func textsOf(file *ast.File) (said []string) {
	var above []ast.Node
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			above = above[:len(above)-1]
			return true
		}
		above = append(above, n)
		text, ok := literal(n)
		if !ok {
			return true
		}
		above = above[:len(above)-1] // Inspect calls nobody for the end of a node that it does not enter
		if tag, ok := above[len(above)-1].(*ast.Field); ok && tag.Tag == n {
			text = reflect.StructTag(text).Get("doc")
		}
		if strings.Count(strings.TrimSpace(text), " ") >= 2 && !queries.MatchString(text) {
			said = append(said, fmt.Sprintf("%s: %s", takes(above), strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")))
		}
		return false
	})
	return said
}

// literal returns the text of a string literal, or of a sum of literals and other things; "…" stands for the latter.
func literal(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(n.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		if n.Op != token.ADD {
			return "", false
		}
		x, left := literal(n.X)
		y, right := literal(n.Y)
		if !left && !right {
			return "", false
		}
		if !left {
			x = "…"
		}
		if !right {
			y = "…"
		}
		return x + y, true
	}
	return "", false
}

// takes names what takes a text: the function that is called, or the field or variable that is set.
func takes(above []ast.Node) string {
	for _, n := range slices.Backward(above) {
		switch n := n.(type) {
		case *ast.CallExpr:
			switch f := n.Fun.(type) {
			case *ast.Ident:
				return f.Name
			case *ast.SelectorExpr:
				return f.Sel.Name
			}
		case *ast.KeyValueExpr:
			if f, ok := n.Key.(*ast.Ident); ok {
				return f.Name
			}
		case *ast.ReturnStmt:
			return "return"
		case *ast.FuncDecl:
			return n.Name.Name
		case *ast.GenDecl:
			return n.Tok.String()
		case *ast.Field:
			return "field"
		}
	}
	return "text"
}
