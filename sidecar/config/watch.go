// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

// WatchBlock lists files that something else renders.
type WatchBlock struct {
	Paths    []string `hcl:"paths" type:"files" flag:"watch" doc:"Files to follow, which something else renders."`
	Stable   string   `hcl:"stable,optional" type:"duration" default:"200ms" doc:"Time without changes before a change counts."`
	Poll     string   `hcl:"poll,optional" type:"duration" default:"5s" doc:"Interval between checks of files that report no changes."`
	Validate string   `hcl:"validate,optional" values:"dotenv, json" doc:"Format that a file must have before its change counts."`
}

// checkWatch fills in what following files needs.
func (c *Checked) checkWatch() (errs []error) {
	w := c.Watch
	if len(w.Paths) == 0 {
		errs = append(errs, errors.New("watch: paths is empty; list the files to follow"))
	}
	if slices.Contains(w.Paths, "") {
		errs = append(errs, errors.New("watch: paths has an empty one; name the file, or take it out"))
	}
	for _, path := range w.Paths {
		if path != "" && strings.HasSuffix(path, string(filepath.Separator)) {
			errs = append(errs, fmt.Errorf("watch: paths has %q, which is a directory; name the files in it", path))
		}
	}
	for _, d := range []struct {
		name string
		into *time.Duration
	}{{"stable", &c.Stable}, {"poll", &c.Poll}} {
		var err error
		if *d.into, err = setting("watch: ", *w, d.name); err != nil {
			errs = append(errs, err)
		}
	}
	if w.Validate != "" {
		formats := slices.Sorted(maps.Keys(watch.Validators()))
		if watch.Validators()[w.Validate] == nil {
			errs = append(errs, fmt.Errorf("watch: validate = %q is not known%s (it is one of %s)", w.Validate, usage.DidYouMean(w.Validate, formats), strings.Join(formats, ", ")))
		}
	}
	return errs
}
