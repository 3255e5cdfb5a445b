// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tree is what a layer holds: by path, without the first slash. All belongs to root, and all times are 1970.
type tree map[string]entry

type entry struct {
	mode    int64
	content []byte
	link    string // of a symbolic link
	dir     bool
}

// put adds an entry and the directories above it.
func (t tree) put(name string, e entry) error {
	clean := path.Clean("/" + name)
	if !path.IsAbs(name) || clean == "/" || strings.HasSuffix(name, "/") {
		return fmt.Errorf("%q is not the absolute path of a file", name)
	}
	key := clean[1:]
	if old, ok := t[key]; ok && !old.same(e) {
		return fmt.Errorf("%s is in the image twice, and not the same", clean)
	}
	t[key] = e
	for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
		if old, ok := t[dir]; ok && !old.dir {
			return fmt.Errorf("/%s is a file, and %s cannot be below it", dir, clean)
		}
		if _, ok := t[dir]; !ok {
			t[dir] = entry{dir: true, mode: 0o755}
		}
	}
	return nil
}

func (e entry) same(o entry) bool {
	return e.mode == o.mode && e.link == o.link && e.dir == o.dir && bytes.Equal(e.content, o.content)
}

// copy adds what HOST:PATH names, a file or all of a directory. Of modes, only whether they are for programs.
func (t tree) copy(spec string) error {
	host, target, ok := strings.Cut(spec, ":")
	if !ok || host == "" || !path.IsAbs(target) {
		return fmt.Errorf("--file: %q is not HOST:PATH with an absolute path in the image", spec)
	}
	err := filepath.WalkDir(host, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(host, name)
		if err != nil {
			return err
		}
		e, err := read(name, d)
		if err != nil {
			return err
		}
		return t.put(path.Join(target, filepath.ToSlash(below)), e)
	})
	if err != nil {
		return fmt.Errorf("--file=%s: %w", spec, err)
	}
	return nil
}

func read(name string, d fs.DirEntry) (entry, error) {
	info, err := d.Info()
	if err != nil {
		return entry{}, err
	}
	switch {
	case d.IsDir():
		return entry{dir: true, mode: 0o755}, nil
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(name)
		return entry{link: link, mode: 0o777}, err
	case !info.Mode().IsRegular():
		return entry{}, fmt.Errorf("%s is neither a file, a directory nor a symbolic link", name)
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	content, err := os.ReadFile(name)
	return entry{content: content, mode: mode}, err
}

// layer packs the tree, in the order of its names, so that the same tree is the same layer.
func (t tree) layer() (v1.Layer, error) {
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	sort.Strings(names)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		if err := t[name].write(w, name); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

func (e entry) write(w *tar.Writer, name string) error {
	h := &tar.Header{Format: tar.FormatPAX, Name: name, Mode: e.mode, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Size: int64(len(e.content))}
	switch {
	case e.dir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case e.link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
	}
	err := w.WriteHeader(h)
	_, werr := w.Write(e.content)
	return errors.Join(err, werr)
}
