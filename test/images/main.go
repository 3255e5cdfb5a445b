// SPDX-License-Identifier: Apache-2.0

// Command hyvve-images makes container images of static Linux binaries, from scratch and without Docker.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"slices"
	"strings"
	"syscall"
)

const usage = `usage: hyvve-images --name=NAME:TAG [flags] BINARY…

Makes an image of a static Linux binary; of several, one for each architecture, an index of images. An image is made from
scratch and holds the binary (/usr/local/bin/NAME, and /NAME for short), its software bill of materials (SPDX 2.3,
/usr/share/sbom/) and nothing else: no shell, no CA certificates, no user database. It runs as user 65532. The same binary
makes the same image, byte for byte.

Flags:
  --name=NAME:TAG        how the image is called
  --output=FILE          write a Docker archive, as "docker load" and "ctr images import" read it; {arch} in the name stands
                         for the architecture, and must be there if there are several
  --layout=DIRECTORY     write an OCI image layout of all architectures
  --sbom=FILE            write the bill of materials; {arch} as above
  --push=REPOSITORY      push all architectures, with the tag of --name, and their bills of materials as referrers; with the
                         credentials of Docker's configuration
  --user=USER[:GROUP]    numbers; 65532:65532 by default
  --entrypoint=PATH      and more of its words by further --entrypoint; by default the binary, in /usr/local/bin/
  --arch=ARCH            of the given binaries, take that one only: amd64 or arm64
  --file=HOST:PATH       put a file or a directory into the image, readable by everybody; may be given several times
  --env=NAME=VALUE       set a variable; may be given several times

One of --output, --layout, --push is needed. SOURCE_DATE_EPOCH is taken for the time of creation; by default it is that of
the commit that the binary was built from, or else the year 1970.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "hyvve-images: %v\n", err)
		os.Exit(1)
	}
}

// several is a flag that may be given several times.
type several []string

func (s *several) String() string     { return strings.Join(*s, " ") }
func (s *several) Set(v string) error { *s = append(*s, v); return nil }

type options struct {
	name, output, layout, sbom, push, user, arch string
	entrypoint, files, env                       several
	binaries                                     []string
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("hyvve-images", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.StringVar(&o.name, "name", "", "")
	f.StringVar(&o.output, "output", "", "")
	f.StringVar(&o.layout, "layout", "", "")
	f.StringVar(&o.sbom, "sbom", "", "")
	f.StringVar(&o.push, "push", "", "")
	f.StringVar(&o.user, "user", "65532:65532", "")
	f.StringVar(&o.arch, "arch", "", "")
	f.Var(&o.entrypoint, "entrypoint", "")
	f.Var(&o.files, "file", "")
	f.Var(&o.env, "env", "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.binaries = f.Args()
	return o, o.check()
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

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, err = io.WriteString(stdout, usage)
		return err
	}
	if err != nil {
		return fmt.Errorf("%w\nhyvve-images --help lists what there is", err)
	}
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
