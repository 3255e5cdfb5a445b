// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const spdxMediaType types.MediaType = "application/spdx+json"

func (o options) write(ctx context.Context, images []built, stdout io.Writer) error {
	tag, err := o.tag()
	if err != nil {
		return err
	}
	for _, b := range images {
		if o.output != "" {
			file := strings.ReplaceAll(o.output, "{arch}", b.arch)
			if err := replace(file, func(w io.Writer) error { return tarball.Write(tag, b.image, w) }); err != nil {
				return fmt.Errorf("--output: %w", err)
			}
			fmt.Fprintf(stdout, "%s for %s: %s\n", o.name, b.arch, file)
		}
		if o.sbom != "" {
			file := strings.ReplaceAll(o.sbom, "{arch}", b.arch)
			if err := replace(file, func(w io.Writer) error { _, err := w.Write(b.sbom); return err }); err != nil {
				return fmt.Errorf("--sbom: %w", err)
			}
		}
	}
	index := indexOf(images)
	if o.layout != "" {
		if err := writeLayout(o.layout, tag, index); err != nil {
			return fmt.Errorf("--layout: %w", err)
		}
		fmt.Fprintf(stdout, "%s: %s\n", o.name, o.layout)
	}
	if o.push != "" {
		pushed, err := o.pushAll(ctx, tag, index, images)
		if err != nil {
			return fmt.Errorf("--push: %w", err)
		}
		fmt.Fprintf(stdout, "%s\n", pushed)
	}
	return nil
}

func indexOf(images []built) v1.ImageIndex {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: b.image, Descriptor: v1.Descriptor{Platform: b.platform()}})
	}
	return index
}

// replace writes a file beside its place and renames it, so that it is the old one or the new one, whole.
func replace(file string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// writeLayout makes the directory again. It refuses one that is something else.
func writeLayout(dir string, tag name.Tag, index v1.ImageIndex) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
			return fmt.Errorf("%s is neither empty nor an OCI image layout; name another directory", dir)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	path, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	return path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.TagStr(),
		"io.containerd.image.name":          tag.String(),
	}))
}

// pushAll pushes the bills of materials last, since they refer to the images. It returns the digest to pin.
func (o options) pushAll(ctx context.Context, tag name.Tag, index v1.ImageIndex, images []built) (string, error) {
	repository, err := name.NewRepository(o.push)
	if err != nil {
		return "", err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	target := repository.Tag(tag.TagStr())
	if err := remote.WriteIndex(target, index, options...); err != nil {
		return "", err
	}
	for _, b := range images {
		sbom, err := referrer(b)
		if err != nil {
			return "", err
		}
		digest, err := sbom.Digest()
		if err != nil {
			return "", err
		}
		if err := remote.Write(repository.Digest(digest.String()), sbom, options...); err != nil {
			return "", fmt.Errorf("the image is pushed, its bill of materials for %s is not: %w", b.arch, err)
		}
	}
	digest, err := index.Digest()
	if err != nil {
		return "", err
	}
	return target.String() + "@" + digest.String(), nil
}

// referrer is the bill of materials as an artifact that says of which image it is: by the type of its configuration, as
// version 1.1 of the OCI image specification has it.
func referrer(b built) (v1.Image, error) {
	subject, err := partial.Descriptor(b.image)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), spdxMediaType)
	artifact, err := mutate.AppendLayers(base, static.NewLayer(bytes.Clone(b.sbom), spdxMediaType))
	if err != nil {
		return nil, err
	}
	img, ok := mutate.Subject(artifact, *subject).(v1.Image)
	if !ok {
		return nil, errors.New("the image with a subject is no image any more") // mutate returns the type of its argument
	}
	return img, nil
}

const ourModule = "github.com/hyvve/vault-plugin-secrets-hyvve"

func (p program) ours() bool { return p.info != nil && p.info.Main.Path == ourModule }

