// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"os"
	"path/filepath"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

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
