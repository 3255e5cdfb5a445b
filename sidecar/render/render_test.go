// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func bundle(values map[string]string) client.Bundle {
	b := client.Bundle{Values: map[string]key.Value{}, Etag: "e1"}
	for env, v := range values {
		b.Values[env] = key.NewValue(v)
	}
	return b
}

func TestAccepts(t *testing.T) {
	b := bundle(map[string]string{"A": "1"})
	b.Accepts = map[string][]key.Value{"B": {key.NewValue("new&"), key.NewValue("old")}}
	for format, want := range map[Format]string{
		Dotenv: "A=1\nB='new&'\nB_ACCEPTS='[\"new&\",\"old\"]'\n",
		JSON:   "{\n  \"A\": \"1\",\n  \"B\": \"new\\u0026\",\n  \"B_ACCEPTS\": [\n    \"new\\u0026\",\n    \"old\"\n  ]\n}\n",
	} {
		target := Target{Format: format, Path: filepath.Join(t.TempDir(), "out"), Mode: 0o600, UID: -1, GID: -1, Accepts: true}
		if _, err := target.Write(b); err != nil {
			t.Fatal(err)
		}
		if data, _ := os.ReadFile(target.Path); string(data) != want {
			t.Errorf("%s: %s, want %s", format, data, want)
		}
		target.Accepts = false
		if changed, err := target.Write(b); err != nil || !changed {
			t.Errorf("%s: without accepts, the same is written: %v", format, err)
		}
	}
	target := Target{Format: Files, Path: t.TempDir(), Mode: 0o600, UID: -1, GID: -1, Accepts: true, Keys: []string{"B"}}
	if _, err := target.Write(b); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(filepath.Join(target.Path, "B_ACCEPTS")); string(data) != `["new&","old"]` {
		t.Errorf("files: %s", data)
	}
	if _, err := os.Stat(filepath.Join(target.Path, "A")); err == nil {
		t.Error("a key that is not wanted was rendered")
	}
}

// NAME_PREVIOUS is there while there is a second value, and gone when there is none: in a directory, its file is.
func TestPrevious(t *testing.T) {
	for format, wants := range map[Format][2]string{
		Dotenv: {"B=new\nB_PREVIOUS=old\n", "B=new\n"},
		JSON:   {"{\n  \"B\": \"new\",\n  \"B_PREVIOUS\": \"old\"\n}\n", "{\n  \"B\": \"new\"\n}\n"},
		Files:  {"old", ""},
	} {
		target := Target{Format: format, Path: filepath.Join(t.TempDir(), "out"), Mode: 0o600, UID: -1, GID: -1, Previous: true}
		for n, list := range [][]key.Value{{key.NewValue("new"), key.NewValue("old")}, {key.NewValue("new")}} {
			b := bundle(nil)
			b.Accepts = map[string][]key.Value{"B": list}
			for _, want := range []bool{true, false} {
				if changed, err := target.Write(b); err != nil || changed != want {
					t.Errorf("%s: changed %v, %v", format, changed, err)
				}
			}
			file := target.Path
			if format == Files {
				file = filepath.Join(file, "B_PREVIOUS")
			}
			data, err := os.ReadFile(file)
			if string(data) != wants[n] || (err != nil) != (wants[n] == "") {
				t.Errorf("%s: %q, %v, want %q", format, data, err, wants[n])
			}
		}
	}
}

// Names are files there: one that would lead elsewhere is refused.
func TestNamesThatArePathsAreRefused(t *testing.T) {
	target := Target{Format: Files, Path: filepath.Join(t.TempDir(), "out"), Mode: 0o600, UID: -1, GID: -1}
	if _, err := target.Write(bundle(map[string]string{"../A": "1"})); err == nil || !strings.Contains(err.Error(), "is not an environment name") {
		t.Errorf("error is %v", err)
	}
}

