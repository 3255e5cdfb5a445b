// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// In a pod the configuration stands in the environment.
func TestConfigurationInTheEnvironment(t *testing.T) {
	validate := func(args ...string) (int, string) {
		var out bytes.Buffer
		status := usage.Run(t.Context(), NewValidate(), args, &out, &out)
		return status, out.String()
	}
	t.Setenv("HYVVE_SIDECAR_CONFIG_TEXT", "workload = \"api\"\nvault {\n  address = \"http://127.0.0.1:8200\"\n  auth \"token_file\" { path = \"/t\" }\n}\nexec {\n  command = [\"/bin/true\"]\n}\n")
	if status, text := validate(); status != 0 {
		t.Errorf("%d %s", status, text)
	}
	if status, text := validate("--config=/nowhere"); status != 2 || !strings.Contains(text, "are both set") {
		t.Errorf("with a file besides: %d %s", status, text)
	}
	var errs bytes.Buffer
	if status := usage.Run(t.Context(), NewStatus(), nil, &errs, &errs); status != 2 || !strings.Contains(errs.String(), "no socket") {
		t.Errorf("status asks %d %s", status, &errs)
	}
	t.Setenv("HYVVE_SIDECAR_CONFIG_TEXT", "workload = \"api\"\nwrkload = \"api\"\n")
	if status, text := validate(); status != 2 || !strings.Contains(text, "config-text:2,1-8") {
		t.Errorf("a mistake: %d %s", status, text)
	}
}

func TestDirectoryIsMadeIfWanted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) {
		c.Targets[0].Path, c.Targets[0].MakeDirectory = filepath.Join(dir, "secrets.json"), true
	})
	r.await("loaded", loaded("etag-1-0"))
	if got := fileMode(t, dir); got.Perm()&0o022 != 0 {
		t.Errorf("mode %v", got)
	}
}

func fileMode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// Each flag that the table of options names is there, so that the reference does not name one that nobody can write.
func TestFlagsOfOptions(t *testing.T) {
	flags, seen := allFlags(), 0
	var look func(block reflect.Type)
	look = func(block reflect.Type) {
		for n := range block.NumField() {
			f := block.Field(n)
			if name := f.Tag.Get("flag"); name != "" {
				if seen++; flags.Lookup(name) == nil {
					t.Errorf("%s.%s: there is no flag --%s", block.Name(), f.Name, name)
				}
			}
			inner := f.Type
			if inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			if strings.HasSuffix(f.Tag.Get("hcl"), ",block") {
				look(inner)
			}
		}
	}
	if look(reflect.TypeFor[config.File]()); seen < 20 {
		t.Errorf("only %d flags were looked at", seen)
	}
}
