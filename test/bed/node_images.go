// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// pauseImage is what every pod stands on.
const pauseImage = "registry.local/pause:1"

// BuildImage makes an image of a static program by hyvve-images, as the project's own are made, and lets the node have it. It runs the
// program, as user 65532; flags are further ones of hyvve-images. The program is at /usr/local/bin, and for short at /NAME, too.
func (n *Node) BuildImage(ctx context.Context, name, program string, flags ...string) error {
	if err := n.buildImage(ctx, name, program, flags); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return nil
}

func (n *Node) buildImage(ctx context.Context, name, program string, flags []string) error {
	images := Tool("bin", "hyvve-images")
	if !exists(images) {
		return errors.New("no hyvve-images: run make build (make test-k8s does)")
	}
	dir, err := os.MkdirTemp(n.dir, "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it goes with the bed
	archive := filepath.Join(dir, "archive.tar")
	args := append([]string{"--name=" + name, "--output=" + archive}, flags...)
	build := spec{name: "hyvve-images", path: images, args: append(args, program), env: os.Environ(), dir: dir}
	if err := build.run(ctx); err != nil {
		return err
	}
	return n.LoadImage(ctx, archive)
}

// LoadImage lets the node have the images of an archive, one of Docker's or an OCI layout in a tar file.
func (n *Node) LoadImage(ctx context.Context, path string) error {
	return n.ctr(ctx, "images", "import", path)
}
