// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
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
