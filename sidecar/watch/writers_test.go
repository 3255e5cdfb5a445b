// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// none fails if a change is seen that is none. What was to come has come by then: another one, seen after it, is waited for.
func none(t *testing.T, changes <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-changes:
		t.Errorf("%s is taken for a change", what)
	case <-time.After(300 * time.Millisecond): // longer than what counts as stable
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// project does to a volume what kubelet's AtomicWriter does, step by step: Secret, ConfigMap and projected volumes are
// written so, and so are those of the Secrets Store CSI driver.
func project(t *testing.T, volume string, files map[string]string) {
	t.Helper()
	old, _ := os.Readlink(filepath.Join(volume, "..data"))
	dir, err := os.MkdirTemp(volume, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	must(t, err, os.Chmod(dir, 0o755))
	for name, content := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o750))
		write(t, filepath.Join(dir, name), content)
	}
	must(t, os.Symlink(filepath.Base(dir), filepath.Join(volume, "..data_tmp")), os.Rename(filepath.Join(volume, "..data_tmp"), filepath.Join(volume, "..data")))
	for name := range files {
		top := filepath.Join(volume, name)
		for filepath.Dir(top) != volume {
			top = filepath.Dir(top)
		}
		if _, err := os.Lstat(top); err != nil {
			must(t, os.Symlink(filepath.Join("..data", filepath.Base(top)), top))
		}
	}
	if old != "" {
		must(t, os.RemoveAll(filepath.Join(volume, old)))
	}
}

// Two files that change in one swap, one of them in a folder, are one change; a swap without another content is none.
func TestKubernetesVolume(t *testing.T) {
	volume := t.TempDir()
	project(t, volume, map[string]string{"token": "one", "db/url": "one"})
	changes := byEvents(t, filepath.Join(volume, "token"), filepath.Join(volume, "db/url"))
	project(t, volume, map[string]string{"token": "one", "db/url": "one"})
	none(t, changes, "the same again")
	for n := range 5 {
		text := fmt.Sprint("two", n)
		project(t, volume, map[string]string{"token": text, "db/url": text})
		expect(t, changes, "volume swapped")
	}
	project(t, volume, map[string]string{"token": "two4", "db/url": "three"})
	expect(t, changes, "file in a folder changed")
	none(t, changes, "the second half of a swap")
}

// What users and their tools do to a file; only the last of it, where there are several steps, is a change.
func TestEditorsAndTools(t *testing.T) {
	run := func(path string, command ...string) {
		t.Helper()
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = filepath.Dir(path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	for name, edit := range map[string]func(path string){
		"sed -i": func(path string) { run(path, "sed", "-i", "s/1/2/", path) },
		"cp": func(path string) {
			write(t, path+".new", "A=2\n")
			run(path, "cp", path+".new", path)
		},
		"install": func(path string) {
			write(t, path+".new", "A=2\n")
			run(path, "install", "-m", "600", path+".new", path)
		},
		"mv":           func(path string) { write(t, path+".new", "A=2\n"); run(path, "mv", path+".new", path) },
		"append":       func(path string) { run(path, "sh", "-c", `echo B=2 >>"$1"`, "sh", path) },
		"shell, slow":  func(path string) { run(path, "sh", "-c", `: >"$1"; sleep 0.1; echo A=2 >>"$1"`, "sh", path) },
		"truncate, dd": func(path string) { run(path, "sh", "-c", `printf 'A=2\n' | dd of="$1" bs=1 2>&1`, "sh", path) },
		// vim with 'backup', and with 'backupcopy' as it is by default: it tries whether the directory takes a file, moves
		// the file aside, writes another one and removes the old.
		"vim": func(path string) {
			dir := filepath.Dir(path)
			write(t, filepath.Join(dir, "4913"), "")
			must(t, os.Remove(filepath.Join(dir, "4913")), os.Rename(path, path+"~"))
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			must(t, err)
			_, err = f.WriteString("A=2\n")
			must(t, err, f.Sync(), f.Close(), os.Remove(path+"~"))
		},
		// Others fill the file from the start, and cut off what is left of the one before.
		"overwrite": func(path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteString("A=22\n")
			must(t, err, f.Truncate(5), f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), ".env")
			write(t, path, "A=1\n")
			changes := startWith(t, Options{Stable: 150 * time.Millisecond, Poll: time.Hour}, path)
			edit(path)
			expect(t, changes, name)
			none(t, changes, "what it did besides")
		})
	}
}

