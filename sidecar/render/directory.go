// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// maxLinks is how many symbolic links a path may lead through, as in the kernel.
const maxLinks = 40

// directory is one that was found to be trustworthy and is held open: whatever happens to its path from then on, files
// are written in this one.
type directory struct {
	file *os.File
	path string
}

// strange reports whether a user is neither we nor root. Tests replace it.
var strange = external.ForeignUser

// openDirectory goes to a directory step by step, each relative to the one before, so that nobody can change the way
// behind its back. Refused are a directory that everybody, or its group, may write to; on the way there, whatever a stranger has put
// into one that everybody, or its group, may write to; and a stranger's symbolic link anywhere. A missing directory is made if wanted.
func openDirectory(path string, make bool) (*directory, error) {
	w := walk{path: path, make: make}
	defer func() { w.close() }()
	if err := w.restart(); err != nil {
		return nil, fmt.Errorf("directory %s: %w", path, err)
	}
	w.rest = components(path)
	for len(w.rest) > 0 {
		name := w.rest[0]
		w.rest = w.rest[1:]
		if err := w.step(name); err != nil {
			return nil, err
		}
	}
	if w.stat.Mode&0o002 != 0 {
		return nil, fmt.Errorf("directory %s is writable by everybody, so that anybody could replace the secrets in it; use one that only the sidecar writes to (chmod o-w)", path)
	}
	if w.stat.Mode&0o020 != 0 && w.stat.Gid != 0 && w.stat.Mode&unix.S_ISVTX == 0 {
		return nil, fmt.Errorf("directory %s is writable by group %d, whose members could replace the secrets in it; use one that only the sidecar writes to (chmod g-w), or set the sticky bit (chmod +t), with which they can replace none", path, w.stat.Gid)
	}
	fd, err := unix.Openat(w.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", path, err)
	}
	return &directory{file: os.NewFile(uintptr(fd), path), path: path}, nil
}

func components(path string) []string {
	return strings.Split(strings.Trim(filepath.ToSlash(path), "/"), "/")
}

// walk is on its way to a directory.
type walk struct {
	path  string
	make  bool
	fd    int // of where it is; opened to go on from, not to read
	at    string
	stat  unix.Stat_t
	rest  []string
	links int
}

func (w *walk) close() {
	if w.fd > 0 {
		_ = unix.Close(w.fd)
	}
	w.fd = 0
}

// restart goes to the root.
func (w *walk) restart() error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.close()
	w.fd, w.at = fd, "/"
	return unix.Fstat(fd, &w.stat)
}

func (w *walk) step(name string) error {
	if name == "" || name == "." {
		return nil
	}
	const how = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(w.fd, name, how, 0)
	if errors.Is(err, unix.ENOENT) && w.make {
		if err = unix.Mkdirat(w.fd, name, 0o711); err == nil || errors.Is(err, unix.EEXIST) {
			fd, err = unix.Openat(w.fd, name, how, 0)
		}
	}
	at := filepath.Join(w.at, name)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "; make it before the sidecar starts, or set make_directory"
		}
		return fmt.Errorf("directory %s: %w%s", w.path, err, hint)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("directory %s: %w", w.path, err)
	}
	link := stat.Mode&unix.S_IFMT == unix.S_IFLNK
	if strange(stat.Uid) && (link || w.open() && name != "..") {
		_ = unix.Close(fd)
		return fmt.Errorf("directory %s: %s belongs to another user (%d), who could lead the secrets elsewhere by it; use a way to the directory that only root and the sidecar can change", w.path, at, stat.Uid)
	}
	if link {
		return w.follow(fd, at)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		_ = unix.Close(fd)
		return fmt.Errorf("%s is not a directory", at)
	}
	w.close()
	w.fd, w.at, w.stat = fd, at, stat
	return nil
}

// open reports whether others than its owner may put something into the directory. Root's group may, as in OpenShift.
func (w *walk) open() bool {
	return w.stat.Mode&0o002 != 0 || w.stat.Mode&0o020 != 0 && w.stat.Gid != 0
}

// follow goes where a link leads, which was found to be ours or root's.
func (w *walk) follow(fd int, at string) error {
	defer unix.Close(fd) //nolint:errcheck // opened for its path only
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if w.links++; err == nil && w.links > maxLinks {
		err = unix.ELOOP
	}
	if err == nil && n > 0 && target[0] == '/' {
		err = w.restart()
	}
	if err != nil {
		return fmt.Errorf("directory %s: following %s: %w", w.path, at, err)
	}
	w.rest = slices.Concat(components(string(target[:n])), w.rest)
	return nil
}

func (d *directory) fd() int { return int(d.file.Fd()) }

func (d *directory) close() { _ = d.file.Close() }

// sync makes changes of the directory outlive a crash of the machine. Not every file system can, or needs to.
func (d *directory) sync() error {
	if err := d.file.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("syncing %s: %w", d.path, err)
	}
	return nil
}

// open never follows a link, and never waits for the writer of a pipe.
func (d *directory) open(name string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(d.path, name), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.path, name)), nil
}

func (d *directory) remove(name string) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: filepath.Join(d.path, name), Err: err}
	}
	return nil
}

func (d *directory) rename(from, to string) error {
	if err := unix.Renameat(d.fd(), from, d.fd(), to); err != nil {
		return &fs.PathError{Op: "rename", Path: filepath.Join(d.path, to), Err: err}
	}
	return nil
}

