// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The files of the engine's packages use each other in one direction, and at most 40 % of the links that there could be.
func TestFilesOfTheEngineHaveADirection(t *testing.T) {
	for _, name := range []string{"internal/engine", "internal/engine/catalog", "internal/engine/fleet", "internal/engine/untrusted"} {
		links := fileLinks(t, name)
		all := slices.Sorted(maps.Keys(links))
		count := 0
		for _, uses := range links {
			count += len(uses)
		}
		if most := len(all) * (len(all) - 1) * 4 / 10; count > most {
			t.Errorf("%s: %d links between %d files, want at most %d", name, count, len(all), most)
		}
		for len(all) > 0 { // take files away that use no other that is left
			left := slices.DeleteFunc(slices.Clone(all), func(file string) bool {
				return !slices.ContainsFunc(all, func(other string) bool { return links[file][other] })
			})
			if len(left) == len(all) {
				t.Errorf("%s: these files use each other in a circle, or use files that do: %s; move what one needs of another to a file below both", name, strings.Join(all, " "))
				break
			}
			all = left
		}
	}
}

// Engine has what others ask of it, and little else: parts of the work have types of their own, as locked, inspection and servers.
func TestEngineIsSmall(t *testing.T) {
	files, err := filepath.Glob("../../internal/engine/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v: %v", files, err)
	}
	methods := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		methods += strings.Count(string(data), "\nfunc (e *Engine) ")
	}
	if methods < 30 || methods > 45 {
		t.Errorf("Engine has %d methods, want 30 to 45", methods)
	}
}

// fileLinks returns which files of a package use functions, methods, types, constants and variables of which others.
func fileLinks(t *testing.T, name string) map[string]map[string]bool {
	t.Helper()
	list := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export,Dir,GoFiles", "./"+name)
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	type listed struct {
		ImportPath, Export, Dir string
		GoFiles                 []string
	}
	exports := map[string]string{}
	var last listed // the package itself comes after all that it imports
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath], last = p.Export, p
	}
	set := token.NewFileSet()
	var files []*ast.File
	for _, file := range last.GoFiles {
		parsed, err := parser.ParseFile(set, filepath.Join(last.Dir, file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, parsed)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	p, err := config.Check(last.ImportPath, set, files, info)
	if err != nil {
		t.Fatal(err)
	}
	base := func(at token.Pos) string { return filepath.Base(set.Position(at).Filename) }
	links := map[string]map[string]bool{}
	for _, file := range files {
		links[base(file.Pos())] = map[string]bool{}
	}
	for id, of := range info.Uses {
		_, method := of.(*types.Func)
		if from, to := base(id.Pos()), base(of.Pos()); of.Pkg() == p && from != to && (method || of.Parent() == p.Scope()) {
			links[from][to] = true
		}
	}
	return links
}
