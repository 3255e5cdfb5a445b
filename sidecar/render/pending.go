// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

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
