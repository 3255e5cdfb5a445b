// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// ReencryptBlock is the database whose rows this sidecar re-encrypts when the engine asks. Its URL is looked at before each
// piece of work.
type ReencryptBlock struct {
	DatabaseURLKey  string `hcl:"database_url_key,optional" type:"environment name" excludes:"database_url_file, database_url_env" annotation:"reencrypt" doc:"Key of the bundle that holds the URL of the database to re-encrypt."`
	DatabaseURLFile string `hcl:"database_url_file,optional" type:"file" excludes:"database_url_key, database_url_env" flag:"database-url-file" doc:"File that holds the URL of the database to re-encrypt."`
	DatabaseURLEnv  string `hcl:"database_url_env,optional" excludes:"database_url_key, database_url_file" doc:"Environment variable that holds the URL of the database to re-encrypt."`
	BatchSize       int    `hcl:"batch_size,optional" default:"500" doc:"Rows that are read, staged and replaced at a time."`
	SaltPerRow      bool   `hcl:"salt_per_row,optional" doc:"Draws a salt for each row."`

	RowsPerSecond int      `hcl:"rows_per_second,optional" default:"no limit" annotation:"reencrypt-rows-per-second" doc:"Rows that are re-encrypted in a second."`
	MaxLoad       string   `hcl:"max_load,optional" type:"duration" annotation:"reencrypt-max-load" doc:"Pauses while a transaction takes longer, or a replica lags more."`
	AllowTriggers []string `hcl:"allow_triggers,optional" doc:"Triggers that an update of the columns may fire."`
	TouchColumn   string   `hcl:"touch_column,optional" doc:"Column that is set to the time of the update."`

	AllowSuperuser bool `hcl:"allow_superuser,optional" doc:"Accepts a database URL of a superuser."`
}

// checkReencrypt refuses a block that cannot work, and fills in MaxLoad.
func (c *Checked) checkReencrypt() (errs []error) {
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
	if r.MaxLoad != "" {
		var err error
		if c.MaxLoad, err = time.ParseDuration(r.MaxLoad); err != nil || c.MaxLoad < 0 {
			errs = append(errs, fmt.Errorf("reencrypt: max_load = %q is not a duration; write one such as \"200ms\"", r.MaxLoad))
		}
	}
	if r.BatchSize < 0 || r.RowsPerSecond < 0 {
		errs = append(errs, errors.New("reencrypt: batch_size or rows_per_second is negative; leave it out for the default"))
	}
	return errs
}
