// SPDX-License-Identifier: Apache-2.0

// Package render writes what a bundle holds into files that workloads read. A file is never half-written, and never
// there with a wider mode than configured: it is written beside its place, owned, and renamed.
package render

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// Format is how a file holds a bundle.
type Format string

// The formats.
const (
	Dotenv Format = "dotenv" // NAME=value lines, quoted so that Node's readers, Python's, Docker Compose and a shell read back the same
	Docker Format = "docker" // NAME=value lines without quotes, for docker run --env-file
	JSON   Format = "json"   // one object of names and values
	Bundle Format = "bundle" // one object with values, accepts, versions, accept_versions and etag, for workloads that hold several versions
	Files  Format = "files"  // a directory with one file a name, without a trailing line break
	// Template is what a template of the user's makes of it.
	Template Format = "template"
)

// Formats lists them.
func Formats() []string {
	return []string{string(Dotenv), string(Docker), string(JSON), string(Bundle), string(Files), string(Template)}
}

// Target is a file, or for Files a directory, to be kept.
type Target struct {
	Format Format
	Path   string
	Mode   os.FileMode
	UID    int      // -1: as we are
	GID    int      // -1: as we are
	Keys   []string // environment names to render; empty: all
	// Accepts adds NAME_ACCEPTS for keys that the workload verifies: all values to accept, newest first. In JSON that
	// is an array, in Dotenv, Docker and Files the text of one. Bundle has it anyway.
	Accepts bool
	// Previous adds NAME_PREVIOUS: the second of them, while there is one.
	Previous bool
	Template *TextTemplate // of the format Template
	Allow    []string      // reserved names that are rendered all the same
	// MakeDirectory makes the directory of the file, where it is missing. That of Files is made anyway.
	MakeDirectory bool
	// Multiline lets Dotenv write values of several lines, for readers that read them back.
	Multiline bool
}

const tempPrefix = ".hyvve-"

func (t Target) choice() variables.Choice {
	return variables.Choice{Keys: t.Keys, Accepts: t.Accepts, Previous: t.Previous, Allow: t.Allow, Mapped: t.Format == Template}
}

// contents returns the files by name, below the directory of the target, and the names of files that are to be gone.
func (t Target) contents(b client.Bundle) (files map[string][]byte, gone []string, err error) {
	set, err := t.choice().Of(b)
	if err != nil {
		return nil, nil, fmt.Errorf("rendering %s: %w", t.Path, err)
	}
	var content []byte
	switch t.Format {
	case Files:
		files, err = separate(set)
		return files, set.Gone, err
	case Dotenv:
		content, err = dotenv(set, t.Multiline)
	case Docker:
		content, err = docker(set)
	case JSON:
		content, err = object(set)
	case Bundle:
		content, err = t.bundle(b)
	case Template:
		content, err = t.Template.execute(set, b)
	default:
		err = fmt.Errorf("render format %q is not known; use one of %s", t.Format, strings.Join(Formats(), ", "))
	}
	return map[string][]byte{filepath.Base(t.Path): content}, nil, err
}

// separate returns a file to each name, which was checked: it is a path, and could lead anywhere.
func separate(set variables.Set) (map[string][]byte, error) {
	texts, err := set.Text()
	files := map[string][]byte{}
	for name, text := range texts {
		files[name] = []byte(text)
	}
	return files, err
}

func object(set variables.Set) ([]byte, error) {
	all := map[string]any{}
	for name, v := range set.Values {
		all[name] = v
	}
	for name, list := range set.Lists {
		all[name] = list
	}
	text, err := json.MarshalIndent(all, "", "  ")
	return append(text, '\n'), err
}

func (t Target) bundle(b client.Bundle) ([]byte, error) {
	plain := b.Plain()
	unwanted := func(env string) bool { return !t.choice().Wants(env) }
	maps.DeleteFunc(plain.Values, func(env, _ string) bool { return unwanted(env) })
	maps.DeleteFunc(plain.Accepts, func(env string, _ []string) bool { return unwanted(env) })
	text, err := json.MarshalIndent(plain, "", "  ")
	return append(text, '\n'), err
}

// Change is what must be done so that targets hold a bundle. All that can fail for want of space, rights or files is done
// before the first file changes: new files stand complete beside the old ones, and are renamed one right after the other.
type Change struct {
	dirs  map[string]*directory
	files []replacement
	notes []notePlace // of pending reloads, of all targets
}

// notePlace is a name in a directory.
type notePlace struct {
	dir  *directory
	name string
}

// replacement is a file that is to be renamed into its place; without one, the place is to be empty.
type replacement struct {
	dir        *directory
	temp, name string
	note       string // of the pending reload for it
}