// has reports whether there is something of that name.
func (d *directory) has(name string) bool {
	var stat unix.Stat_t
	return unix.Fstatat(d.fd(), name, &stat, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// replaceable refuses a place that holds something else than a file: renaming over a link would cut it silently, and
// writing through it would write wherever it leads.
func (d *directory) replaceable(name string) error {
	path := filepath.Join(d.path, name)
	var stat unix.Stat_t
	err := unix.Fstatat(d.fd(), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("writing %s: %w", path, err)
	case stat.Mode&unix.S_IFMT == unix.S_IFLNK:
		return fmt.Errorf("%s is a symbolic link; name the file that it leads to, or remove the link", path)
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%s is not a file; remove it, or name another path", path)
	}
	return nil
}

// inMemory reports whether what is written there reaches no disk, swap aside.
func (d *directory) inMemory() (bool, error) {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(d.fd(), &stat); err != nil {
		return false, fmt.Errorf("looking where %s is: %w", d.path, err)
	}
	return stat.Type == unix.TMPFS_MAGIC || stat.Type == unix.RAMFS_MAGIC, nil
}

// OnDisk returns the directories of targets that are not backed by memory, so that secrets stay on a disk when they are
// long retired. A directory that cannot be looked at is left out: writing to it says why.
func OnDisk(targets []Target) []string {
	var paths []string
	for _, t := range targets {
		dir, err := openDirectory(t.dir(), false)
		if err != nil {
			continue
		}
		if memory, err := dir.inMemory(); err == nil && !memory && !slices.Contains(paths, dir.path) {
			paths = append(paths, dir.path)
		}
		dir.close()
	}
	return paths
}

// plain needs no quotes in any reader of dotenv files.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]*$`)

// dotenv writes NAME=value lines. A value that readers would not all read back the same is refused by name. A value of several
// lines is, too, where it is not said that the reader is of today: npm's dotenv before release 15 takes its first line alone.
func dotenv(set variables.Set, multiline bool) ([]byte, error) {
	return lines(set, multiline, func(value string) (quoted, why string) {
		switch {
		case plain.MatchString(value):
			return value, ""
		case strings.Contains(value, "${"):
			return "", "${, which Python's reader replaces even in quotes"
		case strings.Contains(value, `\\`) || strings.HasSuffix(value, `\`):
			return "", `\\, or \ at its end, which Node's and Python's readers take for an escape`
		case !strings.Contains(value, "'"):
			return "'" + value + "'", ""
		case !strings.ContainsAny(value, "\"$`\\!"):
			return `"` + value + `"`, ""
		}
		return "", "both kinds of quotes, or a single quote with $, `, ! or \\"
	})
}

// maxLine is the longest line that docker reads, and the line break.
const maxLine = 64 << 10

// docker writes what "docker run --env-file" reads. It knows no quotes: what they would stand for is a part of the value.
func docker(set variables.Set) ([]byte, error) {
	return lines(set, false, func(value string) (quoted, why string) {
		if len(value) > maxLine-256 { // for the name
			return "", "more than docker reads from one line"
		}
		return value, ""
	})
}

// lines writes NAME=value with values as quote returns them, or says why one cannot be written.
func lines(set variables.Set, multiline bool, quote func(value string) (quoted, why string)) ([]byte, error) {
	values, err := set.Text()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, env := range slices.Sorted(maps.Keys(values)) {
		value, why := "", ""
		switch {
		case strings.ContainsAny(values[env], "\r\x00") || !multiline && strings.Contains(values[env], "\n"):
			why = "a line break or NUL"
		case !utf8.ValidString(values[env]):
			why = "bytes that are not UTF-8"
		default:
			value, why = quote(values[env])
		}
		if why != "" {
			return nil, fmt.Errorf("%s holds %s: not every reader of the file would read it back; render it as json or files", env, why)
		}
		fmt.Fprintf(&out, "%s=%s\n", env, value)
	}
	return out.Bytes(), nil
}

// Data is what a bundle becomes where it is not written into files: a text by name.
type Data struct {
	Choice variables.Choice
	Fields map[string]Field // empty: each name of the choice by itself
}

// Field is one text: that of a key, or of a template.
type Field struct {
	Key      string
	Template *TextTemplate // nil: of the key
}

// Of makes it of a bundle. No error holds a value.
func (d Data) Of(b client.Bundle) (map[string][]byte, error) {
	set, err := d.Choice.Of(b)
	if err != nil {
		return nil, err
	}
	texts, err := set.Text()
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{}
	if len(d.Fields) == 0 {
		for name, text := range texts {
			data[name] = []byte(text)
		}
		return data, nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.Fields)) {
		f := d.Fields[name]
		if f.Template != nil {
			if data[name], err = f.Template.execute(set, b); err != nil {
				return nil, err
			}
			continue
		}
		text, ok := texts[f.Key]
		if !ok {
			names := slices.Sorted(maps.Keys(texts))
			return nil, fmt.Errorf("data: %s: the bundle has no key %s%s (it has %s)", name, f.Key, usage.DidYouMean(f.Key, names), strings.Join(names, ", "))
		}
		data[name] = []byte(text)
	}
	return data, nil
}
