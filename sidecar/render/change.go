// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// Change is what must be done so that targets hold a bundle. All that can fail for want of space, rights or files is done
// before the first file changes: new files stand complete beside the old ones, and are renamed one right after the other.
type Change struct {
	dirs  map[string]*directory
	files []replacement
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
	type place struct {
		dir  *directory
		name string
	}
	noted := map[place]bool{}
	for _, f := range c.files {
		at := place{f.dir, f.note}
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
	c.files = nil
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

// Clean removes what a crash left half-written. Where the directory cannot be had, Write says what is to be done.
func (t Target) Clean() error {
	dir, err := openDirectory(t.dir(), t.Format == Files || t.MakeDirectory)
	if err != nil {
		return nil
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
		if err := dir.remove(name); err != nil {
			return fmt.Errorf("removing what an earlier run left: %w", err)
		}
	}
	return nil
}

// temp begins the names of the target's temporary files, and of no other target's in the same directory.
func (t Target) temp() string { return tempPrefix + filepath.Base(t.Path) + "~" }
