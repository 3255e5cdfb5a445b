// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// reader is a program that reads env files: it reads paths, a line each, and answers each with a line of JSON.
type reader struct {
	name string
	mu   sync.Mutex
	in   io.Writer
	out  *bufio.Reader
}

func (r *reader) read(t testing.TB, path string) map[string]string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := fmt.Fprintln(r.in, path); err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	values := map[string]string{}
	if err := json.Unmarshal(line, &values); err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	return values
}

func startReader(t testing.TB, name string, command ...string) *reader {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v (scripts/setup installs what is missing)", name, err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &reader{name: name, in: in, out: bufio.NewReader(out)}
}

const (
	nodeLines  = `require("readline").createInterface({input:process.stdin}).on("line",p=>console.log(JSON.stringify(read(require("fs").readFileSync(p,"utf8")))))`
	pythonText = "import sys,json,dotenv\nfor p in sys.stdin:\n print(json.dumps(dotenv.dotenv_values(p[:-1])),flush=True)"
)

// shell reads a file as sh does. It is started for each: what one file sets must not stand for the next.
type shell struct{}

func (shell) read(t testing.TB, path string) map[string]string {
	t.Helper()
	out, err := exec.Command("env", "-i", "sh", "-c", `set -a; . "$1"; exec /usr/bin/env -0`, "sh", path).Output()
	if err != nil {
		t.Fatalf("sh: %v", err)
	}
	values := map[string]string{}
	for entry := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if name, value, _ := strings.Cut(entry, "="); name != "PWD" && name != "_" && name != "SHLVL" && name != "OLDPWD" {
			values[name] = value
		}
	}
	return values
}

type readsBack interface {
	read(t testing.TB, path string) map[string]string
}

// readers of both kinds of env files.
func readers(t testing.TB) map[Format]map[string]readsBack {
	t.Helper()
	npm, err := filepath.Abs("../../build/tools/dotenv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(npm); err != nil {
		kit.Skip(t, fmt.Sprintf(`needs "make setup": npm's dotenv is missing: %v`, err))
	}
	python := "python3"
	if exec.Command(python, "-c", "import dotenv").Run() != nil {
		python = "/usr/bin/python3" // where Debian's packages are
	}
	docks := filepath.Join(t.TempDir(), "readers")
	if out, err := exec.Command("go", "build", "-C", "readers", "-o", docks, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the readers of Docker: %v\n%s", err, out)
	}
	return map[Format]map[string]readsBack{
		Dotenv: {
			"sh":             shell{},
			"npm's dotenv":   startReader(t, "npm's dotenv", "node", "-e", `const read=require("`+npm+`").parse;`+nodeLines),
			"Node":           startReader(t, "Node", "node", "-e", `const read=require("util").parseEnv;`+nodeLines),
			"python-dotenv":  startReader(t, "python-dotenv", python, "-c", pythonText),
			"Docker Compose": startReader(t, "Docker Compose", docks, "compose"),
		},
		Docker: {"docker run": startReader(t, "docker run", docks, "docker")},
	}
}

var awkward = map[string]string{
	"PLAIN": "abc/DEF+0=", "SPACE": "two words", "HASH": "a#b", "DOLLAR": "$HOME", "BACKSLASH": `a\nb`, "SINGLE": "it's",
	"DOUBLE": `say "x"`, "TICK": "`id`", "EMPTY": "", "UNICODE": "ключ🔑", "URL": "postgresql://u:p%40@h:5432/d?a=b&c=d",
	"SPACES": "  both ends ", "TAB": "\ta\t", "QUOTED": `"a"`, "HASHES": "a # b", "EQUALS": "=a=", "EXPORT": "export A=1",
	"LONG": strings.Repeat("x y", 10_000), "SEPARATOR": "a\u2028b\u0085c", "BOM": "\ufeffa", "TILDE": "~root:~", "STAR": "*",
}

// Every reader reads back what was written: a shell, both of Node's, Python's, and Docker's, which are two.
func TestEnvFilesReadBack(t *testing.T) {
	for format, all := range readers(t) {
		path := filepath.Join(t.TempDir(), "env")
		target := Target{Format: format, Path: path, Mode: 0o600, UID: -1, GID: -1}
		if _, err := target.Write(bundle(awkward)); err != nil {
			t.Fatal(err)
		}
		for name, r := range all {
			got := r.read(t, path)
			for _, env := range slices.Sorted(maps.Keys(awkward)) {
				if got[env] != awkward[env] {
					t.Errorf("%s reads %s as %.60q, want %.60q", name, env, got[env], awkward[env])
				}
			}
			if len(got) != len(awkward) {
				t.Errorf("%s reads %d values, want %d: %v", name, len(got), len(awkward), slices.Sorted(maps.Keys(got)))
			}
		}
	}
}

