// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// built is the image of one architecture.
type built struct {
	program
	image   v1.Image
	sbom    []byte
	created time.Time
}

func (b built) platform() *v1.Platform { return &v1.Platform{OS: "linux", Architecture: b.arch} }

var numbers = regexp.MustCompile(`^[0-9]{1,9}(:[0-9]{1,9})?$`)

// checkUser wants numbers: there is no /etc/passwd to look names up in, and Kubernetes' runAsNonRoot believes nothing else.
func checkUser(user string) error {
	if !numbers.MatchString(user) {
		return fmt.Errorf("--user: %q is not USER or USER:GROUP in numbers; the image has no names of users", user)
	}
	return nil
}

func (o options) tag() (name.Tag, error) {
	tag, err := name.NewTag(o.name)
	if err != nil {
		return name.Tag{}, fmt.Errorf("--name: %w", err)
	}
	return tag, nil
}

// build makes the image of a program.
func (o options) build(p program) (built, error) {
	tag, err := o.tag()
	if err != nil {
		return built{}, err
	}
	b := built{program: p}
	if b.created, err = p.created(); err != nil {
		return built{}, err
	}
	if b.sbom, err = billOfMaterials(p, tag.TagStr(), b.created); err != nil {
		return built{}, err
	}
	layer, err := o.contents(b)
	if err != nil {
		return built{}, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: b.created}, CreatedBy: "hyvve-images"}})
	if err != nil {
		return built{}, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return built{}, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", p.arch, v1.Time{Time: b.created}
	config.Config = o.config(b, tag.TagStr())
	if b.image, err = mutate.ConfigFile(img, config); err != nil {
		return built{}, err
	}
	return b, nil
}

func (o options) contents(b built) (v1.Layer, error) {
	t := tree{}
	if err := t.put("/usr/local/bin/"+b.name, entry{content: b.content, mode: 0o755}); err != nil {
		return nil, err
	}
	// For short, as the injector names the sidecar where it may not be found by PATH.
	if err := t.put("/"+b.name, entry{link: "/usr/local/bin/" + b.name, mode: 0o777}); err != nil {
		return nil, err
	}
	if err := t.put("/usr/share/sbom/"+b.name+".spdx.json", entry{content: b.sbom, mode: 0o644}); err != nil {
		return nil, err
	}
	for _, spec := range o.files {
		if err := t.copy(spec); err != nil {
			return nil, err
		}
	}
	return t.layer()
}

func (o options) config(b built, version string) v1.Config {
	labels := map[string]string{
		"org.opencontainers.image.title":   b.name,
		"org.opencontainers.image.version": version,
		"org.opencontainers.image.created": b.created.Format(time.RFC3339),
	}
	if revision := b.settings["vcs.revision"]; revision != "" {
		labels["org.opencontainers.image.revision"] = revision
	}
	if b.ours() {
		labels["org.opencontainers.image.licenses"] = "Apache-2.0"
		labels["org.opencontainers.image.vendor"] = "hyvve"
	}
	entrypoint := []string(o.entrypoint)
	if len(entrypoint) == 0 {
		entrypoint = []string{"/usr/local/bin/" + b.name}
	}
	return v1.Config{
		User: o.user, WorkingDir: "/", Entrypoint: entrypoint, Labels: labels,
		Env: append([]string{"PATH=/usr/local/bin"}, o.env...),
	}
}

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

var machines = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

func architectures() []string { return slices.Sorted(maps.Values(machines)) }

// A program is a static Linux binary for one architecture.
type program struct {
	file, name, arch string
	content          []byte
	sum              string            // SHA-256, in hex
	info             *debug.BuildInfo  // nil if it was not built by Go
	settings         map[string]string // of info
}

func readProgram(file string) (program, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return program{}, err
	}
	sum := sha256.Sum256(content)
	p := program{file: file, name: filepath.Base(file), content: content, sum: hex.EncodeToString(sum[:]), settings: map[string]string{}}
	if p.arch, err = architecture(content); err != nil {
		return program{}, fmt.Errorf("%s: %w", file, err)
	}
	if info, err := buildinfo.Read(bytes.NewReader(content)); err == nil {
		p.info = info
		for _, s := range info.Settings {
			p.settings[s.Key] = s.Value
		}
	}
	return p, nil
}

// architecture returns the architecture of a binary that needs nothing but the kernel.
func architecture(content []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return "", fmt.Errorf("is no Linux binary (%w); build it with GOOS=linux", err)
	}
	arch, ok := machines[f.Machine]
	if !ok || f.Class != elf.ELFCLASS64 {
		return "", fmt.Errorf("is for %s; images are made for amd64 and arm64", f.Machine)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return "", fmt.Errorf("is an ELF file of type %s, which cannot be run", f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("is dynamically linked, and an image from scratch has no loader and no libraries; build it with CGO_ENABLED=0")
		}
	}
	return arch, nil
}

// created is the time that the image claims: SOURCE_DATE_EPOCH, the commit's, or the beginning of 1970, but never now.
func (p program) created() (time.Time, error) {
	if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 0 {
			return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds since 1970", text)
		}
		return time.Unix(seconds, 0).UTC(), nil
	}
	if at, err := time.Parse(time.RFC3339, p.settings["vcs.time"]); err == nil {
		return at.UTC(), nil
	}
	return time.Unix(0, 0).UTC(), nil
}
