// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

const installHelp = `Usage: hyvve-sidecar install FILE [--make-directory=DIRECTORY]

Copies this program to FILE, such as a volume from which a container of any image runs "FILE exec -- COMMAND". The directory is
made if it is missing; what was at FILE is replaced at once, never half.
`

// newInstall returns "hyvve-sidecar install", which copies this program to where another container runs it from.
func newInstall() *cobra.Command {
	var private string
	cmd := usage.New("hyvve-sidecar install", "copy this program to another place, such as a volume that another container runs it from", installHelp, func(_ *cobra.Command, args []string) error {
		self, err := os.Executable()
		if err == nil {
			err = copyProgram(self, args[0])
		}
		if err == nil && private != "" {
			err = makeDirectory(private)
		}
		return err
	})
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 || args[0] == "":
			return usage.Exit{Status: 2, Err: errors.New("where to? Write \"hyvve-sidecar install FILE\"")}
		case len(args) > 1:
			return usage.Wrong(fmt.Errorf("%q is not wanted: one FILE is", args[1]))
		}
		return nil
	}
	cmd.Flags().StringVar(&private, "make-directory", "", "`DIRECTORY` to make besides, which only this user may write to, such as that of its files")
	return cmd
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
