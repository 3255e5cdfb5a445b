// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
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
