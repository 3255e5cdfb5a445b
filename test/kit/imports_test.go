// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hyvve/vault-plugin-secrets-hyvve/"

// wing returns the top-level folder of a package of this module; empty: it is another's.
func wing(path string) string {
	inside, ours := strings.CutPrefix(path, module)
	if !ours {
		return ""
	}
	top, _, _ := strings.Cut(inside, "/")
	return top
}

// mayImport holds which other wings the code of a wing may import. Tests may also import test/.
var mayImport = map[string][]string{
	"internal": nil,
	"plugin":   {"internal"},
	"sidecar":  {"internal"},
	"operator": {"internal"},
	"deploy":   {"internal", "plugin", "sidecar"},
	"test":     {"internal", "plugin", "sidecar", "operator", "deploy"},
}

func allowed(from, to string, inTest bool) bool {
	if to == "" || to == from || inTest && to == "test" {
		return true
	}
	for _, wing := range mayImport[from] {
		if wing == to {
			return true
		}
	}
	return false
}

// Imports point down: plugin, sidecar and operator build on internal and not on each other; nothing but tests builds on test.
func TestNoImportPointsUp(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := 0
	for list := json.NewDecoder(strings.NewReader(string(out))); ; packages++ {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := list.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		from := wing(p.ImportPath)
		if _, known := mayImport[from]; !known {
			t.Errorf("%s: %q is no wing of this house; see docs/architecture.md", p.ImportPath, from)
		}
		for _, to := range p.Imports {
			if !allowed(from, wing(to), false) {
				t.Errorf("%s imports %s", p.ImportPath, to)
			}
		}
		for _, to := range append(p.TestImports, p.XTestImports...) {
			if !allowed(from, wing(to), true) {
				t.Errorf("a test of %s imports %s", p.ImportPath, to)
			}
		}
	}
	if packages < 50 {
		t.Errorf("only %d packages were looked at", packages)
	}
}

// The injector checks what it writes into pods with the code that the sidecar checks it with, and links nothing that runs there, nor
// the clients of client-go, which are a third of its size.
func TestInjectorLinksNoSidecar(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./sidecar/cmd/hyvve-injector")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(out))
	if !slices.Contains(linked, module+"sidecar/config") {
		t.Fatal("it does not link sidecar/config; is the list complete?")
	}
	for _, path := range linked {
		for _, heavy := range []string{
			"github.com/jackc/pgx", module + "internal/pbkdf2", module + "sidecar/agent", module + "sidecar/proxy", module + "sidecar/reencrypt",
			module + "sidecar/status", module + "sidecar/supervise",
			"sigs.k8s.io/controller-runtime", "k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "k8s.io/client-go/tools/leaderelection",
		} {
			if path == heavy || strings.HasPrefix(path, heavy+"/") {
				t.Errorf("it links %s; what both need belongs into sidecar/config, and requests to the API server into sidecar/inject/certs/objects.go", path)
			}
		}
	}
}