// Prepare writes beside their places what targets lack. Discard must be called in the end.
func Prepare(targets []Target, b client.Bundle) (*Change, error) {
	c := &Change{dirs: map[string]*directory{}}
	for _, t := range targets {
		if err := c.add(t, b); err != nil {
			c.Discard()
			return nil, err
		}
	}
	return c, nil
}

func (c *Change) add(t Target, b client.Bundle) error {
	files, gone, err := t.contents(b)
	if err != nil {
		return err
	}
	dir := c.dirs[t.dir()]
	if dir == nil {
		if dir, err = openDirectory(t.dir(), t.Format == Files || t.MakeDirectory); err != nil {
			return err
		}
		c.dirs[t.dir()] = dir
	}
	c.notes = append(c.notes, notePlace{dir, t.pending()})
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := c.stage(dir, t, name, files[name]); err != nil {
			return err
		}
	}
	for _, name := range gone {
		if dir.has(name) {
			c.files = append(c.files, replacement{dir: dir, name: name, note: t.pending()})
		}
	}
	return nil
}

// stage writes a file beside its place if its content, mode or owner differ.
func (c *Change) stage(dir *directory, t Target, name string, content []byte) error {
	if err := dir.replaceable(name); err != nil {
		return err
	}
	if t.same(dir, name, content) {
		return nil
	}
	path := filepath.Join(dir.path, name)
	temp := t.temp() + rand.Text()[:10]
	file, err := dir.open(temp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	c.files = append(c.files, replacement{dir, temp, name, t.pending()})
	return errors.Join(t.fill(file, path, content), file.Close())
}

// fill returns a new file all that it is to have.
func (t Target) fill(file *os.File, path string, content []byte) error {
	if _, err := file.Write(content); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if t.UID >= 0 || t.GID >= 0 {
		if err := file.Chown(t.UID, t.GID); err != nil {
			return fmt.Errorf("giving %s to its owner: %w", path, err)
		}
	}
	if err := file.Chmod(t.Mode); err != nil {
		return fmt.Errorf("setting the mode of %s: %w", path, err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// same reports whether the file is what it should be. A symbolic link never is.
func (t Target) same(dir *directory, name string, content []byte) bool {
	file, err := dir.open(name, unix.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer file.Close() //nolint:errcheck // read only
	var stat unix.Stat_t
	if unix.Fstat(int(file.Fd()), &stat) != nil || stat.Mode != unix.S_IFREG|uint32(t.Mode.Perm()) || stat.Size != int64(len(content)) {
		return false
	}
	if t.UID >= 0 && int(stat.Uid) != t.UID || t.GID >= 0 && int(stat.Gid) != t.GID {
		return false
	}
	have, err := io.ReadAll(io.LimitReader(file, int64(len(content))+1))
	return err == nil && bytes.Equal(have, content)
}

// Note writes beside what is about to change that a reload is pending. Killed between rendering and reloading, the next run
// finds files that are as they should be, and must still reload.
func (c *Change) Note() error {
	noted := map[notePlace]bool{}
	for _, f := range c.files {
		at := notePlace{f.dir, f.note}
		if noted[at] {
			continue
		}
		if err := note(f.dir, f.note); err != nil {
			return err
		}
		noted[at] = true
	}
	return nil
}

// Noted returns the notes beside all targets that a reload is pending, whatever is to change.
func (c *Change) Noted() (paths []string) {
	for _, n := range c.notes {
		if n.dir.has(n.name) {
			paths = append(paths, filepath.Join(n.dir.path, n.name))
		}
	}
	return paths
}

// changing returns the directories in which something is to change.
func (c *Change) changing() (dirs []*directory) {
	for _, f := range c.files {
		if !slices.Contains(dirs, f.dir) {
			dirs = append(dirs, f.dir)
		}
	}
	return dirs
}

// Commit puts all files into their places. It reports whether any changed, if it fails too. Killed in its midst, the next
// run finds what is left to do.
func (c *Change) Commit() (changed bool, err error) {
	dirs := c.changing()
	for len(c.files) > 0 {
		f := c.files[0]
		if f.temp == "" {
			err = f.dir.remove(f.name)
		} else {
			err = f.dir.rename(f.temp, f.name)
		}
		if err != nil {
			return changed, fmt.Errorf("writing %s: %w", filepath.Join(f.dir.path, f.name), err)
		}
		c.files, changed = c.files[1:], true
		committed()
	}
	for _, dir := range dirs {
		err = errors.Join(err, dir.sync())
	}
	return changed, err
}

// committed is called after each file that has come into its place. Tests replace it, to be killed there.
var committed = func() {}

// Discard removes what was prepared and not put into its place.
func (c *Change) Discard() {
	for _, f := range c.files {
		if f.temp != "" {
			_ = f.dir.remove(f.temp) // what cannot be removed, Clean removes at the next start
		}
	}
	c.files, c.notes = nil, nil
	for _, dir := range c.dirs {
		dir.close()
	}
	c.dirs = nil
}

// Write brings the target to what the bundle holds. It reports whether anything changed. A name that is in no bundle any
// more keeps its file: a workload may still be reading it.
func (t Target) Write(b client.Bundle) (changed bool, err error) {
	c, err := Prepare([]Target{t}, b)
	if err != nil {
		return false, err
	}
	defer c.Discard()
	return c.Commit()
}

// ErrNoDirectory means that the directory of a target cannot be opened, as one that is mounted later.
var ErrNoDirectory = errors.New("the directory cannot be opened")

// Clean removes what a crash left half-written, all that it can. If the directory cannot be opened, the error is ErrNoDirectory;
// that of Prepare says what to do.
func (t Target) Clean() error {
	dir, err := openDirectory(t.dir(), t.Format == Files || t.MakeDirectory)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDirectory, err)
	}
	defer dir.close()
	names, err := dir.file.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("looking for what an earlier run left: %w", err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, t.temp()) {
			continue
		}
		if one := dir.remove(name); one != nil {
			err = errors.Join(err, fmt.Errorf("removing what an earlier run left: %w", one))
		}
	}
	return err
}

// temp begins the names of the target's temporary files, and of no other target's in the same directory.
func (t Target) temp() string { return tempPrefix + filepath.Base(t.Path) + "~" }

// pending is the name of the note that a reload is pending. Other targets, perhaps of other sidecars, may be in the same
// directory. It must not begin as temporary files do, which Clean removes.
func (t Target) pending() string { return ".reload-pending-" + filepath.Base(t.Path) + ".hyvve" }

// dir is where the target's files are.
func (t Target) dir() string {
	if t.Format == Files {
		return filepath.Clean(t.Path)
	}
	return filepath.Dir(t.Path)
}

// inPlace is the name of the note that the target was rendered once.
func (t Target) inPlace() string { return ".in-place-" + filepath.Base(t.Path) + ".hyvve" }

// SetInPlace notes beside the target that everything which is rendered with it is there. The note goes when the directory does.
func (t Target) SetInPlace() error {
	dir, err := openDirectory(t.dir(), false)
	if err != nil {
		return err
	}
	defer dir.close()
	return note(dir, t.inPlace())
}

// InPlace reports whether that was noted.
func (t Target) InPlace() bool {
	dir, err := openDirectory(t.dir(), false)
	if err != nil {
		return false
	}
	defer dir.close()
	return dir.has(t.inPlace())
}

func note(dir *directory, name string) error {
	f, err := dir.open(name, unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the note %s: %w", name, err)
	}
	return errors.Join(f.Sync(), f.Close(), dir.sync())
}

// Begin notes beside the target that a reload is pending, whether anything is about to change or not.
func (t Target) Begin() error {
	dir, err := openDirectory(t.dir(), false)
	if err != nil {
		return err
	}
	defer dir.close()
	return note(dir, t.pending())
}

// Note is the path of the note that a reload is pending.
func (t Target) Note() string { return filepath.Join(t.dir(), t.pending()) }

// ReloadPending reports whether a reload was noted and not ended.
func (t Target) ReloadPending() bool {
	dir, err := openDirectory(t.dir(), false)
	if err != nil {
		return false
	}
	defer dir.close()
	return dir.has(t.pending())
}

// End takes the note away: the workload has reloaded.
func (t Target) End() error {
	dir, err := openDirectory(t.dir(), false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.close()
	return dir.remove(t.pending())
}

// NewerThan returns a file of the target that has other content than the bundle, and was written after a moment; empty if there
// is none.
func (t Target) NewerThan(moment time.Time, b client.Bundle) (string, error) {
	files, _, err := t.contents(b)
	if err != nil {
		return "", err
	}
	for name, content := range files {
		path := filepath.Join(t.dir(), name)
		info, err := os.Lstat(path)
		if err != nil || !info.ModTime().After(moment) {
			continue // Write says what is wrong, if anything
		}
		have, err := os.ReadFile(path) //nolint:gosec // in the directory that we render
		if err != nil {
			return path, err
		}
		if !bytes.Equal(have, content) {
			return path, nil
		}
	}
	return "", nil
}

// Keep writes a file of the sidecar's own, which is for nobody else's eyes, as carefully as what workloads read. What a
// crash left half-written beside it goes first, if it can be removed.
func Keep(path string, content []byte) error {
	t := Target{Path: path, Mode: 0o600, UID: -1, GID: -1}
	_ = t.Clean() // the file is written all the same
	dir, err := openDirectory(t.dir(), false)
	if err != nil {
		return err
	}
	c := &Change{dirs: map[string]*directory{t.dir(): dir}}
	defer c.Discard()
	if err := c.stage(dir, t, filepath.Base(path), content); err != nil {
		return err
	}
	_, err = c.Commit()
	return err
}
