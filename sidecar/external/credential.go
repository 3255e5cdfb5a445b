// SPDX-License-Identifier: Apache-2.0

package external

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

// maxCredential is how many bytes a credential may have: what the sidecar presents to Vault, to databases and to workloads. It is
// read from its file at each use, since it may change.
const maxCredential = 64 << 10

// ForeignUser reports whether a user is neither root nor the sidecar's.
func ForeignUser(uid uint32) bool { return uid != 0 && int(uid) != os.Geteuid() }

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
	case ok && ForeignUser(stat.Uid):
		return fmt.Errorf("%s belongs to user %d, who could change it; chown it to root, or to the sidecar's user (%d)", path, stat.Uid, os.Geteuid())
	}
	return nil
}

// ReadFile reads a file that check accepts, of at most limit bytes. It does not wait for the writer of a pipe.
func ReadFile(path string, limit int, check func(path string, info fs.FileInfo) error) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err == nil {
		err = check(path, info)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("%s holds more than %d bytes; is it the right file?", path, limit)
	}
	return data, err
}

// ReadCredentialFile reads a secret file that [CheckSecret] accepts, of at most 64 KiB.
func ReadCredentialFile(path string) ([]byte, error) {
	return ReadFile(path, maxCredential, CheckSecret)
}

// ReadCredential returns the one line that a file holds. No error contains it.
func ReadCredential(path string) (string, error) {
	data, err := ReadCredentialFile(path)
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

// ReadBasic returns the user and the password in a file that holds both as "user:password".
func ReadBasic(path string) (user, password string, err error) {
	text, err := ReadCredential(path)
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" || password == "" {
		return "", "", fmt.Errorf("%s does not hold user:password", path)
	}
	return user, password, nil
}
