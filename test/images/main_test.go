// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

// sidecar returns the real sidecar, built as the Makefile does, once for all tests.
func sidecar(t *testing.T, arch string) string {
	t.Helper()
	file, err := sidecars[arch]()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var sidecars = map[string]func() (string, error){}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hyvve-images-")
	if err != nil {
		log.Fatal(err)
	}
	for _, arch := range architectures() {
		sidecars[arch] = sync.OnceValues(func() (string, error) { return compile(filepath.Join(dir, arch), arch) })
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		log.Fatal(err)
	}
	os.Exit(code)
}

func compile(dir, arch string) (string, error) {
	out := filepath.Join(dir, "hyvve-sidecar")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./sidecar/cmd/hyvve-sidecar")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, said)
	}
	return out, nil
}

func ok(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	if status := usage.Run(t.Context(), newCommand(), args, &stdout, &stderr); status != 0 {
		t.Fatalf("hyvve-images %s: status %d: %s", strings.Join(args, " "), status, stderr.String())
	}
	return stdout.String()
}

func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	var stderr strings.Builder
	if status := usage.Run(t.Context(), newCommand(), args, io.Discard, &stderr); status == 0 || !strings.Contains(stderr.String(), want) {
		t.Errorf("hyvve-images %s: status %d: %s; want an error with %q", strings.Join(args, " "), status, stderr.String(), want)
	}
}

func load(t *testing.T, file string) v1.Image {
	t.Helper()
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func config(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// contents reads all files of an image.
func contents(t *testing.T, img v1.Image) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	r := mutate.Extract(img)
	defer func() { _ = r.Close() }()
	headers, files := map[string]*tar.Header{}, map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return headers, files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name := "/" + strings.Trim(h.Name, "/")
		headers[name], files[name] = h, content
	}
}

func TestImageOfTheSidecar(t *testing.T) {
	binary, dir := sidecar(t, "amd64"), t.TempDir()
	file, sbom := filepath.Join(dir, "image.tar"), filepath.Join(dir, "sbom.json")
	ok(t, "--name=hyvve-sidecar:v1", "--output="+file, "--sbom="+sbom, binary)
	img := load(t, file)

	headers, files := contents(t, img)
	var all []string
	for name, h := range headers {
		if h.Typeflag != tar.TypeDir {
			all = append(all, name)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 || h.Typeflag != tar.TypeSymlink && h.Mode&0o022 != 0 {
			t.Errorf("%s: owner %d:%d, mode %o, time %v", name, h.Uid, h.Gid, h.Mode, h.ModTime)
		}
	}
	slices.Sort(all)
	if want := []string{"/hyvve-sidecar", "/usr/local/bin/hyvve-sidecar", "/usr/share/sbom/hyvve-sidecar.spdx.json"}; !slices.Equal(all, want) {
		t.Errorf("files: %v; want %v", all, want)
	}
	want, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(files["/usr/local/bin/hyvve-sidecar"], want) {
		t.Error("the binary in the image is not the one given")
	}
	beside, err := os.ReadFile(sbom)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(files["/usr/share/sbom/hyvve-sidecar.spdx.json"], beside) {
		t.Error("the bill of materials in the image is not the one beside it")
	}
	c := config(t, img)
	if c.OS != "linux" || c.Architecture != "amd64" || c.Config.User != "65532:65532" || !slices.Equal(c.Config.Entrypoint, []string{"/usr/local/bin/hyvve-sidecar"}) {
		t.Errorf("configuration: %s/%s, user %q, entrypoint %q", c.OS, c.Architecture, c.Config.User, c.Config.Entrypoint)
	}
	for label, want := range map[string]string{"title": "hyvve-sidecar", "version": "v1", "licenses": "Apache-2.0"} {
		if got := c.Config.Labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("label %s: %q; want %q", label, got, want)
		}
	}
}