func TestWriteChangesOnlyWhatDiffers(t *testing.T) {
	dir := t.TempDir()
	for _, format := range []Format{Dotenv, Docker, JSON, Bundle, Files, Template} {
		target := Target{Format: format, Path: filepath.Join(dir, string(format)), Mode: 0o640, UID: -1, GID: -1, Template: parsed(t, `{{ value "A" }}`)}
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

func TestPlacesThatAreNoFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	link, folder := filepath.Join(dir, "link.json"), filepath.Join(dir, "folder.json")
	if err := errors.Join(os.Symlink(victim, link), os.Mkdir(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{link: "symbolic link", folder: "is not a file"} {
		target := Target{Format: JSON, Path: path, Mode: 0o600, UID: -1, GID: -1}
		if _, err := target.Write(bundle(map[string]string{"A": "1"})); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if data, _ := os.ReadFile(victim); string(data) != "untouched" {
		t.Error("the file behind the link was written to")
	}
}

// Two sidecars may share a directory: what one is just writing is not the other's to clean.
func TestOwnLeftoversAreRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a[b]*") // no pattern, a name
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	own, others := filepath.Join(dir, tempPrefix+".env~123"), filepath.Join(dir, tempPrefix+".env.other~123")
	for _, path := range []string{own, others} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := (Target{Format: Dotenv, Path: filepath.Join(dir, ".env")}).Clean(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(own); err == nil {
		t.Error("the leftover is still there")
	}
	if _, err := os.Stat(others); err != nil {
		t.Error("another target's file was removed")
	}
}

// What cannot be removed keeps nothing else from being removed, and a file of the sidecar's own from being written.
func TestCleanOfWhatStays(t *testing.T) {
	dir := t.TempDir()
	target := Target{Format: Dotenv, Path: filepath.Join(dir, ".env"), Mode: 0o600, UID: -1, GID: -1}
	var all []string
	for n := range 20 {
		path := filepath.Join(dir, fmt.Sprintf("%s%d", target.temp(), n))
		all = append(all, path)
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stays := filepath.Join(dir, target.temp()+"directory")
	if err := os.Mkdir(stays, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := target.Clean(); err == nil || !strings.Contains(err.Error(), stays) {
		t.Errorf("it does not say what stays: %v", err)
	}
	for _, path := range all {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s stays, too", path)
		}
	}
	if err := Keep(target.Path, []byte("mine")); err != nil {
		t.Error(err)
	}
}

// While files are replaced, every reader sees one version or the other, whole, never with a wider mode, and never of
// another owner.
func TestReadersSeeWholeFiles(t *testing.T) {
	owner := os.Geteuid()
	if owner == 0 {
		owner = 65534 // only root may give files away
	}
	target := Target{Format: JSON, Path: filepath.Join(t.TempDir(), "x.json"), Mode: 0o640, UID: owner, GID: -1}
	values := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 100_000)}
	write := func(n int) {
		if _, err := target.Write(bundle(map[string]string{"A": values[n%2]})); err != nil {
			t.Error(err)
		}
	}
	write(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 200 {
			write(n)
		}
	}()
	for looking := true; looking; {
		select {
		case <-done:
			looking = false
		default:
		}
		var got map[string]string
		data, err := os.ReadFile(target.Path)
		if err == nil {
			err = json.Unmarshal(data, &got)
		}
		if err != nil || got["A"] != values[0] && got["A"] != values[1] {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
		var stat unix.Stat_t
		if err := unix.Stat(target.Path, &stat); err != nil || stat.Mode != unix.S_IFREG|0o640 || int(stat.Uid) != owner {
			t.Fatalf("mode %o, owner %d, %v", stat.Mode, stat.Uid, err)
		}
	}
}

// The members of a directory's group could replace the secrets in it, unless the sticky bit keeps them from it.
func TestAdversaryGroupOfTheDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chown(dir, -1, 4711); err != nil {
		kit.Skip(t, fmt.Sprintf("only root can give a directory away: %v", err))
	}
	target := Target{Format: JSON, Path: filepath.Join(dir, "x.json"), Mode: 0o600, UID: -1, GID: -1}
	for mode, ok := range map[os.FileMode]bool{0o770: false, 0o775: false, 0o770 | os.ModeSetgid: false, 0o770 | os.ModeSticky: true, 0o750: true} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := target.Write(bundle(map[string]string{"A": "1"})); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "writable by group 4711") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
}

// On the way to the directory a member of a group could put a directory of their own in the place of the one that is meant.
func TestAdversaryGroupOnTheWay(t *testing.T) {
	dir := t.TempDir()
	way := filepath.Join(dir, "way")
	target := Target{Format: JSON, Path: filepath.Join(way, "keys", "x.json"), Mode: 0o600, UID: -1, GID: -1}
	if err := os.MkdirAll(filepath.Dir(target.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode     os.FileMode
		gid, uid int // of the way, and of what lies in it
		ok       bool
	}{
		{0o755, 4711, 4711, true}, // root has put it there
		{0o775, 4711, 0, true},
		{0o775, 4711, 4711, false},
		{0o775 | os.ModeSticky, 4711, 4711, false},
		{0o775, 0, 4711, true},
	} {
		if err := errors.Join(os.Chown(way, 0, c.gid), os.Chown(filepath.Dir(target.Path), c.uid, -1), os.Chmod(way, c.mode)); err != nil {
			kit.Skip(t, fmt.Sprintf("only root can give a directory away: %v", err))
		}
		if _, err := target.Write(bundle(map[string]string{"A": "1"})); (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "belongs to another user (4711)") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
