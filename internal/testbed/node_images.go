// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// pauseImage is what every pod stands on.
const pauseImage = "registry.local/pause:1"

// BuildImage makes an image of static programs, from nothing, and lets the node have it. The first program is what it runs; all are
// in the root directory. Its user is 65532.
func (n *Node) BuildImage(ctx context.Context, name string, programs ...string) error {
	path := filepath.Join(n.dir, strings.NewReplacer("/", "-", ":", "-").Replace(name)+".tar")
	if err := writeImage(path, name, programs); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	if err := n.LoadImage(ctx, path); err != nil {
		return err
	}
	return os.Remove(path)
}

// LoadImage lets the node have the images of an archive.
func (n *Node) LoadImage(ctx context.Context, path string) error {
	return n.ctr(ctx, "images", "import", path)
}

// writeImage writes an archive as "docker save" does, with one layer.
func writeImage(path, name string, programs []string) error {
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	for _, program := range programs {
		content, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		if err := put(files, filepath.Base(program), 0o755, content); err != nil {
			return err
		}
	}
	if err := files.Close(); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + filepath.Base(programs[0])}, "User": "65532:65532"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close() //nolint:errcheck // closed below
	archive := tar.NewWriter(out)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"manifest.json", manifest}, {"config.json", config}, {"layer.tar", layer.Bytes()}} {
		if err := put(archive, f.name, 0o644, f.content); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return out.Close()
}

func put(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
