// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// pendingName must not begin as temporary files do, which Clean removes.
const pendingName = ".reload-pending.hyvve"

// dir is where the target's files are.
func (t Target) dir() string {
	if t.Format == Files {
		return t.Path
	}
	return filepath.Dir(t.Path)
}

// Begin notes beside the target that a reload is owed. It is noted before files change: killed between rendering and
// reloading, the next run finds files that are as they should be, and must still reload.
func (t Target) Begin() error {
	f, err := os.OpenFile(filepath.Join(t.dir(), pendingName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("noting that a reload is owed: %w", err)
	}
	return errors.Join(f.Sync(), f.Close(), syncDir(t.dir()))
}

// Owed tells whether a reload was noted and not ended.
func (t Target) Owed() bool {
	_, err := os.Lstat(filepath.Join(t.dir(), pendingName))
	return err == nil
}

// End takes the note away: the workload has reloaded.
func (t Target) End() error {
	err := os.Remove(filepath.Join(t.dir(), pendingName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
