// SPDX-License-Identifier: Apache-2.0

// Package credential reads secrets from files: what the sidecar shows to Vault, to databases and to workloads to be let in. They are
// read each time that they are needed, so that they may change. Whose files they may be is decided here alone.
package credential

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unicode"
)

// most is how long a credential may be.
const most = 64 << 10

// Strange reports whether a user is neither we nor root.
func Strange(uid uint32) bool { return uid != 0 && int(uid) != os.Geteuid() }

// CheckSecret refuses a file that others than its group can read, or that others than its owner can change.
func CheckSecret(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return fmt.Errorf("%s has mode %04o, which lets every user at it; make it 0600, or 0640 with a group (of a Kubernetes Secret: defaultMode: 0440)", path, mode)
	}
	return CheckOwned(path, info)
}

// CheckOwned refuses what is no regular file, and one that others than root and we can change: who writes it decides what the
// sidecar does. Root's group may, as in OpenShift, where all users of a container have it.
func CheckOwned(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case mode&0o002 != 0 || mode&0o020 != 0 && (!ok || stat.Gid != 0):
		return fmt.Errorf("%s has mode %04o, so that others than its owner can change it; chmod go-w it", path, mode)
	case ok && Strange(stat.Uid):
		return fmt.Errorf("%s belongs to user %d, who could change it; chown it to root, or to the sidecar's user (%d)", path, stat.Uid, os.Geteuid())
	}
	return nil
}

// ReadFile reads a secret file that CheckSecret takes, of at most 64 KiB.
func ReadFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names it; it does not wait for a writer of a pipe
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := CheckSecret(path, info); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s holds more than %d bytes; write the credential into it", path, most)
	}
	return data, err
}

// Read gives the one line that a file holds. Its content stands in no error.
func Read(path string) (string, error) {
	data, err := ReadFile(path)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(data), "\r\n")
	switch {
	case text == "":
		err = errors.New("is empty")
	case strings.ContainsFunc(text, unicode.IsControl):
		err = errors.New("holds more than one line, or control characters")
	}
	if err != nil {
		return "", fmt.Errorf("%s %w; write the credential into it, in one line", path, err)
	}
	return text, nil
}

// ReadBasic gives the user and the password of a file that holds both as "user:password".
func ReadBasic(path string) (user, password string, err error) {
	text, err := Read(path)
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" || password == "" {
		return "", "", fmt.Errorf("%s does not hold user:password", path)
	}
	return user, password, nil
}
