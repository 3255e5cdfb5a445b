// SPDX-License-Identifier: Apache-2.0

package render

import "path/filepath"

// Keep writes a file of the sidecar's own, which is for nobody else's eyes, as carefully as what workloads read. What a
// crash left half-written beside it goes first.
func Keep(path string, content []byte) error {
	t := Target{Path: path, Mode: 0o600, UID: -1, GID: -1}
	if err := t.Clean(); err != nil {
		return err
	}
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
