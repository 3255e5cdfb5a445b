// SPDX-License-Identifier: Apache-2.0

package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// recall reads what an earlier run has kept in a file, if any. No file is no error.
func recall(path string, into any) error {
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path) //nolint:gosec // the configuration names it
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return fmt.Errorf("reading %s, which starts empty: %w", path, err)
	}
	return nil
}

// keep writes it. Without a path it is kept in memory alone.
func keep(path string, what any) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(what)
	if err == nil {
		err = render.Keep(path, data)
	}
	if err != nil {
		return fmt.Errorf("keeping %s, without which a restart of the sidecar forgets: %w", path, err)
	}
	return nil
}
