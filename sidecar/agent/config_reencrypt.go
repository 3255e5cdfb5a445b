// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// ReencryptBlock is the database whose rows this sidecar re-encrypts when the engine asks. Its URL is looked at before each
// piece of work.
type ReencryptBlock struct {
	DatabaseURLKey  string `hcl:"database_url_key,optional"` // name in the bundle
	DatabaseURLFile string `hcl:"database_url_file,optional"`
	DatabaseURLEnv  string `hcl:"database_url_env,optional"`
	BatchSize       int    `hcl:"batch_size,optional"`
	SaltPerRow      bool   `hcl:"salt_per_row,optional"`

	RowsPerSecond int      `hcl:"rows_per_second,optional"`
	MaxLoad       string   `hcl:"max_load,optional"` // a duration
	AllowTriggers []string `hcl:"allow_triggers,optional"`
	TouchColumn   string   `hcl:"touch_column,optional"`

	AllowSuperuser bool `hcl:"allow_superuser,optional"`

	maxLoad time.Duration
}

// paced is the block with its bounds checked.
func (r ReencryptBlock) paced() (ReencryptBlock, error) {
	var err error
	if r.MaxLoad != "" {
		if r.maxLoad, err = time.ParseDuration(r.MaxLoad); err != nil || r.maxLoad < 0 {
			err = fmt.Errorf("reencrypt: max_load = %q is not a duration; write one such as \"200ms\"", r.MaxLoad)
		}
	}
	if r.BatchSize < 0 || r.RowsPerSecond < 0 {
		err = errors.Join(err, errors.New("reencrypt: batch_size or rows_per_second is negative; leave it out for the default"))
	}
	return r, err
}

// checkReencrypt refuses a block that cannot work, and fills in what was parsed of it.
func (c *Config) checkReencrypt() (errs []error) {
	r := c.Reencrypt
	if r == nil {
		return nil
	}
	set := slices.DeleteFunc([]string{r.DatabaseURLKey, r.DatabaseURLFile, r.DatabaseURLEnv}, func(s string) bool { return s == "" })
	if len(set) != 1 {
		errs = append(errs, errors.New("reencrypt: set one of database_url_key, database_url_file and database_url_env, and no other"))
	}
	if r.DatabaseURLKey != "" {
		if err := key.ValidateEnv(r.DatabaseURLKey); err != nil {
			errs = append(errs, fmt.Errorf("reencrypt: database_url_key = %q is not the name of a key in bundles: %w", r.DatabaseURLKey, err))
		}
	}
	block, err := r.paced()
	c.Reencrypt = &block
	return append(errs, err)
}

// databaseURL is where the rows are now: the URL may be a key that rotates too.
func (r ReencryptBlock) databaseURL(values map[string]key.Value) (key.Value, error) {
	switch {
	case r.DatabaseURLKey != "":
		if url, ok := values[r.DatabaseURLKey]; ok {
			return url, nil
		}
		return key.Value{}, fmt.Errorf("reencrypt: database_url_key: the bundle has no value of %s; let the workload present its key", r.DatabaseURLKey)
	case r.DatabaseURLFile != "":
		data, err := external.ReadCredentialFile(r.DatabaseURLFile)
		if err != nil {
			return key.Value{}, fmt.Errorf("reencrypt: database_url_file: %w", err)
		}
		if url := strings.TrimSpace(string(data)); url != "" {
			return key.NewValue(url), nil
		}
		return key.Value{}, fmt.Errorf("reencrypt: database_url_file: %s is empty", r.DatabaseURLFile)
	}
	if url := os.Getenv(r.DatabaseURLEnv); url != "" {
		return key.NewValue(url), nil
	}
	return key.Value{}, fmt.Errorf("reencrypt: database_url_env: the environment has no %s", r.DatabaseURLEnv)
}
