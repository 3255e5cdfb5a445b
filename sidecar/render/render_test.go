// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func bundle(values map[string]string) client.Bundle {
	b := client.Bundle{Values: map[string]key.Value{}, Etag: "e1"}
	for env, v := range values {
		b.Values[env] = key.NewValue(v)
	}
	return b
}

var awkward = map[string]string{
	"PLAIN": "abc/DEF+0=", "SPACE": "two words", "HASH": "a#b", "DOLLAR": "$HOME", "BACKSLASH": `a\nb`, "SINGLE": "it's",
	"DOUBLE": `say "x"`, "TICK": "`id`", "EMPTY": "", "UNICODE": "ключ🔑", "URL": "postgresql://u:p%40@h:5432/d?a=b&c=d",
}

// A shell and Node read back what was written. Node's own parser of env files is the one that dotenv agrees with.
func TestDotenvReadsBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".env")
	target := Target{Format: Dotenv, Path: path, Mode: 0o600, UID: -1, GID: -1}
	if _, err := target.Write(bundle(awkward)); err != nil {
		t.Fatal(err)
	}
	shell, err := exec.Command("sh", "-c", `set -a; . "$1"; for n in PLAIN SPACE HASH DOLLAR BACKSLASH SINGLE DOUBLE TICK EMPTY UNICODE URL; do eval "printf '%s=%s\n' $n \"\$$n\""; done`, "sh", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(shell)), "\n") {
		env, value, _ := strings.Cut(line, "=")
		if value != awkward[env] {
			t.Errorf("sh reads %s as %q, want %q", env, value, awkward[env])
		}
	}
	node, err := exec.Command("node", "-e", `const u=require("util");process.stdout.write(JSON.stringify(u.parseEnv(require("fs").readFileSync(process.argv[1],"utf8"))))`, path).Output()
	if err != nil {
		t.Fatalf("node: %v (scripts/setup installs it)", err)
	}
	var got map[string]string
	if err := json.Unmarshal(node, &got); err != nil {
		t.Fatal(err)
	}
	for env, want := range awkward {
		if got[env] != want {
			t.Errorf("Node reads %s as %q, want %q", env, got[env], want)
		}
	}
}

func TestDotenvRefusesByName(t *testing.T) {
	for env, value := range map[string]string{"LINES": "a\nb", "QUOTES": `'"`} {
		target := Target{Format: Dotenv, Path: filepath.Join(t.TempDir(), ".env"), Mode: 0o600, UID: -1, GID: -1}
		_, err := target.Write(bundle(map[string]string{env: value}))
		if err == nil || !strings.Contains(err.Error(), env) || strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v", env, err)
		}
	}
}

func TestWriteChangesOnlyWhatDiffers(t *testing.T) {
	dir := t.TempDir()
	for _, format := range []Format{Dotenv, JSON, Bundle, Files} {
		target := Target{Format: format, Path: filepath.Join(dir, string(format)), Mode: 0o640, UID: -1, GID: -1}
		if err := target.Clean(); err != nil {
			t.Fatal(err)
		}
		for n, want := range []bool{true, false} {
			changed, err := target.Write(bundle(map[string]string{"A": "1"}))
			if err != nil || changed != want {
				t.Errorf("%s: write %d: changed %v, %v", format, n, changed, err)
			}
		}
		file := target.Path
		if format == Files {
			file = filepath.Join(file, "A")
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: mode %v, %v", format, info.Mode(), err)
		}
		if err := os.Chmod(file, 0o666); err != nil {
			t.Fatal(err)
		}
		if changed, err := target.Write(bundle(map[string]string{"A": "1"})); err != nil || !changed {
			t.Errorf("%s: a wider mode is left as it is: %v", format, err)
		}
	}
}

func TestRefusesDirectoriesOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	target := Target{Format: JSON, Path: filepath.Join(dir, "x.json"), Mode: 0o600, UID: -1, GID: -1}
	if _, err := target.Write(bundle(map[string]string{"A": "1"})); err == nil || !strings.Contains(err.Error(), "writable by everybody") {
		t.Errorf("error is %v", err)
	}
}

func TestSymlinkIsReplacedAndLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "x.json")
	if err := os.Symlink(victim, path); err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(dir, tempPrefix+"123")
	if err := os.WriteFile(leftover, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	target := Target{Format: JSON, Path: path, Mode: 0o600, UID: -1, GID: -1}
	if err := target.Clean(); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Write(bundle(map[string]string{"A": "1"})); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(victim); string(data) != "untouched" {
		t.Error("the file behind the link was written to")
	}
	if _, err := os.Stat(leftover); err == nil {
		t.Error("the leftover is still there")
	}
}
