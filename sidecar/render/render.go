// SPDX-License-Identifier: Apache-2.0

// Package render writes what a bundle holds into files that workloads read. A file is never half-written, and never
// there with a wider mode than configured: it is written beside its place, owned, and renamed.
package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Format is how a file holds a bundle.
type Format string

// The formats.
const (
	Dotenv Format = "dotenv" // NAME=value lines; what Node's dotenv and a shell both read back
	JSON   Format = "json"   // one object of names and values
	Bundle Format = "bundle" // one object with values, accepts, versions, accept_versions and etag, for workloads that hold several versions
	Files  Format = "files"  // a directory with one file a name, without a trailing line break
)

// Formats lists them.
func Formats() []string {
	return []string{string(Dotenv), string(JSON), string(Bundle), string(Files)}
}

// Target is a file, or for Files a directory, to be kept.
type Target struct {
	Format Format
	Path   string
	Mode   os.FileMode
	UID    int      // -1: as we are
	GID    int      // -1: as we are
	Keys   []string // environment names to render; empty: all
	// Accepts adds NAME_ACCEPTS for keys that the workload verifies: all values to accept, newest first. In JSON that
	// is an array, in Dotenv and Files the text of one. Bundle has it anyway.
	Accepts bool
}

const (
	tempPrefix   = ".hyvve-"
	acceptsAfter = "_ACCEPTS"
)

// Differs tells whether Write would change anything.
func (t Target) Differs(b client.Bundle) (bool, error) {
	files, err := t.contents(b)
	for path, content := range files {
		if !t.same(path, content) {
			return true, err
		}
	}
	return false, err
}

// Write brings the target to what the bundle holds. It tells whether anything changed. A name that is in no bundle any
// more keeps its file: a workload may still be reading it.
func (t Target) Write(b client.Bundle) (changed bool, err error) {
	files, err := t.contents(b)
	if err != nil {
		return false, err
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		did, err := t.writeFile(path, files[path])
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	return changed, nil
}

// contents gives the files by path.
func (t Target) contents(b client.Bundle) (map[string][]byte, error) {
	values := map[string]string{}
	for env, v := range b.Values {
		if t.wants(env) {
			values[env] = v.Reveal()
		}
	}
	// A workload that only verifies a key needs it too: the newest is what it would be configured with.
	for env, list := range b.Accepts {
		if _, ok := values[env]; !ok && len(list) > 0 && t.wants(env) {
			values[env] = list[0].Reveal()
		}
	}
	if t.Format == JSON {
		text, err := t.object(values, b)
		return map[string][]byte{t.Path: append(text, '\n')}, err
	}
	for env, list := range t.accepts(b) {
		text, err := arrayText(list)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", env, err)
		}
		values[env] = text
	}
	switch t.Format {
	case JSON: // above
	case Dotenv:
		text, err := dotenv(values)
		return map[string][]byte{t.Path: text}, err
	case Bundle:
		text, err := t.bundle(b)
		return map[string][]byte{t.Path: append(text, '\n')}, err
	case Files:
		files := map[string][]byte{}
		for env, value := range values {
			files[filepath.Join(t.Path, env)] = []byte(value)
		}
		return files, nil
	}
	return nil, fmt.Errorf("render format %q is not known; use one of %s", t.Format, strings.Join(Formats(), ", "))
}

func (t Target) wants(env string) bool { return len(t.Keys) == 0 || slices.Contains(t.Keys, env) }

// accepts gives the lists to add under their own names; none where they are not wanted.
func (t Target) accepts(b client.Bundle) map[string][]string {
	lists := map[string][]string{}
	if !t.Accepts {
		return lists
	}
	for env, list := range b.Accepts {
		if t.wants(env) {
			lists[env+acceptsAfter] = reveal(list)
		}
	}
	return lists
}

func (t Target) object(values map[string]string, b client.Bundle) ([]byte, error) {
	all := map[string]any{}
	for env, v := range values {
		all[env] = v
	}
	for env, list := range t.accepts(b) {
		all[env] = list
	}
	return json.MarshalIndent(all, "", "  ")
}

// arrayText is a JSON array as text, with <, > and & as they are.
func arrayText(list []string) (string, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(list)
	return strings.TrimSpace(out.String()), err
}

