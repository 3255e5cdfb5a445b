// SPDX-License-Identifier: Apache-2.0

// Package credential reads what the sidecar shows to a workload to be let in, from a file. It is read each time that it is
// needed, so that it may change.
package credential

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"unicode"
)

// most is how long a credential may be.
const most = 64 << 10

// Read gives the one line that a file holds. Its content stands in no error.
func Read(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // does not wait for whoever writes into a pipe
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return "", fmt.Errorf("%s has mode %04o, which lets every user at it; make it 0600, or 0640 with a group", path, mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(data), "\r\n")
	switch {
	case text == "":
		err = errors.New("is empty")
	case len(data) > most:
		err = fmt.Errorf("holds more than %d bytes", most)
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
