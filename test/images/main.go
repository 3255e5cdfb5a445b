// SPDX-License-Identifier: Apache-2.0

// Command hyvve-images makes container images of static Linux binaries, from scratch and without Docker.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
)

const help = `Usage: hyvve-images --name=NAME:TAG [flags] BINARY…

Makes an image of a static Linux binary; of several, one for each architecture, an index of images. An image is made from
scratch and holds the binary (/usr/local/bin/NAME, and /NAME for short), its software bill of materials (SPDX 2.3,
/usr/share/sbom/) and nothing else: no shell, no CA certificates, no user database. It runs as user 65532. The same binary
makes the same image, byte for byte.

One of --output, --layout, --push is needed. --entrypoint, --file and --env may be given several times. The variable
SOURCE_DATE_EPOCH sets the time of creation. Default: that of the commit that the binary was built from, or else the year 1970.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := usage.Run(ctx, newCommand(), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

type options struct {
	name, output, layout, sbom, push, user, arch string
	entrypoint, files, env                       []string
	binaries                                     []string
}

func newCommand() *cobra.Command {
	var o options
	cmd := usage.New("hyvve-images", "", help, func(cmd *cobra.Command, args []string) error {
		o.binaries = args
		if err := o.check(); err != nil {
			return usage.Wrong(err)
		}
		return o.run(cmd.Context(), cmd.OutOrStdout())
	})
	cmd.Args = cobra.ArbitraryArgs
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.name, "name", "", "the image's `NAME:TAG`")
	f.StringVar(&o.output, "output", "", "write a Docker archive for docker load and ctr images import to `FILE`, in which {arch} stands for the architecture")
	f.StringVar(&o.layout, "layout", "", "write an OCI image layout of all architectures to `DIRECTORY`")
	f.StringVar(&o.sbom, "sbom", "", "write the bill of materials to `FILE`; {arch} as above")
	f.StringVar(&o.push, "push", "", "push all architectures to `REPOSITORY`, with the tag of --name, bills of materials as referrers, and Docker's credentials")
	f.StringVar(&o.user, "user", "65532:65532", "run as `USER[:GROUP]`, in numbers")
	f.StringArrayVar(&o.entrypoint, "entrypoint", nil, "start `PATH`, with the words of further --entrypoint; without it the binary")
	f.StringVar(&o.arch, "arch", "", "of the binaries, use that for `ARCH` alone: amd64 or arm64")
	f.StringArrayVar(&o.files, "file", nil, "copy a file or a directory, as `HOST:PATH`, readable by everybody")
	f.StringArrayVar(&o.env, "env", nil, "set a variable, as `NAME=VALUE`")
	return usage.WithVersion(cmd, version.Version)
}

func (o options) check() error {
	var errs []error
	if o.name == "" {
		errs = append(errs, errors.New("--name is missing; say how the image is called, as in --name=hyvve-sidecar:v1"))
	}
	if o.output == "" && o.layout == "" && o.push == "" {
		errs = append(errs, errors.New("nothing would come of it: give --output, --layout or --push"))
	}
	if len(o.binaries) == 0 {
		errs = append(errs, errors.New("no binary is named; give the path of one, after the flags"))
	}
	if o.arch != "" && !slices.Contains(architectures(), o.arch) {
		errs = append(errs, fmt.Errorf("--arch: %q is none of %s", o.arch, strings.Join(architectures(), ", ")))
	}
	if err := checkUser(o.user); err != nil {
		errs = append(errs, err)
	}
	for _, e := range o.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			errs = append(errs, fmt.Errorf("--env: %q is not NAME=VALUE", e))
		}
	}
	for _, word := range o.entrypoint {
		if word == "" {
			errs = append(errs, errors.New("--entrypoint is empty; leave it out for the binary"))
		}
	}
	if len(o.entrypoint) > 0 && o.entrypoint[0] != "" && !path.IsAbs(o.entrypoint[0]) {
		errs = append(errs, fmt.Errorf("--entrypoint: %q does not begin with /, and there is no shell to look for it", o.entrypoint[0]))
	}
	return errors.Join(errs...)
}

func (o options) run(ctx context.Context, stdout io.Writer) error {
	programs, err := o.programs()
	if err != nil {
		return err
	}
	var images []built
	for _, p := range programs {
		b, err := o.build(p)
		if err != nil {
			return err
		}
		images = append(images, b)
	}
	return o.write(ctx, images, stdout)
}

// programs reads what the binaries are, and leaves those of --arch.
func (o options) programs() ([]program, error) {
	var all []program
	seen := map[string]string{}
	for _, file := range o.binaries {
		p, err := readProgram(file)
		if err != nil {
			return nil, err
		}
		if o.arch != "" && p.arch != o.arch {
			continue
		}
		if other, ok := seen[p.arch]; ok {
			return nil, fmt.Errorf("%s and %s are both for %s; an image has one binary for each architecture", other, file, p.arch)
		}
		if len(all) > 0 && all[0].name != p.name {
			return nil, fmt.Errorf("%s and %s have different names; an image is of one program, whatever the architecture", all[0].file, file)
		}
		seen[p.arch] = file
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("--arch=%s: none of the binaries is for it", o.arch)
	}
	slices.SortFunc(all, func(a, b program) int { return strings.Compare(a.arch, b.arch) })
	for flag, pattern := range map[string]string{"--output": o.output, "--sbom": o.sbom} {
		if pattern != "" && len(all) > 1 && !strings.Contains(pattern, "{arch}") {
			return nil, fmt.Errorf("%s=%s: there are several architectures; write {arch} where the name of each should stand, or choose one by --arch", flag, pattern)
		}
	}
	return all, nil
}
