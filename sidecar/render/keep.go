// SPDX-License-Identifier: Apache-2.0

package render

// Keep writes a file of the sidecar's own, which is for nobody else's eyes, as carefully as what workloads read. What a
// crash left half-written beside it goes first.
func Keep(path string, content []byte) error {
	t := Target{Path: path, Mode: 0o600, UID: -1, GID: -1}
	if err := t.Clean(); err != nil {
		return err
	}
	_, err := t.writeFile(path, content)
	return err
}