// Whatever a value is, every reader reads it back, or it is refused by name.
func FuzzEnvFiles(f *testing.F) {
	for _, value := range slices.Sorted(maps.Keys(awkward)) {
		f.Add(awkward[value])
	}
	for _, value := range []string{`'"`, `\`, `a\\b`, "${A}", "it's!", "a\n", "\r", "\x00", "\xff", "a'b c", `it's \n`, "a\nb\n", "it's\nb", "\n#", "\n", "a'\u2028'b", "#", `\'`, "$(id)", "!!", "%n", "\v", "\x1b[0m"} {
		f.Add(value)
	}
	all := readers(f)
	f.Fuzz(func(t *testing.T, value string) {
		for format, readers := range all {
			path := filepath.Join(t.TempDir(), "env")
			target := Target{Format: format, Path: path, Mode: 0o600, UID: -1, GID: -1, Multiline: format == Dotenv}
			values := map[string]string{"A": "before", "B": value, "C": "after"}
			if _, err := target.Write(bundle(values)); err != nil {
				if !strings.HasPrefix(err.Error(), "B holds ") || plain.MatchString(value) && len(value) < maxLine/2 {
					t.Errorf("%s: %q is refused: %v", format, value, err)
				}
				continue
			}
			for name, r := range readers {
				if got := r.read(t, path); !maps.Equal(got, values) {
					t.Errorf("%s reads %q, want %q", name, got, values)
				}
			}
		}
	})
}

// Values of the characters that readers make something of, by the thousand.
func TestManyEnvFilesReadBack(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	special := []string{"'", `"`, "`", `\`, "$", "{", "}", "(", "#", " ", "\t", "=", "!", "~", "%", "&", ";", "*", "n", "t", "A", "export ", "\n", "\u2028", "\u00a0", "é"}
	for format, all := range readers(t) {
		written := 0
		for range 30 {
			values := map[string]string{}
			for n := range 100 {
				value := ""
				for range random.IntN(8) {
					value += special[random.IntN(len(special))]
				}
				one := Target{Format: format, Path: "x", Multiline: format == Dotenv}
				if _, _, err := one.contents(bundle(map[string]string{"B": value})); err == nil {
					values[fmt.Sprint("V", n)] = value
				}
			}
			path := filepath.Join(t.TempDir(), "env")
			target := Target{Format: format, Path: path, Mode: 0o600, UID: -1, GID: -1, Multiline: format == Dotenv}
			if _, err := target.Write(bundle(values)); err != nil {
				t.Fatal(err)
			}
			written += len(values)
			for name, r := range all {
				got := r.read(t, path)
				for env, want := range values {
					if got[env] != want {
						t.Errorf("%s reads %q, want %q", name, got[env], want)
					}
				}
			}
		}
		t.Logf("%s: %d values", format, written)
	}
}

// Readers of today read values of several lines back, where it is said that the reader is one of them.
func TestValuesOfSeveralLinesReadBack(t *testing.T) {
	values := map[string]string{
		"BEFORE": "a", "PEM": "-----BEGIN PRIVATE KEY-----\nMIIB/+a==\n-----END PRIVATE KEY-----\n", "NO_END": "a\nb", "QUOTED": "it's\n#b\n",
		"ASSIGNS": "a\nBEFORE=b\nexport C=d\n", "EMPTY_LINES": "\n\na\n\n", "ZAFTER": "z",
	}
	path := filepath.Join(t.TempDir(), "env")
	target := Target{Format: Dotenv, Path: path, Mode: 0o600, UID: -1, GID: -1, Multiline: true}
	if _, err := target.Write(bundle(values)); err != nil {
		t.Fatal(err)
	}
	for name, r := range readers(t)[Dotenv] {
		if got := r.read(t, path); !maps.Equal(got, values) {
			t.Errorf("%s reads %q", name, got)
		}
	}
	if _, err := target.Write(bundle(map[string]string{"DOS": "a\r\nb"})); err == nil || !strings.HasPrefix(err.Error(), "DOS holds a line break") {
		t.Errorf("carriage return: %v", err)
	}
}

func TestEnvFilesRefuseByName(t *testing.T) {
	for _, format := range []Format{Dotenv, Docker} {
		for env, value := range map[string]string{
			"LINES": "a\nb", "RETURN": "a\r", "NULL": "a\x00b", "BYTES": "a\xffb", "QUOTES": `'"`, "ENDS": `a b\`, "TWICE": `a\\b`, "BRACE": "a${HOME}", "BANG": `it's!`,
			"LONG": strings.Repeat("x", maxLine),
		} {
			target := Target{Format: format, Path: filepath.Join(t.TempDir(), ".env"), Mode: 0o600, UID: -1, GID: -1}
			_, err := target.Write(bundle(map[string]string{env: value}))
			refused := format == Dotenv && env != "LONG" || format == Docker && slices.Contains([]string{"LINES", "RETURN", "NULL", "BYTES", "LONG"}, env)
			if refused != (err != nil) || err != nil && (!strings.HasPrefix(err.Error(), env+" holds ") || strings.Contains(err.Error(), value)) {
				t.Errorf("%s: %s: %v", format, env, err)
			}
		}
	}
}