// A writer that takes longer between its pieces than content must be stable is caught by its format.
func TestHalfWrittenFilesAreWaitedFor(t *testing.T) {
	for format, pieces := range map[string][]string{
		"json":   {`{"A":`, ` "2", "B": "`, "3\"}\n"},
		"dotenv": {"A=", "2\nB='two ", "words'\nC=se", "cret\n"},
	} {
		t.Run(format, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			write(t, path, map[string]string{"json": "{}", "dotenv": "A=1\n"}[format])
			warned := make(chan error, 100)
			o := Options{Stable: 20 * time.Millisecond, Poll: time.Hour, Valid: Validators()[format], Warn: func(err error) { warned <- err }}
			changes := startWith(t, o, path)
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
			must(t, err)
			for n, piece := range pieces {
				_, err := f.WriteString(piece)
				must(t, err)
				if n == len(pieces)-1 {
					break
				}
				if n > 0 { // it is said once
					none(t, changes, "more of a file")
					continue
				}
				select {
				case <-warned: //nolint:errcheck // that one is said is all that counts
				case <-changes:
					t.Fatalf("acted on after %q", piece)
				case <-time.After(10 * time.Second):
					t.Fatalf("nobody says that it is half-written after %q", piece)
				}
			}
			must(t, f.Close())
			expect(t, changes, "written to its end")
			none(t, changes, "nothing")
		})
	}
}

func TestValidators(t *testing.T) {
	for format, cases := range map[string]map[string]string{
		"json": {`{"A":1}`: "", "[]\n": "", `{"A":1`: "is not JSON", "A=secret": "is not JSON"},
		"dotenv": {
			"A=1\n": "", "\n# note\n  export A=1 # x\nB='a\nb'\nC=\"\\\"\n\"\nD=`x'`\nE=\nF.g-h = 1\n": "",
			"A=1": "does not end with a line break", "A=1\nsecret\n": "has no NAME=value in line 2",
			"A='x\n\n": "has a quote without its end in line 1", "A='x\ny'\n1=2\n": "has no NAME=value in line 3",
			"A=\"secret\\\"\n": "has a quote without its end in line 1",
		},
	} {
		for content, want := range cases {
			err := Validators()[format]([]byte(content))
			if (err == nil) != (want == "") || err != nil && err.Error()[:len(want)] != want {
				t.Errorf("%s %q: %v, want %q", format, content, err, want)
			}
		}
	}
}

// The directory of a file is removed, replaced and made again: what is in it is found each time, by events alone.
func TestDirectoriesComeAndGo(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "a", "b")
	path := filepath.Join(dir, ".env")
	changes := byEvents(t, path)
	for n := range 5 {
		must(t, os.MkdirAll(dir, 0o700))
		write(t, path, fmt.Sprint("made ", n))
		expect(t, changes, "directory made")
		write(t, path, fmt.Sprint("rewritten ", n))
		expect(t, changes, "rewritten in it")

		must(t, os.Mkdir(dir+".new", 0o700))
		write(t, filepath.Join(dir+".new", ".env"), fmt.Sprint("replaced ", n))
		must(t, os.Rename(dir, dir+".old"), os.Rename(dir+".new", dir))
		expect(t, changes, "directory replaced")
		write(t, path, fmt.Sprint("rewritten again ", n))
		expect(t, changes, "rewritten in the next")
		write(t, filepath.Join(dir+".old", ".env"), "of nobody's interest")
		must(t, os.RemoveAll(filepath.Join(base, "a")))
	}
	none(t, changes, "what was removed")
}

// A file becomes a link, its target changes elsewhere, and so does the way there.
func TestFileBecomesALink(t *testing.T) {
	base := t.TempDir()
	path, elsewhere, next := filepath.Join(base, "in", ".env"), filepath.Join(base, "out", "target"), filepath.Join(base, "next", "target")
	for _, p := range []string{path, elsewhere, next} {
		must(t, os.Mkdir(filepath.Dir(p), 0o700))
	}
	write(t, path, "file")
	write(t, elsewhere, "target")
	write(t, next, "next")
	changes := byEvents(t, path)
	must(t, os.Symlink("out", filepath.Join(base, "way")), os.Symlink("../way/target", path+".new"), os.Rename(path+".new", path))
	expect(t, changes, "replaced by a link")
	write(t, elsewhere, "target 2")
	expect(t, changes, "target rewritten")
	must(t, os.Symlink(filepath.Join(base, "next"), filepath.Join(base, "way.new")), os.Rename(filepath.Join(base, "way.new"), filepath.Join(base, "way")))
	expect(t, changes, "way changed")
	must(t, os.Remove(path), os.Symlink(path, path))
	none(t, changes, "a link to itself")
	must(t, os.Remove(path))
	write(t, path, "file again")
	expect(t, changes, "a file again")
}

// Nothing waits for the writer of a pipe, or of a file without end.
func TestPipesAndEndlessFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	write(t, path, "1")
	warned := make(chan error, 100)
	changes := startWith(t, Options{Stable: 20 * time.Millisecond, Poll: time.Hour, Warn: func(err error) { warned <- err }}, path)
	must(t, os.Remove(path), unix.Mkfifo(path, 0o600))
	if err := <-warned; err.Error() != "watching "+path+": it is not a file" {
		t.Error(err)
	}
	must(t, os.Remove(path))
	write(t, path, "1")
	must(t, os.Truncate(path, maxContent+1))
	if err := <-warned; err.Error() != fmt.Sprintf("watching %s: %[1]s holds more than %d bytes; is it the right file?", path, maxContent) {
		t.Error(err)
	}
	write(t, path, "2")
	expect(t, changes, "a file again")
}