func (t Target) bundle(b client.Bundle) ([]byte, error) {
	values, accepts := map[string]string{}, map[string][]string{}
	for env, v := range b.Values {
		if t.wants(env) {
			values[env] = v.Reveal()
		}
	}
	for env, list := range b.Accepts {
		if t.wants(env) {
			accepts[env] = reveal(list)
		}
	}
	return json.MarshalIndent(map[string]any{
		"values": values, "accepts": accepts, "versions": b.Versions, "accept_versions": b.AcceptVersions, "etag": b.Etag,
	}, "", "  ")
}

func reveal(list []key.Value) []string {
	all := make([]string, 0, len(list))
	for _, v := range list {
		all = append(all, v.Reveal())
	}
	return all
}

// plain needs no quotes in any reader of dotenv files.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]*$`)

// dotenv writes NAME=value lines. A value that readers would not all read back the same is refused by name.
func dotenv(values map[string]string) ([]byte, error) {
	var out bytes.Buffer
	for _, env := range slices.Sorted(maps.Keys(values)) {
		value := values[env]
		why := ""
		switch {
		case strings.ContainsAny(value, "\r\n\x00"):
			why = "a line break or NUL"
		case plain.MatchString(value):
		case strings.Contains(value, "${"):
			why = "${, which Python's reader replaces even in quotes"
		case strings.Contains(value, `\\`) || strings.HasSuffix(value, `\`):
			why = `\\, or \ at its end, which Node's and Python's readers take for an escape`
		case !strings.Contains(value, "'"):
			value = "'" + value + "'"
		case !strings.ContainsAny(value, "\"$`\\!"):
			value = `"` + value + `"`
		default:
			why = "both kinds of quotes, or a single quote with $, `, ! or \\"
		}
		if why != "" {
			return nil, fmt.Errorf("%s holds %s: not every reader of dotenv files would read it back; render it as json or files", env, why)
		}
		fmt.Fprintf(&out, "%s=%s\n", env, value)
	}
	return out.Bytes(), nil
}

// writeFile replaces a file if its content, mode or owner differ.
func (t Target) writeFile(path string, content []byte) (bool, error) {
	dir := filepath.Dir(path)
	if err := errors.Join(trusted(dir), replaceable(path)); err != nil {
		return false, err
	}
	if t.same(path, content) {
		return false, nil
	}
	temp, err := os.CreateTemp(dir, t.temp()+"*") // mode 0600 from its first moment
	if err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // gone after the rename
	defer temp.Close()           //nolint:errcheck // closed below where it matters
	if _, err := temp.Write(content); err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	if t.UID >= 0 || t.GID >= 0 {
		if err := temp.Chown(t.UID, t.GID); err != nil {
			return false, fmt.Errorf("giving %s to its owner: %w", path, err)
		}
	}
	if err := temp.Chmod(t.Mode); err != nil {
		return false, fmt.Errorf("setting the mode of %s: %w", path, err)
	}
	if err := errors.Join(temp.Sync(), temp.Close()); err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	return true, syncDir(dir)
}

// same tells whether the file is what it should be. A symbolic link never is.
func (t Target) same(path string, content []byte) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != t.Mode {
		return false
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if t.UID >= 0 && int(stat.Uid) != t.UID || t.GID >= 0 && int(stat.Gid) != t.GID {
			return false
		}
	}
	have, err := os.ReadFile(path)
	return err == nil && bytes.Equal(have, content)
}

// trusted refuses a directory in which somebody else could put a file of theirs in the place of ours.
func trusted(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("directory %s: %w; make it before the sidecar starts", dir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("directory %s is writable by everybody, so that anybody could replace the secrets in it; use one that only the sidecar writes to (chmod o-w)", dir)
	}
	return nil
}

// replaceable refuses a place that holds something else than a file: renaming over a link would cut it silently, and
// writing through it would write wherever it leads.
func replaceable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("writing %s: %w", path, err)
	case info.Mode()&os.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link; name the file that it leads to, or remove the link", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file; remove it, or name another path", path)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // read only
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// Clean removes what a crash left half-written, and makes the directory of Files.
func (t Target) Clean() error {
	dir := t.dir()
	if t.Format == Files {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("making directory %s: %w", dir, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // Write says what is to be done
	}
	if err != nil {
		return fmt.Errorf("looking for what an earlier run left: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), t.temp()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing what an earlier run left: %w", err)
		}
	}
	return nil
}

// temp begins the names of the target's temporary files, and of no other target's in the same directory.
func (t Target) temp() string { return tempPrefix + filepath.Base(t.Path) + "~" }
