// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// maxContent is longer than any file of secrets: what is longer is no such file, and would only cost memory.
const maxContent = 16 << 20

// state is the content of all files at a moment. A file that is missing, empty or cannot be read has none: it is not
// there yet, or not written yet.
type state map[string][sha256.Size]byte

// look returns the state, what is wrong with the files that can be read (they may be half-written), and an error if a file
// exists and cannot be read.
func look(paths []string, valid Validator) (s state, invalid, err error) {
	s = state{}
	var wrong, errs []error
	for _, path := range paths {
		data, err := read(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, fmt.Errorf("watching %s: %w", path, err))
		case len(data) > 0:
			s[path] = sha256.Sum256(data)
			if valid == nil {
				continue
			}
			if err := valid(data); err != nil {
				wrong = append(wrong, fmt.Errorf("%s is not acted on: it %w", path, err))
			}
		}
	}
	return s, errors.Join(wrong...), errors.Join(errs...)
}

// read takes no device for a file.
func read(path string) ([]byte, error) {
	return external.ReadFile(path, maxContent, func(_ string, info fs.FileInfo) error {
		if !info.Mode().IsRegular() {
			return errors.New("it is not a file")
		}
		return nil
	})
}

// whole reports whether every file of an earlier state is there.
func (s state) whole(earlier state) bool {
	for path := range earlier {
		if _, ok := s[path]; !ok {
			return false
		}
	}
	return true
}

// Validator tells what shows that content was not written to its end, or is none of the kind that is expected. It says so
// without quoting it; the text continues after "it".
type Validator func(content []byte) error

// Validators by name.
func Validators() map[string]Validator {
	return map[string]Validator{"dotenv": isDotenv, "json": isJSON}
}

func isJSON(content []byte) error {
	if json.Valid(content) {
		return nil
	}
	return errors.New("is not JSON, or not all of it")
}

var assignment = regexp.MustCompile(`^\s*(export\s+)?[A-Za-z_][A-Za-z0-9_.-]*\s*=[ \t]*`)

// isDotenv takes NAME=value lines, comments and empty lines. The last line must have its end, which is what shows that the
// value in it is whole. A value in quotes may go over several lines.
func isDotenv(content []byte) error {
	text := string(content)
	if !strings.HasSuffix(text, "\n") {
		return errors.New("does not end with a line break, so that its last value may lack its end")
	}
	for number := 1; text != ""; {
		line, rest, _ := strings.Cut(text, "\n")
		bare := strings.TrimSpace(line)
		if bare == "" || strings.HasPrefix(bare, "#") {
			text, number = rest, number+1
			continue
		}
		begin := assignment.FindString(line)
		if begin == "" {
			return fmt.Errorf("has no NAME=value in line %d", number)
		}
		value := text[len(begin):]
		if value == "" || !strings.ContainsRune("'\"`", rune(value[0])) {
			text, number = rest, number+1
			continue
		}
		end := closing(value)
		if end < 0 {
			return fmt.Errorf("has a quote without its end in line %d", number)
		}
		number += strings.Count(value[:end], "\n") + 1
		_, text, _ = strings.Cut(value[end:], "\n")
	}
	return nil
}

// closing returns where the quote that a value begins with ends; below 0 where it does not.
func closing(value string) int {
	for n := 1; n < len(value); n++ {
		switch {
		case value[n] == '\\' && value[0] == '"':
			n++
		case value[n] == value[0]:
			return n
		}
	}
	return -1
}