func hostArch(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOHOSTARCH").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// Neither the place nor the hour nor the umask shows in an image.
func TestReproducible(t *testing.T) {
	again, err := compile(t.TempDir(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	first, second := filepath.Join(t.TempDir(), "a.tar"), filepath.Join(t.TempDir(), "b.tar")
	args := func(output, binary string, mode os.FileMode) []string {
		extra := filepath.Join(t.TempDir(), "extra")
		if err := os.WriteFile(extra, []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
		return []string{"--name=hyvve-sidecar:v1", "--output=" + output, "--file=" + extra + ":/etc/extra", binary}
	}
	ok(t, args(first, sidecar(t, "amd64"), 0o600)...)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	ok(t, args(second, again, 0o640)...)
	a, errA := os.ReadFile(first)
	b, errB := os.ReadFile(second)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two images of the same sources, built in two places, differ")
	}
	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	ok(t, args(second, again, 0o600)...)
	if got := config(t, load(t, second)).Created.Unix(); got != 86400 {
		t.Errorf("created at %d; want 86400, of SOURCE_DATE_EPOCH", got)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	refused(t, `SOURCE_DATE_EPOCH: "yesterday" is not`, args(second, again, 0o600)...)
}

func TestBillOfMaterials(t *testing.T) {
	binary, dir := sidecar(t, "amd64"), t.TempDir()
	sbom := filepath.Join(dir, "sbom.json")
	ok(t, "--name=hyvve-sidecar:v1", "--output="+filepath.Join(dir, "image.tar"), "--sbom="+sbom, binary)
	text, err := os.ReadFile(sbom)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	ids, purls := map[string]bool{"SPDXRef-DOCUMENT": true}, map[string]bool{}
	for _, p := range d.Packages {
		if ids[p.SPDXID] {
			t.Errorf("%s is there twice", p.SPDXID)
		}
		ids[p.SPDXID] = true
		for _, r := range p.ExternalRefs {
			purls[r.Locator] = true
		}
	}
	for _, r := range d.Relationships {
		if !ids[r.Element] || !ids[r.Related] {
			t.Errorf("relationship %v: one of the two is no package", r)
		}
	}
	if got := d.Packages[0].Checksums[0]; got.Algorithm != "SHA256" || len(got.Value) != 64 {
		t.Errorf("checksum of the binary: %v", got)
	}
	// What the go command says that is linked in is what must stand there, no more and no less.
	cmd := exec.CommandContext(t.Context(), "go", "version", "-m", binary)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := 0
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "dep" {
			deps++
			if !purls["pkg:golang/"+f[1]+"@"+f[2]] {
				t.Errorf("%s %s is missing", f[1], f[2])
			}
		}
	}
	if deps == 0 || len(purls) != deps+2 {
		t.Errorf("%d packages; want %d modules, the main one and the standard library", len(purls), deps)
	}
}

func TestSeveralArchitectures(t *testing.T) {
	amd, arm, dir := sidecar(t, "amd64"), sidecar(t, "arm64"), t.TempDir()
	lay := filepath.Join(dir, "layout")
	args := []string{"--name=hyvve-sidecar:v1", "--layout=" + lay, "--output=" + filepath.Join(dir, "{arch}.tar"), arm, amd}
	ok(t, args...)
	ok(t, args...) // again, over what is there
	for _, arch := range []string{"amd64", "arm64"} {
		if got := config(t, load(t, filepath.Join(dir, arch+".tar"))).Architecture; got != arch {
			t.Errorf("%s.tar is for %s", arch, got)
		}
	}
	index, err := layout.ImageIndexFromPath(lay)
	if err != nil {
		t.Fatal(err)
	}
	top, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1" {
		t.Fatalf("index of the layout: %+v", top.Manifests)
	}
	inner, err := index.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	platforms(t, inner)

	refused(t, "write {arch}", "--name=x:1", "--output="+filepath.Join(dir, "one.tar"), arm, amd)
	refused(t, "both for amd64", "--name=x:1", "--layout="+lay, amd, amd)
	refused(t, "neither empty nor an OCI image layout", "--name=x:1", "--layout="+dir, amd)
	ok(t, "--name=x:1", "--arch=arm64", "--output="+filepath.Join(dir, "one.tar"), arm, amd)
	if got := config(t, load(t, filepath.Join(dir, "one.tar"))).Architecture; got != "arm64" {
		t.Errorf("--arch=arm64 made one for %s", got)
	}
	refused(t, "none of the binaries", "--name=x:1", "--arch=arm64", "--output="+filepath.Join(dir, "one.tar"), amd)
}

func platforms(t *testing.T, index v1.ImageIndex) *v1.IndexManifest {
	t.Helper()
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range m.Manifests {
		got = append(got, d.Platform.String())
	}
	if !slices.Equal(got, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms: %v", got)
	}
	return m
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true)))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/hyvve/hyvve-sidecar"
	amd, arm := sidecar(t, "amd64"), sidecar(t, "arm64")
	said := ok(t, "--name=hyvve-sidecar:v1", "--push="+repository, amd, arm)

	ref, err := name.NewDigest(strings.TrimSpace(strings.Replace(said, ":v1@", "@", 1)))
	if err != nil {
		t.Fatalf("it said %q: %v", said, err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range platforms(t, index).Manifests {
		referrers, err := remote.Referrers(ref.Digest(d.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		m, err := referrers.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Manifests) != 1 || m.Manifests[0].ArtifactType != "application/spdx+json" {
			t.Fatalf("referrers of %s: %+v", d.Platform, m.Manifests)
		}
		img, err := remote.Image(ref.Digest(d.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		if got := config(t, img).Architecture; got != d.Platform.Architecture {
			t.Errorf("the image for %s is for %s", d.Platform.Architecture, got)
		}
		_, files := contents(t, img)
		artifact, err := remote.Image(ref.Digest(m.Manifests[0].Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		layers, err := artifact.Layers()
		if err != nil {
			t.Fatal(err)
		}
		r, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		sbom, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(sbom, files["/usr/share/sbom/hyvve-sidecar.spdx.json"]) {
			t.Errorf("the bill of materials of %s, %d bytes, is not the one in the image (%v)", d.Platform, len(sbom), err)
		}
	}
	if tagged, err := remote.Index(ref.Tag("v1")); err != nil {
		t.Error(err)
	} else if got, err := tagged.Digest(); err != nil || got.String() != ref.DigestStr() {
		t.Errorf("v1 is %v (%v); want %s", got, err, ref.DigestStr())
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	short := newCommand()
	short.SetArgs([]string{"--name=x:1", "--push=" + repository, amd})
	if err := short.ExecuteContext(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a push that was cut short: %v", err)
	}
}

func TestFilesAndWords(t *testing.T) {
	dir, binary := t.TempDir(), sidecar(t, "amd64")
	extra := filepath.Join(dir, "extra")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(extra, "sub"), 0o700),
		os.WriteFile(filepath.Join(extra, "sub", "tool"), []byte("tool"), 0o700),
		os.WriteFile(filepath.Join(extra, "plain"), []byte("plain"), 0o600),
		os.Symlink("plain", filepath.Join(extra, "link")),
	); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "image.tar")
	ok(t, "--name=api:1", "--output="+file, "--user=1000", "--file="+extra+":/opt/x", "--file="+filepath.Join(extra, "plain")+":/etc/plain",
		"--entrypoint=/opt/x/sub/tool", "--entrypoint=serve", "--env=A=b=c", binary)
	img := load(t, file)
	headers, files := contents(t, img)
	if h := headers["/opt/x/sub/tool"]; h == nil || h.Mode != 0o755 || string(files["/opt/x/sub/tool"]) != "tool" {
		t.Errorf("/opt/x/sub/tool: %+v", h)
	}
	if h := headers["/opt/x/link"]; h == nil || h.Typeflag != tar.TypeSymlink || h.Linkname != "plain" {
		t.Errorf("/opt/x/link: %+v", h)
	}
	if h := headers["/etc/plain"]; h == nil || h.Mode != 0o644 || string(files["/etc/plain"]) != "plain" {
		t.Errorf("/etc/plain: %+v", h)
	}
	c := config(t, img).Config
	if c.User != "1000" || !slices.Equal(c.Entrypoint, []string{"/opt/x/sub/tool", "serve"}) || !slices.Contains(c.Env, "A=b=c") {
		t.Errorf("configuration: %+v", c)
	}
	refused(t, "is in the image twice", "--name=api:1", "--output="+file, "--file="+filepath.Join(extra, "plain")+":/usr/local/bin/hyvve-sidecar", binary)
	ok(t, "--name=api:1", "--output="+file, "--file="+binary+":/usr/local/bin/hyvve-sidecar", binary) // the same
	refused(t, "is a file, and /etc/a/b cannot be below it", "--name=api:1", "--output="+file, "--file="+binary+":/etc/a", "--file="+binary+":/etc/a/b", binary)
}

func TestRefused(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	refused(t, "no such file", "--name=x:1", "--output=x.tar", "/nowhere")
	refused(t, "is no Linux binary", "--name=x:1", "--output=x.tar", text)
	refused(t, "is dynamically linked", "--name=x:1", "--output=x.tar", "/bin/true")
	refused(t, "--name is missing", "--output=x.tar", text)
	refused(t, "--name: ", "--name=UPPER CASE", "--output=x.tar", sidecar(t, "amd64"))
	refused(t, "nothing would come of it", "--name=x:1", text)
	refused(t, "no binary is named", "--name=x:1", "--output=x.tar")
	refused(t, "is none of amd64, arm64", "--name=x:1", "--output=x.tar", "--arch=mips", text)
	refused(t, "in numbers", "--name=x:1", "--output=x.tar", "--user=nobody", text)
	refused(t, "is not NAME=VALUE", "--name=x:1", "--output=x.tar", "--env=A", text)
	refused(t, "does not begin with /", "--name=x:1", "--output=x.tar", "--entrypoint=sh", text)
	refused(t, "is not HOST:PATH", "--name=x:1", "--output=x.tar", "--file=a", sidecar(t, "amd64"))
	refused(t, "flag --nmae is not known; did you mean --name?", "--nmae=x:1")
	if said := ok(t, "--help"); !strings.HasPrefix(said, help) || !strings.Contains(said, "--env=NAME=VALUE ") || strings.Contains(said, "[]") {
		t.Errorf("--help says %q", said)
	}
}
