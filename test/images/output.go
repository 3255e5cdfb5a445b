// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

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
