// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

const installHelp = `Usage: hyvve-sidecar install FILE [--make-directory=DIRECTORY]

Copies this program to FILE, such as a volume from which a container of any image runs "FILE exec -- COMMAND". The directory is
made if it is missing; what was at FILE is replaced at once, never half.
`

// install is "hyvve-sidecar install", which copies this program to where another container runs it from. It returns the exit status.
func install(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("hyvve-sidecar install", flag.ContinueOnError)
	private := flags.String("make-directory", "", "`DIRECTORY` to make besides, which only this user may write to, such as that of its files")
	to := ""
	if len(args) > 0 && len(args[0]) > 0 && args[0][0] != '-' {
		to, args = args[0], args[1:]
	}
	if ok, status := usage.Parse(flags, args, installHelp, stdout, stderr); !ok {
		return status
	}
	if to == "" {
		_, _ = fmt.Fprintln(stderr, "hyvve-sidecar install: where to? Write \"hyvve-sidecar install FILE\"")
		return 2
	}
	self, err := os.Executable()
	if err == nil {
		err = copyProgram(self, to)
	}
	if err == nil && *private != "" {
		err = makeDirectory(*private)
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "hyvve-sidecar install:", err)
		return 1
	}
	return 0
}

// makeDirectory makes one that only this user may write to, whatever the umask is.
func makeDirectory(path string) error {
	if err := os.Mkdir(path, 0o711); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // files in it are for their readers
		return err
	}
	return os.Chmod(path, 0o711) //nolint:gosec // see above
}

// copyProgram copies a program to a file that everybody may run and nobody may write to.
func copyProgram(from, to string) error {
	source, err := os.Open(from) //nolint:gosec // our own program
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // read only
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a program, which others run
		return err
	}
	if info, err := os.Lstat(to); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is there and no file; name another place", to)
	}
	target, err := os.CreateTemp(dir, ".hyvve-sidecar-")
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	err = errors.Join(err, target.Chmod(0o555), target.Sync(), target.Close())
	if err == nil {
		err = os.Rename(target.Name(), to)
	}
	if err != nil {
		_ = os.Remove(target.Name())
		return fmt.Errorf("copying to %s: %w", to, err)
	}
	return nil
}
