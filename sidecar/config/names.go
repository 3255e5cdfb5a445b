// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// ownNames begins the names of variables that the sidecar itself sets or reads. No configuration allows keys to have them.
const ownNames = "HYVVE_"

// checkAllowNames refuses in allow_names what could have no effect.
func (f File) checkAllowNames() (errs []error) {
	for _, name := range f.AllowNames {
		if err := key.ValidateEnv(name); err != nil {
			errs = append(errs, fmt.Errorf("allow_names: %w", err))
		} else if strings.HasPrefix(name, ownNames) {
			errs = append(errs, fmt.Errorf("allow_names: %s is one of the sidecar's own names, which begin with %s; take it out", name, ownNames))
		}
	}
	return errs
}

// checkKeys refuses in keys what no bundle has, and reserved names unless allow has them: who lists keys may not know what
// a name does.
func checkKeys(keys, allow []string) error {
	for _, name := range keys {
		if err := key.ValidateEnv(name); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
		if err := key.CheckReserved(name, allow); err != nil {
			return fmt.Errorf("keys: %w; take it out, or add it to allow_names if the workload is to have it", err)
		}
	}
	return nil
}

// mapped reports whether keys stand under names of the configuration's own only: those of a template, or of data.
func (r RenderBlock) mapped() bool { return r.Source != "" || r.Template != "" || r.Data != nil }

// allowed returns allow with all of the block's keys, where their names are written nowhere.
func (r RenderBlock) allowed(allow []string) []string {
	if r.mapped() {
		return slices.Concat(allow, r.Keys)
	}
	return allow
}