// The documents of SPDX 2.3: https://spdx.github.io/spdx-spec/v2.3/
type document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      creation       `json:"creationInfo"`
	Packages          []spdxPackage  `json:"packages"`
	Relationships     []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	SPDXID           string      `json:"SPDXID"`
	Name             string      `json:"name"`
	VersionInfo      string      `json:"versionInfo,omitempty"`
	PackageFileName  string      `json:"packageFileName,omitempty"`
	DownloadLocation string      `json:"downloadLocation"`
	FilesAnalyzed    bool        `json:"filesAnalyzed"`
	Checksums        []checksum  `json:"checksums,omitempty"`
	LicenseConcluded string      `json:"licenseConcluded"`
	LicenseDeclared  string      `json:"licenseDeclared"`
	CopyrightText    string      `json:"copyrightText"`
	Comment          string      `json:"comment,omitempty"`
	PrimaryPurpose   string      `json:"primaryPackagePurpose,omitempty"`
	ExternalRefs     []reference `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

// billOfMaterials says what a binary was linked from, by what the Go linker has written into it. Of a binary that Go has not
// built it says what is known, which is its checksum.
func billOfMaterials(p program, version string, created time.Time) ([]byte, error) {
	license := "NOASSERTION"
	if p.ours() {
		license = "Apache-2.0"
	}
	root := spdxPackage{
		SPDXID: "SPDXRef-binary", Name: p.name, VersionInfo: version, PackageFileName: "/usr/local/bin/" + p.name, PrimaryPurpose: "APPLICATION",
		Checksums: []checksum{{Algorithm: "SHA256", Value: p.sum}}, Comment: p.provenance(),
	}
	d := document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", Name: p.name + "-" + p.arch,
		// Unique, and the same for the same binary and version.
		DocumentNamespace: "https://hyvve.app/spdx/" + url.PathEscape(p.name) + "/" + url.PathEscape(version) + "/" + p.sum,
		CreationInfo:      creation{Created: created.Format(time.RFC3339), Creators: []string{"Tool: hyvve-images"}},
		Packages:          []spdxPackage{root.with(license)},
		Relationships:     []relationship{{Element: "SPDXRef-DOCUMENT", Type: "DESCRIBES", Related: root.SPDXID}},
	}
	if p.info != nil {
		d.add(standardLibrary(p.info).with("BSD-3-Clause"))
		if main := p.info.Main; main.Path != "" {
			d.add(modulePackage(main).with(license))
		}
		for _, m := range p.info.Deps {
			d.add(modulePackage(*m).with("NOASSERTION"))
		}
	}
	text, err := json.MarshalIndent(d, "", "  ")
	return append(text, '\n'), err
}

func (d *document) add(p spdxPackage) {
	d.Packages = append(d.Packages, p)
	d.Relationships = append(d.Relationships, relationship{Element: "SPDXRef-binary", Type: "CONTAINS", Related: p.SPDXID})
}

// with sets the licence, and what SPDX wants said even if nothing is known.
func (p spdxPackage) with(license string) spdxPackage {
	p.DownloadLocation, p.CopyrightText = "NOASSERTION", "NOASSERTION"
	p.LicenseConcluded, p.LicenseDeclared = license, license
	return p
}

func (p program) provenance() string {
	if p.info == nil {
		return "Not built by Go: what it was linked from is not known."
	}
	words := []string{"GOARCH=" + p.arch}
	for _, name := range []string{"-tags", "CGO_ENABLED", "vcs.revision", "vcs.time", "vcs.modified"} {
		if v := p.settings[name]; v != "" {
			words = append(words, name+"="+v)
		}
	}
	return "Built by " + p.info.GoVersion + ": " + strings.Join(words, " ")
}

var noID = regexp.MustCompile(`[^A-Za-z0-9.-]`)

func modulePackage(m debug.Module) spdxPackage {
	p := spdxPackage{SPDXID: "SPDXRef-module-" + noID.ReplaceAllString(m.Path, "-"), PrimaryPurpose: "LIBRARY"}
	if m.Replace != nil {
		p.Comment = fmt.Sprintf("In place of %s %s. ", m.Path, m.Version)
		m = *m.Replace
	}
	p.Name, p.VersionInfo = m.Path, m.Version
	if m.Sum != "" {
		p.Comment += "Checksum, as in go.sum: " + m.Sum
	}
	locator := "pkg:golang/" + m.Path
	if m.Version != "" && m.Version != "(devel)" {
		locator += "@" + url.QueryEscape(m.Version)
	}
	p.ExternalRefs = []reference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: locator}}
	return p
}

func standardLibrary(info *debug.BuildInfo) spdxPackage {
	// "go1.26.1 X:experiment" is a version, too.
	version, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	return spdxPackage{
		SPDXID: "SPDXRef-module-stdlib", Name: "stdlib", VersionInfo: version, PrimaryPurpose: "LIBRARY",
		ExternalRefs: []reference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: "pkg:golang/stdlib@" + version}},
	}
}
